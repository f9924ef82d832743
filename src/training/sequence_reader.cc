#include "training/sequence_reader.h"

#include <algorithm>

#include "ring/attention_work.h"
#include "ringwise/mask.h"

namespace ringwise {
SequenceReader::SequenceReader(const TokenStream& stream, int64_t context, uint64_t seed,
                               Layout layout, int ring_size, int ring_rank)
    : stream_(stream), sampler_(stream.tokens(), context, seed), ring_rank_(ring_rank) {
  for (int rank = 0; rank < ring_size; ++rank) {
    positions_.push_back(ShardPositions(layout, context, ring_size, rank));
  }
  const Mask causal = {.causal = true};
  attention_work_ = ComputeAttentionWork(causal, 1, 1, positions_, positions_).largest_over_mean;
}

TokenBatch SequenceReader::Read(int64_t first, int64_t batch) {
  const Positions& mine = positions_[ring_rank_];
  const int64_t rows = Count(mine);
  tokens_.resize(static_cast<size_t>(batch * rows));
  targets_.resize(tokens_.size());
  const std::span<int32_t> tokens(tokens_);
  const std::span<int32_t> targets(targets_);
  int64_t at = 0;
  for (int64_t sequence = 0; sequence < batch; ++sequence) {
    const int64_t begin = sampler_.Begin(first + sequence);
    for (const PositionRun& run : mine) {
      stream_.Read(begin + run.start, run.stride, tokens.subspan(at, run.count));
      stream_.Read(begin + run.start + 1, run.stride, targets.subspan(at, run.count));
      at += run.count;
    }
  }
  target_bytes_ = static_cast<int64_t>(targets_.size()) -
                  std::count(targets_.begin(), targets_.end(), kSeparatorToken);
  return {.batch = batch, .tokens = tokens_, .targets = targets_, .positions = positions_};
}

}  // namespace ringwise
