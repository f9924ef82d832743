#pragma once

#include <cstdint>
#include <vector>

#include "ringwise/corpus.h"
#include "ringwise/layout.h"
#include "ringwise/llama.h"

namespace ringwise {

// One rank's rows of the sequences a step trains on, read from the stream without the others'.
class SequenceReader {
 public:
  // The rows of rank `ring_rank` of sequences of `context` tokens cut by `layout` over a ring.
  // `stream` must outlive this. Throws UsageError if it is shorter than context + 1.
  SequenceReader(const TokenStream& stream, int64_t context, uint64_t seed, Layout layout,
                 int ring_size, int ring_rank);

  // Sequences first, first + 1, ... of the data order, `batch` of them. The spans in the result
  // live until the next call.
  TokenBatch Read(int64_t first, int64_t batch);
  // Of the last batch: targets that are bytes, not separators.
  int64_t target_bytes() const { return target_bytes_; }

  // Pairs of (query, key) that the busiest rank works on, over the mean of the ranks.
  double attention_work() const { return attention_work_; }

 private:
  const TokenStream& stream_;
  ContextSampler sampler_;
  std::vector<Positions> positions_;
  int ring_rank_;
  double attention_work_ = 1;
  std::vector<int32_t> tokens_;
  std::vector<int32_t> targets_;
  int64_t target_bytes_ = 0;
};

}  // namespace ringwise
