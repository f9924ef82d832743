#include "ring/travelling_gradients.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace ringwise {

TravellingGradients::Gradient TravellingGradients::Make(const Route& route) {
  const auto bytes = static_cast<size_t>(shard_.BytesOf(route.rows.size()).gradient);
  const auto fits = std::find_if(free_.begin(), free_.end(),
                                 [&](const Buffer& buffer) { return buffer.size() >= bytes; });
  Gradient gradient{&route, {}, {}};
  if (fits != free_.end()) {
    gradient.buffer = std::move(*fits);
    free_.erase(fits);
  } else {
    free_.clear();  // too short, all of them
    gradient.buffer = Buffer(context_.meter, MemoryCategory::kRingBuffers, bytes);
  }
  return gradient;
}

std::span<std::byte> TravellingGradients::BytesOf(const Gradient& gradient) const {
  return gradient.buffer.bytes().first(shard_.BytesOf(gradient.route->rows.size()).gradient);
}

TravellingGradients::Gradient TravellingGradients::Find(std::vector<Gradient>& among,
                                                        const Route& route) const {
  const auto found = std::find_if(among.begin(), among.end(),
                                  [&](const Gradient& g) { return g.route == &route; });
  if (found == among.end()) return {};
  Gradient gradient = std::move(*found);
  among.erase(found);
  return gradient;
}

void TravellingGradients::Release(Gradient gradient) {
  free_.push_back(std::move(gradient.buffer));
}

void TravellingGradients::Begin(int step, int block) {
  for (const TravellingBlocks::Here& own : blocks_.At(0)) {
    const Route& route = *own.route;
    if (route.block != block || route.last_use != step - 1) continue;
    Gradient home = Find(coming_home_, route);
    ring_.Wait(home.transfer);
    const TraceSpan span(context_.trace, TraceKind::kCompute, "add gradient",
                         {{"block", route.origin}});
    shard_.AddGradient(route.rows, BytesOf(home));
    Release(std::move(home));
  }
  if (step > plan_.steps()) return;
  for (const TravellingBlocks::Here& next : blocks_.At(step + 1)) {
    const Route& route = *next.route;
    if (route.block != block || !route.GradientLeaves(step)) continue;
    arriving_.push_back(Make(route));
    arriving_.back().transfer = ring_.Receive(BytesOf(arriving_.back()), plan_.RankAt(route, step),
                                              TagOf(kGradientTag, route));
  }
  for (const TravellingBlocks::Here& own : blocks_.At(0)) {
    const Route& route = *own.route;
    if (route.block != block || route.last_use != step) continue;
    coming_home_.push_back(Make(route));
    coming_home_.back().transfer = ring_.Receive(BytesOf(coming_home_.back()),
                                                 plan_.RankAt(route, step), TagOf(kHomeTag, route));
  }
}

std::span<std::byte> TravellingGradients::Take(const Route& route, int step) {
  assert(taken_.route == nullptr);
  if (route.GradientLeaves(step - 1)) {
    taken_ = Find(arriving_, route);
    ring_.Wait(taken_.transfer);
    return BytesOf(taken_);
  }
  taken_ = Make(route);
  const std::span<std::byte> bytes = BytesOf(taken_);
  context_.team.Run([&](int thread) {
    const Range part = SplitRange(std::ssize(bytes), context_.team.size(), thread, 4096);
    if (part.size() > 0) std::memset(bytes.data() + part.begin, 0, part.size());
  });
  return bytes;
}

void TravellingGradients::Leave(const Route& route, int step) {
  assert(taken_.route == &route);
  const bool moves = route.Moves(step);
  leaving_.push_back(std::exchange(taken_, {}));
  leaving_.back().transfer =
      ring_.Send(BytesOf(leaving_.back()), moves ? plan_.RankAt(route, step + 1) : route.origin,
                 TagOf(moves ? kGradientTag : kHomeTag, route));
}

void TravellingGradients::End() {
  for (Gradient& gradient : left_) {
    ring_.Wait(gradient.transfer);
    Release(std::move(gradient));
  }
  left_ = std::exchange(leaving_, {});
}

}  // namespace ringwise
