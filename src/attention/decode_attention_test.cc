#include "attention/decode_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "attention/attention_oracle.h"
#include "ringwise/error.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

struct Result {
  std::vector<float> output;
  std::vector<float> logsumexp;
};

struct Case {
  DecodeShape shape;
  int64_t count = 0;
  float size = 1;  // of the queries
};

Tensor RandomTensor(MemoryMeter& meter, DType dtype, const Shape& shape, uint64_t stream,
                    float size) {
  Tensor tensor(meter, MemoryCategory::kWorkspace, dtype, shape);
  Random random(11, stream);
  DispatchDType(dtype, [&]<class T>(T) {
    for (int64_t i = 0; i < tensor.elements(); ++i) tensor.data<T>()[i] = T(size * random.Normal());
  });
  return tensor;
}

Result Decode(const Case& decode_case, int threads, int shards, ConstTensorView query,
              ConstTensorView key, ConstTensorView value) {
  ThreadTeam team(threads);
  MemoryMeter meter;
  Context context{team, meter};
  const DecodeShape& shape = decode_case.shape;
  const auto heads = static_cast<size_t>(shape.heads);
  const auto width = static_cast<size_t>(shape.head_dim);
  const auto run = [&](const Range& range, std::vector<float>& output, std::vector<float>& max,
                       std::vector<float>& sum) {
    output.assign(heads * width, NAN);
    max.assign(heads, NAN);
    sum.assign(heads, NAN);
    const PartialAttention partial{output.data(), max.data(), sum.data(), shape.heads,
                                   shape.head_dim};
    DecodeAttention attention(context, shape);
    attention.Attend(query.data<float>(), key.Slice(0, range.begin, range.size()),
                     value.Slice(0, range.begin, range.size()), partial);
    return partial;
  };
  std::vector<float> output, max, sum, shard_output, shard_max, shard_sum;
  const PartialAttention whole = run(SplitRange(decode_case.count, shards, 0), output, max, sum);
  for (int shard = 1; shard < shards; ++shard) {
    Merge(run(SplitRange(decode_case.count, shards, shard), shard_output, shard_max, shard_sum),
          whole);
  }
  Result result{output, {}};
  for (size_t head = 0; head < heads; ++head) {
    const RowResult row = Normalise(max[head], sum[head]);
    result.logsumexp.push_back(row.logsumexp);
    for (size_t i = 0; i < width; ++i) {
      float& element = result.output[head * width + i];
      element = row.factor == 0 ? 0 : element * row.factor;
    }
  }
  return result;
}

std::vector<double> Doubles(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

TEST(DecodeAttention, MatchesTheOracle) {
  const std::vector<Case> cases{
      {{1, 1, 1, DType::kF32, {}}, 1, 1},      {{4, 2, 64, DType::kF32, {}}, 1023, 1},
      {{6, 2, 80, DType::kF32, {}}, 513, 3},   {{3, 1, 7, DType::kF32, 0.7}, 512, 1},
      {{8, 8, 128, DType::kF32, {}}, 113, 30}, {{2, 1, 256, DType::kF32, 0.0}, 2000, 1},
      {{4, 2, 64, DType::kBF16, {}}, 1023, 1}, {{5, 5, 33, DType::kBF16, {}}, 700, 3},
      {{4, 4, 24, DType::kBF16, {}}, 2, 1},
  };
  for (const Case& decode_case : cases) {
    const DecodeShape& shape = decode_case.shape;
    SCOPED_TRACE(testing::Message()
                 << shape.heads << "/" << shape.kv_heads << " x " << shape.head_dim << " "
                 << Name(shape.dtype) << " over " << decode_case.count);
    MemoryMeter meter;
    const Tensor query =
        RandomTensor(meter, DType::kF32, {1, 1, shape.heads, shape.head_dim}, 0, decode_case.size);
    const Shape cached{decode_case.count, shape.kv_heads, shape.head_dim};
    const Tensor key = RandomTensor(meter, shape.dtype, cached, 1, 1);
    const Tensor value = RandomTensor(meter, shape.dtype, cached, 2, 1);

    const auto batched = [&](const Tensor& tensor) {
      return ConstTensorView(tensor.view().memory, shape.dtype,
                             {1, decode_case.count, shape.kv_heads, shape.head_dim});
    };
    AttentionCase attention_case;
    attention_case.options.scale = shape.scale;
    attention_case.options.mask.causal = true;
    attention_case.query_positions = {{decode_case.count - 1, 1, 1}};
    attention_case.key_positions = {{0, decode_case.count, 1}};
    attention_case.query = query.view();
    attention_case.key = batched(key);
    attention_case.value = batched(value);
    const AttentionOracle oracle = ComputeAttentionOracle(attention_case);

    // A bf16 cache is an input like any other: the arithmetic is f32 all the same.
    Result first;
    for (const int shards : {1, 2, 3, 5}) {
      for (const int threads : {1, 2}) {
        const Result result =
            Decode(decode_case, threads, shards, query.view(), key.view(), value.view());
        EXPECT_LE(LargestError(Doubles(result.output), oracle.output),
                  1e-5 * LargestMagnitude(oracle.output));
        EXPECT_LE(LargestError(Doubles(result.logsumexp), oracle.logsumexp),
                  1e-5 * LargestMagnitude(oracle.logsumexp));
        if (shards == 1) {
          if (threads == 1) first = result;
          EXPECT_EQ(result.output, first.output) << "the team must not matter";
        }
      }
    }
  }
}

TEST(DecodeAttention, AnEmptyCacheGivesNothing) {
  MemoryMeter meter;
  const Case decode_case{{2, 1, 8, DType::kF32, {}}, 0, 1};
  const Tensor query = RandomTensor(meter, DType::kF32, {1, 1, 2, 8}, 0, 1);
  const Tensor cache(meter, MemoryCategory::kWorkspace, DType::kF32, {0, 1, 8});
  const Result result = Decode(decode_case, 1, 2, query.view(), cache.view(), cache.view());
  EXPECT_EQ(result.output, std::vector<float>(16, 0.0f));
  EXPECT_EQ(result.logsumexp, std::vector<float>(2, -std::numeric_limits<float>::infinity()));
}

TEST(DecodeAttention, WrongShapes) {
  MemoryMeter meter;
  const Case decode_case{{2, 1, 8, DType::kF32, {}}, 4, 1};
  const Tensor query = RandomTensor(meter, DType::kF32, {1, 1, 2, 8}, 0, 1);
  const Tensor cache = RandomTensor(meter, DType::kF32, {4, 1, 8}, 0, 1);
  const Tensor wide = RandomTensor(meter, DType::kF32, {4, 2, 8}, 0, 1);
  const Tensor half = RandomTensor(meter, DType::kBF16, {4, 1, 8}, 0, 1);
  EXPECT_THROW(Decode(decode_case, 1, 1, query.view(), wide.view(), wide.view()), ShapeError);
  EXPECT_THROW(Decode(decode_case, 1, 1, query.view(), half.view(), cache.view()), ShapeError);
}

}  // namespace
}  // namespace ringwise
