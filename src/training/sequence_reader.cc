#include "training/sequence_reader.h"

#include <algorithm>

#include "ringwise/mask.h"

namespace ringwise {
namespace {

double AttentionWork(const std::vector<Positions>& positions) {
  const Mask causal = {.causal = true};
  double largest = 0;
  double sum = 0;
  for (const Positions& queries : positions) {
    double pairs = 0;
    for (const Positions& keys : positions) {
      pairs += static_cast<double>(CountVisible(causal, queries, keys));
    }
    largest = std::max(largest, pairs);
    sum += pairs;
  }
  return sum > 0 ? largest / (sum / static_cast<double>(positions.size())) : 1;
}

}  // namespace

SequenceReader::SequenceReader(const TokenStream& stream, int64_t context, uint64_t seed,
                               Layout layout, int ring_size, int ring_rank)
    : stream_(stream), sampler_(stream.tokens(), context, seed), ring_rank_(ring_rank) {
  for (int rank = 0; rank < ring_size; ++rank) {
    positions_.push_back(ShardPositions(layout, context, ring_size, rank));
  }
  attention_work_ = AttentionWork(positions_);
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
