#include "ring/ring_case_data.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "ringwise/random.h"

namespace ringwise {
namespace {

// Streams of random numbers besides those of the tensors.
enum Stream : uint64_t { kDocuments = 100, kSlices, kHidden };

int64_t Below(Random& random, int64_t bound) { return static_cast<int64_t>(random.Below(bound)); }

// Runs of one id; ids come again, and the negative one is padding.
std::vector<int32_t> DrawIds(Random& random, int64_t length, int64_t documents) {
  std::vector<int32_t> ids;
  while (std::ssize(ids) < length) {
    const auto id = static_cast<int32_t>(Below(random, documents + 1) - 1);
    const int64_t run = 1 + Below(random, 1 + length / documents);
    ids.insert(ids.end(), std::min(run, length - std::ssize(ids)), id);
  }
  return ids;
}

// Self-attention has the same documents on both sides.
std::shared_ptr<const SegmentMap> DrawDocuments(const RingCase& c) {
  Random random(c.seed, kDocuments);
  std::vector<Segments> queries, keys;
  for (int64_t b = 0; b < c.batch; ++b) {
    const std::vector<int32_t> ids = DrawIds(random, c.kv_len, c.documents);
    keys.push_back(ToSegments(ids, 0));
    queries.push_back(ToSegments(c.q_len == c.kv_len ? ids : DrawIds(random, c.q_len, c.documents),
                                 c.query_offset));
  }
  return std::make_shared<SegmentMap>(std::move(queries), std::move(keys));
}

Range DrawRange(Random& random, int64_t length) {
  const int64_t begin = Below(random, length + 1);
  return {begin, begin + Below(random, length - begin + 1)};
}

std::shared_ptr<const std::vector<MaskSlice>> DrawSlices(const RingCase& c) {
  Random random(c.seed, kSlices);
  auto slices = std::make_shared<std::vector<MaskSlice>>();
  for (int64_t n = 0; n < *c.slices; ++n) {
    MaskSlice slice;
    if (Below(random, 3) == 0) slice.head = Below(random, c.heads);
    const Range queries = DrawRange(random, c.q_len);
    const Range keys = DrawRange(random, c.kv_len);
    slice.q_begin = queries.begin + c.query_offset;
    slice.q_end = queries.end + c.query_offset;
    slice.k_begin = keys.begin;
    slice.k_end = keys.end;
    slice.kind = static_cast<SliceKind>(Below(random, 4));
    slices->push_back(slice);
  }
  return slices;
}

Mask DrawMask(const RingCase& c) {
  Mask mask{.causal = c.causal,
            .window_left = c.window_left,
            .window_right = c.window_right,
            .causal_block = c.causal_block};
  if (c.documents > 0) mask.segments = DrawDocuments(c);
  if (c.slices) mask.slices = DrawSlices(c);
  return mask;
}

Shape BiasShape(const RingCase& c) {
  const auto along = [&](char axis, int64_t extent) {
    return c.bias.find(axis) == std::string::npos ? 1 : extent;
  };
  return {along('b', c.batch), along('h', c.heads), along('q', c.q_len), c.kv_len};
}

std::vector<float> AlibiSlopes(const RingCase& c) {
  std::vector<float> slopes;
  for (int64_t h = 0; h < c.heads && c.alibi != 0; ++h) {
    slopes.push_back(
        static_cast<float>(c.alibi / static_cast<double>(h % 2 == 0 ? h + 1 : -h - 1)));
  }
  return slopes;
}

struct Counts {
  int64_t rows = 0;   // that see a key
  int64_t pairs = 0;  // of a row and a key that it sees
};

// Exact for small cases; larger ones are taken to see everything.
Counts CountSeen(const RingCase& c, const Mask& mask) {
  constexpr int64_t kMostPairs = 20'000;
  Counts counts{c.batch * c.heads * c.q_len, c.batch * c.heads * c.q_len * c.kv_len};
  if (counts.pairs > kMostPairs) return counts;
  counts = {};
  for (int64_t b = 0; b < c.batch; ++b) {
    for (int64_t h = 0; h < c.heads; ++h) {
      for (int64_t i = 0; i < c.q_len; ++i) {
        const int64_t before = counts.pairs;
        for (int64_t j = 0; j < c.kv_len; ++j) {
          counts.pairs += Sees({mask, b, h}, i + c.query_offset, j) ? 1 : 0;
        }
        counts.rows += counts.pairs > before ? 1 : 0;
      }
    }
  }
  return counts;
}

}  // namespace

RingCaseData::Positive RingCaseData::ChoosePositive(const RingCase& c, const Mask& mask) {
  const Counts seen = CountSeen(c, mask);
  const int64_t rows = std::min(seen.rows, c.batch * c.kv_heads * c.kv_len);
  return {.scores = seen.rows < 8, .values = seen.pairs < 32 || rows * c.ValueDim() < 128};
}

RingCaseData::RingCaseData(const RingCase& c)
    : case_(c),
      mask_(DrawMask(c)),
      positive_(ChoosePositive(c, mask_)),
      query_(Draw(CaseTensor::kQuery, c.dtype, {c.batch, c.q_len, c.heads, c.head_dim})),
      key_(Draw(CaseTensor::kKey, c.dtype, {c.batch, c.kv_len, c.kv_heads, c.head_dim})),
      value_(Draw(CaseTensor::kValue, c.dtype, {c.batch, c.kv_len, c.kv_heads, c.ValueDim()})),
      output_gradient_(
          Draw(CaseTensor::kOutputGradient, c.dtype, {c.batch, c.q_len, c.heads, c.ValueDim()})) {
  if (c.logsumexp_gradient) {
    logsumexp_gradient_ =
        Draw(CaseTensor::kLogSumExpGradient, DType::kF32, {c.batch, c.heads, c.q_len});
  }
  if (c.sinks) sinks_ = Draw(CaseTensor::kSinks, DType::kF32, {c.heads});
  if (c.bias.empty()) return;
  bias_ = Draw(CaseTensor::kBias, DType::kF32, BiasShape(c));
  Random random(c.seed, kHidden);
  for (int64_t i = 0; i < bias_.elements() && c.bias_hidden > 0; ++i) {
    if (Below(random, 100) >= c.bias_hidden) continue;
    bias_.data<float>()[i] = -std::numeric_limits<float>::infinity();
  }
}

Tensor RingCaseData::Draw(CaseTensor which, DType dtype, Shape shape) {
  Tensor tensor(meter_, MemoryCategory::kWorkspace, dtype, shape);
  Random random(case_.seed, static_cast<uint64_t>(which));
  const bool of_scores = which == CaseTensor::kQuery || which == CaseTensor::kKey;
  const bool positive = of_scores ? positive_.scores : positive_.values;
  // Of many positive products scores would be large, and their roundings with them.
  const float factor = positive && which == CaseTensor::kQuery
                           ? 1 / std::sqrt(static_cast<float>(case_.head_dim))
                           : 1;
  DispatchDType(dtype, [&]<class T>(T) {
    for (int64_t i = 0; i < tensor.elements(); ++i) {
      const float value = random.Normal();
      tensor.data<T>()[i] = T(positive ? factor * std::abs(value) : value);
    }
  });
  return tensor;
}

TensorView RingCaseData::tensor(CaseTensor which) {
  switch (which) {
    case CaseTensor::kQuery:
      return query_.view();
    case CaseTensor::kKey:
      return key_.view();
    case CaseTensor::kValue:
      return value_.view();
    case CaseTensor::kOutputGradient:
      return output_gradient_.view();
    case CaseTensor::kLogSumExpGradient:
      return logsumexp_gradient_.view();
    case CaseTensor::kBias:
      return bias_.view();
    case CaseTensor::kSinks:
      break;
  }
  return sinks_.view();
}

AttentionOptions RingCaseData::Options() const {
  AttentionOptions options{.scale = case_.scale,
                           .mask = mask_,
                           .softcap = case_.softcap,
                           .alibi_slopes = AlibiSlopes(case_),
                           .dropout = {.probability = case_.dropout,
                                       .seed = case_.seed,
                                       .first_batch = static_cast<int64_t>(case_.seed % 3),
                                       .first_head = static_cast<int64_t>(case_.seed % 5)}};
  if (!case_.bias.empty()) options.bias = bias_.view();
  if (case_.sinks) options.sinks = sinks_.view();
  return options;
}

WholeAttention RingCaseData::whole() const {
  WholeAttention whole;
  static_cast<AttentionOptions&>(whole) = Options();
  whole.query_offset = case_.query_offset;
  whole.layout = case_.layout;
  whole.key_layout = case_.key_layout.value_or(case_.layout);
  whole.inputs = {query_.view(), key_.view(), value_.view()};
  whole.output_gradient = output_gradient_.view();
  if (case_.logsumexp_gradient) whole.logsumexp_gradient = logsumexp_gradient_.view();
  return whole;
}

AttentionCase RingCaseData::attention_case() const {
  const WholeAttention all = whole();
  return {.options = all,
          .query_positions = {{case_.query_offset, case_.q_len, 1}},
          .key_positions = {{0, case_.kv_len, 1}},
          .query = all.inputs.query,
          .key = all.inputs.key,
          .value = all.inputs.value,
          .output_gradient = all.output_gradient,
          .logsumexp_gradient = all.logsumexp_gradient};
}

}  // namespace ringwise
