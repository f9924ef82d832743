#include "ringwise/evaluate.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "inference/document_map.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

// Short windows are taken several at a time, up to so many tokens a forward pass: enough rows for
// fast matrix products. A function of the context alone, for the batch decides the last bits.
constexpr int64_t kTokensAtOnce = 8192;

// Windows begin, begin + length, ..., `count` of them, this rank's rows of each.
class WindowReader {
 public:
  WindowReader(const TokenStream& stream, bool hides_documents)
      : stream_(stream), hides_documents_(hides_documents) {}

  TokenBatch Read(int64_t begin, int64_t length, int64_t count, std::vector<Positions> positions,
                  int ring_rank) {
    const Positions& mine = positions[static_cast<size_t>(ring_rank)];
    tokens_.resize(static_cast<size_t>(count * Count(mine)));
    targets_.resize(tokens_.size());
    std::vector<int64_t> begins;
    size_t at = 0;
    for (int64_t window = 0; window < count; ++window) {
      begins.push_back(begin + window * length);
      for (const PositionRun& run : mine) {
        const auto size = static_cast<size_t>(run.count);
        const int64_t first = begins.back() + run.start;
        stream_.Read(first, run.stride, std::span(tokens_).subspan(at, size));
        stream_.Read(first + 1, run.stride, std::span(targets_).subspan(at, size));
        at += size;
      }
    }
    TokenBatch batch{count, tokens_, targets_, std::move(positions)};
    if (hides_documents_) batch.documents = DocumentMap(stream_, begins, length);
    return batch;
  }

 private:
  const TokenStream& stream_;
  bool hides_documents_;
  std::vector<int32_t> tokens_;
  std::vector<int32_t> targets_;
};

void Check(const Llama& model, const TokenStream& stream, const EvaluateOptions& options) {
  if (options.context < 1) {
    throw UsageError(fmt::format("the context must be at least 1, got {}", options.context));
  }
  if (stream.tokens() < 2 || options.max_tokens < 1) {
    throw UsageError("nothing to evaluate: fewer than two tokens of text");
  }
  if (model.config().vocab < kByteVocab) {
    throw UsageError(fmt::format(
        "the model has a vocabulary of {}, text read as bytes needs at least {}: was it trained "
        "with the byte tokenizer?",
        model.config().vocab, kByteVocab));
  }
}

}  // namespace

Evaluation Evaluate(Rank& rank, Llama& model, const TokenStream& stream,
                    const EvaluateOptions& options) {
  Check(model, stream, options);
  const int64_t predicted = std::min(stream.tokens() - 1, options.max_tokens);
  const int64_t context = std::min(options.context, predicted);
  const int64_t windows_at_once = std::max<int64_t>(1, kTokensAtOnce / context);
  const double rope_theta = options.rope_theta.value_or(model.config().rope_theta);
  const int groups = rank.data_parallel.size();

  WindowReader reader(stream, options.document_mask);
  double nats = 0;
  int64_t tokens = 0;
  int64_t bytes = 0;
  int64_t turn = 0;
  for (int64_t begin = 0; begin < predicted; ++turn) {
    // Whole windows, then what is left as a shorter one.
    const int64_t length = std::min(context, predicted - begin);
    const int64_t count = std::min(windows_at_once, (predicted - begin) / length);
    if (turn % groups == rank.data_parallel.rank()) {
      std::vector<Positions> positions;
      positions.reserve(static_cast<size_t>(rank.ring.size()));
      for (int member = 0; member < rank.ring.size(); ++member) {
        positions.push_back(ShardPositions(options.layout, length, rank.ring.size(), member));
      }
      const TokenBatch batch =
          reader.Read(begin, length, count, std::move(positions), rank.ring.rank());
      const LossSum loss = model.Forward(rank.ring, batch, rope_theta);
      nats += loss.nats;
      tokens += loss.tokens;
      bytes +=
          loss.tokens - std::count(batch.targets.begin(), batch.targets.end(), kSeparatorToken);
    }
    begin += length * count;
    if (options.progress && rank.world.rank() == 0) options.progress(begin, predicted);
  }
  std::array<double, 3> sums{nats, static_cast<double>(tokens), static_cast<double>(bytes)};
  rank.world.AllReduceSum(std::span<double>(sums));
  Evaluation result;
  result.tokens = static_cast<int64_t>(sums[1]);
  result.bytes = static_cast<int64_t>(sums[2]);
  result.loss = sums[0] / sums[1];
  result.bits_per_byte = sums[0] / std::log(2.0) / std::max(sums[2], 1.0);
  return result;
}

}  // namespace ringwise
