#include "ring/travelling_blocks.h"

#include <algorithm>

#include "attention/tiling.h"

namespace ringwise {

TravellingBlocks::TravellingBlocks(Context& context, Communicator& ring, const RingPlan& plan,
                                   const std::function<int64_t(int64_t rows)>& block_bytes,
                                   const PackBlock& pack)
    : ring_(ring), plan_(plan), block_bytes_(block_bytes), here_(plan.steps() + 2) {
  constexpr int64_t kAlignment = 64;
  std::array<int64_t, 2> sizes = {0, 0};
  std::vector<std::vector<Range>> bytes(here_.size());
  for (int step = 0; step <= plan.steps(); ++step) {
    int64_t size = 0;
    for (const Route& route : plan.routes()) {
      if (plan.StepAt(route, ring.rank()) != step || route.last_use < step) continue;
      const bool again = step == 0 && !here_[0].empty() &&
                         here_[0].back().route->block == route.block;  // the other direction
      const int64_t begin = again ? bytes[0].back().begin : size;
      here_[step].push_back({&route, {}});
      if (step > 0 && ring.shares_memory()) continue;
      bytes[step].push_back({begin, begin + block_bytes(route.rows.size())});
      size = std::max(size, RoundUp(bytes[step].back().end, kAlignment));
    }
    sizes[step % 2] = std::max(sizes[step % 2], size);
  }
  for (int b = 0; b < 2; ++b) {
    buffers_[b] = LentBuffer(context.meter, MemoryCategory::kRingBuffers, sizes[b]);
  }
  for (size_t step = 0; step < here_.size(); ++step) {
    for (size_t i = 0; i < bytes[step].size(); ++i) {
      const Range& range = bytes[step][i];
      here_[step][i].shared = buffers_[step % 2].Share(range.begin, range.size());
    }
  }
  if (here_[0].empty()) return;
  const TraceSpan span(context.trace, TraceKind::kCompute, "pack");
  const std::byte* packed = nullptr;
  for (const Here& own : here_[0]) {
    if (own.block().data() != packed) pack(own.route->rows, own.block());
    packed = own.block().data();
  }
}

void TravellingBlocks::Post(int step) {
  step_ = step;
  for (Here& next : here_[step + 1]) {
    const auto bytes = static_cast<size_t>(block_bytes_(next.route->rows.size()));
    transfers_.push_back(ring_.ReceiveShared(next.shared, bytes, plan_.RankAt(*next.route, step),
                                             TagOf(kBlockTag, *next.route)));
  }
  for (const Here& here : At(step)) {
    if (!here.route->Moves(step)) continue;
    transfers_.push_back(ring_.SendShared(here.shared, plan_.RankAt(*here.route, step + 1),
                                          TagOf(kBlockTag, *here.route)));
  }
}

void TravellingBlocks::Wait() {
  for (Communicator::TransferPtr& transfer : transfers_) ring_.Wait(transfer);
  transfers_.clear();
  for (Here& used : here_[step_]) used.shared = {};
}

}  // namespace ringwise
