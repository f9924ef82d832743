#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>

#include "ringwise/corpus.h"
#include "ringwise/launch.h"
#include "ringwise/layout.h"
#include "ringwise/llama.h"

namespace ringwise {

struct EvaluateOptions {
  int64_t context = 0;  // tokens a window
  Layout layout = Layout::kZigzag;
  int64_t max_tokens =
      std::numeric_limits<int64_t>::max();  // predicted at most: the stream's first
  std::optional<double> rope_theta;         // default: the model's
  bool document_mask = false;               // documents in one window do not see each other
  // Called on rank 0 of the world after each forward pass; may be empty.
  std::function<void(int64_t tokens_done, int64_t tokens_in_all)> progress;
};

struct Evaluation {
  double loss = 0;           // nats a predicted token
  double bits_per_byte = 0;  // nats / ln 2 / bytes: what predicting separators costs is included,
                             // but they count as no byte (as in OrderTwoBitsPerByte)
  int64_t tokens = 0;        // predicted: all but the stream's first
  int64_t bytes = 0;         // predicted tokens that are no separator
};

// Loss of `model` on `stream`, cut into windows of `context` tokens one after another; a window
// sees nothing before itself, and the last may be shorter. Windows go to the data-parallel groups
// in turn, and each is cut over a ring. The same on every rank; the same bits every time on the
// same mesh. A collective call of the whole world. Throws UsageError: a stream of fewer than two
// tokens, a context below 1, a model whose vocabulary lacks the byte tokens.
Evaluation Evaluate(Rank& rank, Llama& model, const TokenStream& stream,
                    const EvaluateOptions& options);

}  // namespace ringwise
