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
  struct Options {
    int64_t context = 0;  // tokens a sequence
    uint64_t seed = 0;    // of the data order
    Layout layout = Layout::kZigzag;
    int ring_size = 1;
    int ring_rank = 0;             // whose rows to read
    bool hides_documents = false;  // packed documents do not see each other
  };

  // `stream` must outlive this. Throws UsageError if it is shorter than context + 1.
  SequenceReader(const TokenStream& stream, const Options& options);

  // Sequences first, first + 1, ... of the data order, `batch` of them, without dropout. The spans
  // in the result live until the next call.
  TokenBatch Read(int64_t first, int64_t batch);
  // Of the last batch: targets that are bytes, not separators.
  int64_t target_bytes() const { return target_bytes_; }

 private:
  const TokenStream& stream_;
  const Options options_;
  ContextSampler sampler_;
  std::vector<Positions> positions_;
  std::vector<int32_t> tokens_;
  std::vector<int32_t> targets_;
  int64_t target_bytes_ = 0;
};

}  // namespace ringwise
