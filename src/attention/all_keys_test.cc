#include "attention/all_keys.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "attention/shard_case.h"

namespace ringwise {
namespace {

struct Results {
  std::vector<float> output, logsumexp;
  int64_t tiles = 0;
  int64_t working = 0;  // bytes, at the highest
};

template <class Attend>
Results Run(const ShardCase& c, int threads, const Attend& attend) {
  MemoryMeter meter;
  ThreadTeam team(threads);
  Context context{team, meter};
  const Shape shape = {c.batch, c.q_len(), c.heads, c.shape().value_dim};
  Results results{.output = std::vector<float>(shape.elements(), NAN),
                  .logsumexp = std::vector<float>(c.batch * c.heads * c.q_len(), NAN)};
  const AttentionOutputs outputs{
      TensorView(results.output.data(), DType::kF32, shape),
      TensorView(results.logsumexp.data(), DType::kF32, {c.batch, c.heads, c.q_len()})};
  results.tiles = attend(context, outputs).tiles;
  results.working = meter.peak().working;
  return results;
}

Results AllKeys(const ShardCase& c, const ShardInputs& inputs, int threads) {
  return Run(c, threads, [&](Context& context, const AttentionOutputs& outputs) {
    return AttendAllKeys(context, c.shape(), OptionsOf(c, inputs),
                         {inputs.query, inputs.key, inputs.value}, c.queries, c.keys(), outputs);
  });
}

Results OneBlock(const ShardCase& c, const ShardInputs& inputs, int threads) {
  return Run(c, threads, [&](Context& context, const AttentionOutputs& outputs) {
    const auto shard = MakeShardAttentionForward(context, c.shape(), OptionsOf(c, inputs),
                                                 inputs.query, c.queries, outputs);
    const Buffer block(context.meter, MemoryCategory::kRingBuffers,
                       static_cast<size_t>(shard->BlockBytes(Count(c.keys()))));
    shard->Pack(inputs.key, inputs.value, c.keys(), block.bytes());
    shard->Attend(block.bytes(), c.keys(), {});
    shard->Finish();
    return shard->stats();
  });
}

TEST(AllKeys, TheBitsOfOneBlock) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    ShardCase c;  // has more pairs of a sequence and a kv_head than are attended at once
    c.batch = 5;
    c.heads = 8;
    c.kv_heads = 2;
    c.dtype = dtype;
    c.queries = {{0, 600, 1}};
    c.key_blocks = {{{100, 4070, 1}}};
    c.options.mask.causal = dtype == DType::kF32;  // the first rows see nothing
    c.sinks = true;
    SCOPED_TRACE(c.ToString());
    const ShardInputs inputs(c);
    for (const int threads : {1, 3}) {
      const Results expected = OneBlock(c, inputs, threads);
      const Results found = AllKeys(c, inputs, threads);
      EXPECT_EQ(found.output, expected.output);
      EXPECT_EQ(found.logsumexp, expected.logsumexp);
      EXPECT_EQ(found.tiles, expected.tiles);
      EXPECT_LT(found.working, expected.working);
    }
  }
}

}  // namespace
}  // namespace ringwise
