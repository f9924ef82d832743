#include "transformer/words_seen.h"

#include <algorithm>

#include "transformer/classifier_parameters.h"

namespace ringwise {
namespace {

constexpr int32_t kPadding = 0;
constexpr int64_t kLineFloats = 16;

std::span<float> Values(const Tensor& tensor) {
  return {tensor.data<float>(), static_cast<size_t>(tensor.elements())};
}

// body(token, document, columns) for every word of this rank, in order, by every thread for its own
// columns: what it sums is then summed in the words' order.
template <class Body>
void ForEachWord(Context& context, const PackedShard& shard, std::span<const int32_t> tokens,
                 int64_t width, Body&& body) {
  context.team.Run([&](int thread) {
    const Range columns = SplitRange(width, context.team.size(), thread, kLineFloats);
    for (size_t row = 0; row < tokens.size(); ++row) {
      if (tokens[row] != kPadding) body(tokens[row], shard.document_of_row[row], columns);
    }
  });
}

}  // namespace

WordsSeen::WordsSeen(Context& context, const ClassifierConfig& config)
    : context_(context),
      config_(config),
      gemm_(context),
      parameters_(MakeClassifierParameters(context.meter, config)),
      words_(parameters_[0]),
      words_bias_(parameters_[1]),
      second_(gemm_, parameters_[2], parameters_[3], DType::kF32),
      head_(gemm_, parameters_[4], parameters_[5]) {}

void WordsSeen::Initialize(uint64_t seed) {
  InitializeClassifier(context_, parameters_, 1, seed);
  ParametersChanged();
}

void WordsSeen::ParametersChanged() {
  second_.WeightsChanged();
  head_.WeightsChanged();
}

Tensor WordsSeen::Layer(int64_t documents) const {
  return {context_.meter, MemoryCategory::kActivations, DType::kF32, {documents, config_.hidden}};
}

WordsSeen::Hidden WordsSeen::Forward(const PackedShard& shard, const DocumentBatch& batch) {
  CheckTokens(batch.tokens, shard.rows(), config_.vocab, 0);
  const int64_t documents = std::ssize(shard.documents);
  Hidden hidden{Layer(documents), Layer(documents)};
  hidden.first.Zero();
  const TensorView first = hidden.first.view();
  ForEachWord(context_, shard, batch.tokens, config_.hidden,
              [&](int32_t token, int64_t document, Range columns) {
                const float* const from = words_.value.data<float>() + token * config_.hidden;
                float* const to = first.at<float>(document);
                for (int64_t j = columns.begin; j < columns.end; ++j) to[j] += from[j];
              });
  shard.ring().AllReduceSum(Values(hidden.first));
  AddBiasRelu(context_, Values(words_bias_.value), first);
  second_.ForwardRelu(first, hidden.second.view());
  return hidden;
}

void WordsSeen::Logits(Communicator& ring, const DocumentBatch& batch, TensorView logits) {
  const PackedShard shard = MakePackedShard(ring, batch, 0, false);
  head_.Logits(Forward(shard, batch).second.view(), logits);
}

ClassSum WordsSeen::ForwardBackward(Communicator& ring, const DocumentBatch& batch,
                                    float gradient_scale) {
  const PackedShard shard = MakePackedShard(ring, batch, 0, true);
  CheckLabels(batch, config_.classes);
  const Hidden hidden = Forward(shard, batch);
  // Every rank has all of the hidden layers; the first one's words are each rank's own.
  const bool counts = ring.rank() == 0;
  Tensor gradient = Layer(std::ssize(shard.documents));
  Tensor first_gradient = Layer(std::ssize(shard.documents));
  const ClassSum sum = head_.ForwardBackward(hidden.second.view(), batch.labels, counts,
                                             gradient_scale, gradient.view());
  ReluBackward(context_, hidden.second.view(), gradient.view());
  if (counts) second_.BackwardWeights(gradient.view(), hidden.first.view());
  second_.BackwardInput(gradient.view(), first_gradient.view());
  ReluBackward(context_, hidden.first.view(), first_gradient.view());
  if (counts) AddColumnSums(context_, first_gradient.view(), Values(words_bias_.gradient));
  const TensorView changes = first_gradient.view();
  ForEachWord(context_, shard, batch.tokens, config_.hidden,
              [&](int32_t token, int64_t document, Range columns) {
                const float* const from = changes.at<float>(document);
                float* const to = words_.gradient.data<float>() + token * config_.hidden;
                for (int64_t j = columns.begin; j < columns.end; ++j) to[j] += from[j];
              });
  return sum;
}

}  // namespace ringwise
