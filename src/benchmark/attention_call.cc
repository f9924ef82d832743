#include "benchmark/attention_call.h"

#include <cmath>

#include "ringwise/random.h"

namespace ringwise {

void FillByPosition(Context& context, Tensor& tensor, const Positions& positions,
                    AttentionTensor which) {
  constexpr uint64_t kSeed = 20231;
  const Shape& shape = tensor.shape();
  const int64_t row_elements = shape[2] * shape[3];
  context.team.ForEach(shape[0] * shape[1], [&](int64_t index, int) {
    const int64_t row = index % shape[1];
    const auto position = static_cast<uint64_t>(At(positions, row) + (index / shape[1] << 40));
    Random random(kSeed, position * 4 + static_cast<uint64_t>(which));
    DispatchDType(tensor.dtype(), [&]<class T>(T) {
      T* out = tensor.data<T>() + index * row_elements;
      for (int64_t i = 0; i < row_elements; ++i) {
        // Variance 1 at a fraction of a normal number's cost.
        out[i] = T(static_cast<float>((2 * random.Uniform() - 1) * std::sqrt(3.0)));
      }
    });
  });
}

AttentionCall::AttentionCall(Context& context, Communicator& ring, const AttentionProblem& problem)
    : context_(context), ring_(ring), direction_(problem.direction) {
  options_.mask = MaskOf(problem);
  const int ranks = ring.size();
  for (int r = 0; r < ranks; ++r) {
    options_.query_positions.push_back(
        ShardPositions(problem.layout, problem.seq, ranks, r, problem.kv_seq - problem.seq));
    options_.key_positions.push_back(ShardPositions(problem.layout, problem.kv_seq, ranks, r));
  }
  const Positions& queries = options_.query_positions[ring.rank()];
  const Positions& keys = options_.key_positions[ring.rank()];
  const Shape query_shape = {problem.batch, Count(queries), problem.heads, problem.head_dim};
  const Shape key_shape = {problem.batch, Count(keys), problem.kv_heads, problem.head_dim};
  const auto make = [&](DType dtype, const Shape& shape) {
    return Tensor(context.meter, MemoryCategory::kActivations, dtype, shape);
  };
  query_ = make(problem.dtype, query_shape);
  key_ = make(problem.dtype, key_shape);
  value_ = make(problem.dtype, key_shape);
  output_ = make(problem.dtype, query_shape);
  logsumexp_ = make(DType::kF32, {problem.batch, problem.heads, Count(queries)});
  FillByPosition(context, query_, queries, AttentionTensor::kQuery);
  FillByPosition(context, key_, keys, AttentionTensor::kKey);
  FillByPosition(context, value_, keys, AttentionTensor::kValue);
  if (direction_ == Direction::kForward) return;
  output_gradient_ = make(problem.dtype, query_shape);
  query_gradient_ = make(problem.dtype, query_shape);
  key_gradient_ = make(problem.dtype, key_shape);
  value_gradient_ = make(problem.dtype, key_shape);
  FillByPosition(context, output_gradient_, queries, AttentionTensor::kOutputGradient);
  if (direction_ == Direction::kBackward) Forward();
}

void AttentionCall::Run() {
  tiles_ = 0;
  if (direction_ != Direction::kBackward) tiles_ += Forward().tiles;
  if (direction_ != Direction::kForward) tiles_ += Backward().tiles;
}

AttentionStats AttentionCall::Forward() {
  return RingAttentionForward(context_, ring_, options_,
                              {query_.view(), key_.view(), value_.view()},
                              {output_.view(), logsumexp_.view()});
}

AttentionStats AttentionCall::Backward() {
  return RingAttentionBackward(
      context_, ring_, options_, {query_.view(), key_.view(), value_.view()},
      {output_.view(), logsumexp_.view(), output_gradient_.view()},
      {query_gradient_.view(), key_gradient_.view(), value_gradient_.view()});
}

}  // namespace ringwise
