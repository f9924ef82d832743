#include "training/sequence_reader.h"

#include <algorithm>

#include "inference/document_map.h"

namespace ringwise {

SequenceReader::SequenceReader(const TokenStream& stream, const Options& options)
    : stream_(stream), options_(options), sampler_(stream.tokens(), options.context, options.seed) {
  for (int rank = 0; rank < options.ring_size; ++rank) {
    positions_.push_back(ShardPositions(options.layout, options.context, options.ring_size, rank));
  }
}

TokenBatch SequenceReader::Read(int64_t first, int64_t batch) {
  const Positions& mine = positions_[options_.ring_rank];
  const int64_t rows = Count(mine);
  tokens_.resize(static_cast<size_t>(batch * rows));
  targets_.resize(tokens_.size());
  const std::span<int32_t> tokens(tokens_);
  const std::span<int32_t> targets(targets_);
  std::vector<int64_t> begins;
  int64_t at = 0;
  for (int64_t sequence = 0; sequence < batch; ++sequence) {
    const int64_t begin = begins.emplace_back(sampler_.Begin(first + sequence));
    for (const PositionRun& run : mine) {
      stream_.Read(begin + run.start, run.stride, tokens.subspan(at, run.count));
      stream_.Read(begin + run.start + 1, run.stride, targets.subspan(at, run.count));
      at += run.count;
    }
  }
  target_bytes_ = static_cast<int64_t>(targets_.size()) -
                  std::count(targets_.begin(), targets_.end(), kSeparatorToken);
  TokenBatch result{
      .batch = batch, .tokens = tokens_, .targets = targets_, .positions = positions_};
  if (options_.hides_documents) {
    result.documents = DocumentMap(stream_, begins, options_.context);
  }
  return result;
}

}  // namespace ringwise
