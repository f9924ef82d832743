#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "ring/ring_case_run.h"

// What ringwise/attention_options.h says of NaN, infinities, large numbers and denormals, forward
// and backward, on rings.
namespace ringwise {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
const float kNaN = std::nanf("");

RingCase Plain(DType dtype, int ring, int64_t length) {
  RingCase c;
  c.batch = 2;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 20;
  c.value_dim = 12;
  c.q_len = c.kv_len = length;
  c.dtype = dtype;
  c.ring = ring;
  return c;
}

RingCase WithEverything(RingCase c) {
  c.window_left = 30;
  c.documents = 2;
  c.softcap = 5;
  c.alibi = 0.05;
  c.bias = "bhq";
  c.bias_hidden = 20;
  c.sinks = true;
  c.dropout = 0.3;
  c.logsumexp_gradient = true;
  return c;
}

template <class Body>
void ForEachCase(const Body& body) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int ring : {1, 3}) {
      for (const int64_t length : {40, 150}) {
        const RingCase plain = Plain(dtype, ring, length);
        for (const RingCase& c : {plain, WithEverything(plain)}) {
          SCOPED_TRACE(c.ToString());
          body(c);
        }
      }
    }
  }
}

void Set(const TensorView& view, int64_t element, float value) {
  DispatchDType(view.dtype, [&]<class T>(T) { view.data<T>()[element] = T(value); });
}

// Numbers are where the oracle has numbers.
void ExpectTheSameNaNs(const RingCase& c, const RingCaseData& data) {
  const AttentionOracle oracle = ComputeAttentionOracle(data.attention_case());
  const AttentionResults results = ToResults(RunCase(c, data));
  for (const MeasuredTensor& m : MeasuredTensors()) {
    const std::vector<double>& actual = results.*m.tensor;
    const std::vector<double>& expected = oracle.*m.tensor;
    ASSERT_EQ(actual.size(), expected.size()) << m.name;
    int64_t missing = 0;
    int64_t spread = 0;
    for (size_t i = 0; i < actual.size(); ++i) {
      missing += std::isnan(expected[i]) && !std::isnan(actual[i]);
      spread += !std::isnan(expected[i]) && std::isnan(actual[i]);
    }
    EXPECT_EQ(missing, 0) << m.name << ": NaN hidden";
    EXPECT_EQ(spread, 0) << m.name << ": NaN where there should be none";
  }
}

TEST(SpecialValues, NaNSpreadsToItsRowsOnly) {
  const std::pair<CaseTensor, bool> kTensors[] = {{CaseTensor::kQuery, false},
                                                  {CaseTensor::kKey, false},
                                                  {CaseTensor::kValue, false},
                                                  {CaseTensor::kOutputGradient, false},
                                                  {CaseTensor::kLogSumExpGradient, true},
                                                  {CaseTensor::kBias, true},
                                                  {CaseTensor::kSinks, true}};
  ForEachCase([&](const RingCase& c) {
    for (const auto& [which, is_option] : kTensors) {
      if (is_option && c.bias.empty()) continue;
      RingCaseData data(c);
      const TensorView view = data.tensor(which);
      SCOPED_TRACE("tensor " + std::to_string(static_cast<int>(which)));
      Set(view, view.elements() * 2 / 3, kNaN);
      ExpectTheSameNaNs(c, data);
    }
  });
}

TEST(SpecialValues, InfinityInTheBias) {
  ForEachCase([&](const RingCase& c) {
    if (c.bias.empty()) return;
    RingCaseData data(c);
    const TensorView bias = data.tensor(CaseTensor::kBias);
    for (int64_t j = 0; j < c.kv_len; ++j) Set(bias, j, -kInfinity);  // the first row sees nothing
    Set(bias, 3 * c.kv_len + 2, kInfinity);
    // What the bias hides may be NaN.
    for (int64_t i = 0; i < c.batch * c.heads * c.q_len; ++i) {
      Set(bias, i * c.kv_len + 17, -kInfinity);
    }
    const TensorView key = data.tensor(CaseTensor::kKey);
    const TensorView value = data.tensor(CaseTensor::kValue);
    Set(key, 17 * c.kv_heads * c.head_dim + 1, kNaN);
    Set(value, 17 * c.kv_heads * c.ValueDim() + 1, kNaN);
    ExpectTheSameNaNs(c, data);
  });
}

// A weight's relative error grows with its score: 2^-23 of its size for the score's own roundings
// (its product's, scale's and logsumexp's), which the bounds are allowed three times.
TEST(SpecialValues, ScoresOfTenThousand) {
  for (const double scale : {600.0, -600.0}) {
    ForEachCase([&](RingCase c) {
      if (!c.bias.empty()) return;
      c.scale = scale;
      const RingCaseData data(c);
      const AttentionOracle oracle = ComputeAttentionOracle(data.attention_case());
      const double largest = LargestMagnitude(oracle.logsumexp);
      EXPECT_GT(largest, 1e4);
      const AttentionResults results = ToResults(RunCase(c, data));
      const double weights = 3 * largest * 0x1p-23;
      const double rounding = c.dtype == DType::kF32 ? 0 : 4 * 0x1p-9;
      for (const MeasuredTensor& m : MeasuredTensors()) {
        const bool is_logsumexp = m.tensor == &AttentionResults::logsumexp;
        EXPECT_LE(LargestError(results.*m.tensor, oracle.*m.tensor),
                  (is_logsumexp ? 1e-6 : weights + rounding) * LargestMagnitude(oracle.*m.terms))
            << m.name;
      }
    });
  }
}

// Products that are ordinary though their factors are far from 1.
TEST(SpecialValues, TheRangeOfBf16) {
  const float high = 0x1p+80f;
  ForEachCase([&](const RingCase& c) {
    RingCaseData data(c);
    const auto times = [&](CaseTensor which, float factor) {
      const TensorView view = data.tensor(which);
      DispatchDType(view.dtype, [&]<class T>(T) {
        T* x = view.data<T>();
        for (int64_t i = 0; i < view.elements(); ++i) x[i] = T(static_cast<float>(x[i]) * factor);
      });
    };
    const AttentionResults ordinary = ToResults(RunCase(c, data));
    times(CaseTensor::kQuery, high);
    times(CaseTensor::kKey, 1 / high);
    times(CaseTensor::kValue, high);
    times(CaseTensor::kOutputGradient, 1 / high);
    const AttentionResults scaled = ToResults(RunCase(c, data));
    // Powers of two round nothing: the same numbers, scaled.
    const auto expect_scaled = [](const std::vector<double>& actual,
                                  const std::vector<double>& expected, double factor) {
      ASSERT_EQ(actual.size(), expected.size());
      for (size_t i = 0; i < actual.size(); ++i) {
        ASSERT_EQ(static_cast<float>(actual[i]), static_cast<float>(expected[i] * factor)) << i;
      }
    };
    expect_scaled(scaled.output, ordinary.output, high);
    expect_scaled(scaled.logsumexp, ordinary.logsumexp, 1);
    expect_scaled(scaled.dq, ordinary.dq, 1 / high);
    expect_scaled(scaled.dk, ordinary.dk, high);
    expect_scaled(scaled.dv, ordinary.dv, 1 / high);
    expect_scaled(scaled.dbias, ordinary.dbias, 1);
    expect_scaled(scaled.dsinks, ordinary.dsinks, 1);
  });
}

// The largest values: a weighted mean of them is as large, and their running sums are larger.
TEST(SpecialValues, LargeValues) {
  ForEachCase([&](const RingCase& c) {
    RingCaseData data(c);
    const TensorView value = data.tensor(CaseTensor::kValue);
    for (int64_t i = 0; i < value.elements(); ++i)
      Set(value, i, i % 3 == 0 ? -0x1p+118f : 0x1p+117f);
    AttentionCase forward = data.attention_case();
    const AttentionOracle oracle = ComputeAttentionOracle(forward);
    const AttentionResults results = ToResults(RunCase(c, data));
    EXPECT_LE(LargestError(results.output, oracle.output),
              (c.dtype == DType::kF32 ? 1e-5 : 4 * 0x1p-9) * LargestMagnitude(oracle.output_terms));
  });
}

TEST(SpecialValues, Denormals) {
  ForEachCase([&](const RingCase& c) {
    RingCaseData data(c);
    for (const CaseTensor which :
         {CaseTensor::kQuery, CaseTensor::kKey, CaseTensor::kValue, CaseTensor::kOutputGradient}) {
      const TensorView view = data.tensor(which);
      for (int64_t i = 0; i < view.elements(); ++i) {
        Set(view, i, static_cast<float>(i % 7 - 3) * 0x1p-130f);
      }
    }
    const AttentionOracle oracle = ComputeAttentionOracle(data.attention_case());
    const AttentionResults results = ToResults(RunCase(c, data));
    for (const MeasuredTensor& m : MeasuredTensors()) {
      // Each term is at most the smallest normal number, and may be lost.
      const double lost = 0x1p-126 * static_cast<double>(c.batch * c.heads * c.q_len);
      const double bound = m.cancels ? 2e-6 : 1e-5;
      EXPECT_LE(LargestError(results.*m.tensor, oracle.*m.tensor),
                lost + bound * LargestMagnitude(oracle.*m.scale))
          << m.name;
    }
  });
}

TEST(SpecialValues, ScaleZeroAndNegative) {
  for (const double scale : {0.0, -0.5}) {
    ForEachCase([&](RingCase c) {
      if (c.dtype == DType::kBF16) return;
      c.scale = scale;
      const RingCaseData data(c);
      const AttentionOracle oracle = ComputeAttentionOracle(data.attention_case());
      EXPECT_EQ(CheckAttention(ToResults(RunCase(c, data)), oracle, oracle, {}), "");
      EXPECT_EQ(LargestMagnitude(oracle.dq) == 0, scale == 0);
    });
  }
}

}  // namespace
}  // namespace ringwise
