#include "ring/travelling_gradients.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace ringwise {

size_t TravellingGradients::Bytes(const Route& route) const {
  return static_cast<size_t>(shard_.BytesOf(route.rows.size()).gradient);
}

TravellingGradients::Gradient TravellingGradients::Make(const Route& route) {
  const size_t bytes = Bytes(route);
  const auto fits = std::find_if(free_.begin(), free_.end(),
                                 [&](const LentBuffer& buffer) { return buffer.size() >= bytes; });
  Gradient gradient{&route, {}, {}, {}};
  if (fits != free_.end()) {
    gradient.buffer = std::move(*fits);
    free_.erase(fits);
  } else {
    free_.clear();  // too short, all of them
    gradient.buffer = LentBuffer(context_.meter, MemoryCategory::kRingBuffers, bytes);
  }
  gradient.shared = gradient.buffer.Share(0, bytes);
  return gradient;
}

void TravellingGradients::Receive(const Route& route, int step, RingTag tag,
                                  std::list<Gradient>& among) {
  Gradient& gradient =
      among.emplace_back(ring_.shares_memory() ? Gradient{&route, {}, {}, {}} : Make(route));
  gradient.transfer = ring_.ReceiveShared(gradient.shared, Bytes(route), plan_.RankAt(route, step),
                                          TagOf(tag, route));
}

TravellingGradients::Gradient TravellingGradients::Received(std::list<Gradient>& among,
                                                            const Route& route) {
  const auto found = std::find_if(among.begin(), among.end(),
                                  [&](const Gradient& g) { return g.route == &route; });
  assert(found != among.end());
  ring_.Wait(found->transfer);
  Gradient gradient = std::move(*found);
  among.erase(found);
  return gradient;
}

void TravellingGradients::Release(Gradient gradient) {
  if (gradient.buffer.size() == 0) return;  // another rank's
  std::vector<LentBuffer>& to = ring_.shares_memory() ? lent_ : free_;
  to.push_back(std::move(gradient.buffer));
}

void TravellingGradients::Begin(int step, int block) {
  for (const TravellingBlocks::Here& own : blocks_.At(0)) {
    const Route& route = *own.route;
    if (route.block != block || route.last_use != step - 1) continue;
    Gradient home = Received(coming_home_, route);
    const TraceSpan span(context_.trace, TraceKind::kCompute, "add gradient",
                         {{"block", route.origin}});
    shard_.AddGradient(route.rows, home.shared.bytes);
    Release(std::move(home));
  }
  if (step > plan_.steps()) return;
  for (const TravellingBlocks::Here& next : blocks_.At(step + 1)) {
    const Route& route = *next.route;
    if (route.block != block || !route.GradientLeaves(step)) continue;
    Receive(route, step, kGradientTag, arriving_);
  }
  for (const TravellingBlocks::Here& own : blocks_.At(0)) {
    const Route& route = *own.route;
    if (route.block != block || route.last_use != step) continue;
    Receive(route, step, kHomeTag, coming_home_);
  }
}

std::span<std::byte> TravellingGradients::Take(const Route& route, int step) {
  assert(taken_.route == nullptr);
  if (route.GradientLeaves(step - 1)) {
    taken_ = Received(arriving_, route);
    return taken_.shared.bytes;
  }
  taken_ = Make(route);
  const std::span<std::byte> bytes = taken_.shared.bytes;
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
      ring_.SendShared(leaving_.back().shared, moves ? plan_.RankAt(route, step + 1) : route.origin,
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
