#include "attention/attention_oracle.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace ringwise {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Double {
  using Sum = double;
  static double Operand(double value) { return value; }
  static double Result(double value) { return value; }
};

// Products of bf16 operands are exact in f32; what is rounded is each sum.
struct PlainBf16 {
  using Sum = float;
  static float Operand(float value) { return static_cast<float>(bf16(value)); }
  static float Result(float value) { return static_cast<float>(bf16(value)); }
};

// The formula, row by row. Arithmetic says how sums are kept, what a product's operand is rounded
// to, and what a result is rounded to.
template <class Arithmetic>
class Formula {
 public:
  using Sum = typename Arithmetic::Sum;

  explicit Formula(const AttentionCase& c)
      : case_(c),
        batch_(c.query.shape[0]),
        q_len_(c.query.shape[1]),
        heads_(c.query.shape[2]),
        head_dim_(c.query.shape[3]),
        kv_len_(c.key.shape[1]),
        kv_heads_(c.key.shape[2]),
        scale_(static_cast<Sum>(
            c.options.scale.value_or(1.0 / std::sqrt(static_cast<double>(head_dim_))))),
        query_(Operands(c.query)),
        key_(Operands(c.key)),
        value_(Operands(c.value)) {
    if (c.output_gradient) output_gradient_ = Operands(*c.output_gradient);
  }

  AttentionOracle Compute() {
    oracle_.output.assign(query_.size(), 0.0);
    oracle_.logsumexp.assign(batch_ * heads_ * q_len_, -kInfinity);
    if (case_.output_gradient) {
      for (auto* tensor : {&dq_, &dq_terms_}) tensor->assign(query_.size(), 0);
      for (auto* tensor : {&dk_, &dv_, &dk_terms_}) tensor->assign(key_.size(), 0);
    }
    for (int64_t b = 0; b < batch_; ++b) {
      for (int64_t h = 0; h < heads_; ++h) {
        for (int64_t i = 0; i < q_len_; ++i) Row(b, h, i);
      }
    }
    oracle_.dq = Rounded(dq_);
    oracle_.dk = Rounded(dk_);
    oracle_.dv = Rounded(dv_);
    oracle_.dq_terms.assign(dq_terms_.begin(), dq_terms_.end());
    oracle_.dk_terms.assign(dk_terms_.begin(), dk_terms_.end());
    return std::move(oracle_);
  }

 private:
  static std::vector<Sum> Operands(ConstTensorView view) {
    const std::vector<double> values = ToDoubles(view);
    std::vector<Sum> operands(values.size());
    std::transform(values.begin(), values.end(), operands.begin(),
                   [](double value) { return Arithmetic::Operand(static_cast<Sum>(value)); });
    return operands;
  }
  static std::vector<double> Rounded(const std::vector<Sum>& values) {
    std::vector<double> rounded(values.size());
    std::transform(values.begin(), values.end(), rounded.begin(), Arithmetic::Result);
    return rounded;
  }

  Sum Dot(const Sum* a, const Sum* b) const {
    Sum sum = 0;
    for (int64_t d = 0; d < head_dim_; ++d) sum += a[d] * b[d];
    return sum;
  }
  void AddScaled(Sum factor, const Sum* from, Sum* to) const {
    for (int64_t d = 0; d < head_dim_; ++d) to[d] += factor * from[d];
  }
  void AddScaledMagnitude(Sum factor, const Sum* from, Sum* to) const {
    for (int64_t d = 0; d < head_dim_; ++d) to[d] += factor * std::abs(from[d]);
  }
  int64_t QueryRow(int64_t b, int64_t i, int64_t h) const {
    return ((b * q_len_ + i) * heads_ + h) * head_dim_;
  }
  int64_t KeyRow(int64_t b, int64_t j, int64_t h) const {
    return ((b * kv_len_ + j) * kv_heads_ + h * kv_heads_ / heads_) * head_dim_;
  }

  void Row(int64_t b, int64_t h, int64_t i) {
    const int64_t query_position = At(case_.query_positions, i);
    const Sum* q = &query_[QueryRow(b, i, h)];
    visible_.clear();
    probability_.clear();
    Sum row_max = -std::numeric_limits<Sum>::infinity();
    int64_t j = 0;
    for (const PositionRun& run : case_.key_positions) {
      for (int64_t n = 0; n < run.count; ++n, ++j) {
        if (!Sees({case_.options.mask, b, h}, query_position, run[n])) continue;
        visible_.push_back(j);
        probability_.push_back(scale_ * Dot(q, &key_[KeyRow(b, j, h)]));
        row_max = std::max(row_max, probability_.back());
      }
    }
    if (visible_.empty()) return;
    Sum row_sum = 0;
    for (Sum& p : probability_) row_sum += p = std::exp(p - row_max);
    for (Sum& p : probability_) p /= row_sum;
    oracle_.logsumexp[(b * heads_ + h) * q_len_ + i] = row_max + std::log(row_sum);

    output_.assign(head_dim_, 0);
    for (size_t n = 0; n < visible_.size(); ++n) {
      AddScaled(Arithmetic::Operand(probability_[n]), &value_[KeyRow(b, visible_[n], h)],
                output_.data());
    }
    std::transform(output_.begin(), output_.end(), &oracle_.output[QueryRow(b, i, h)],
                   Arithmetic::Result);
    if (case_.output_gradient) RowBackward(b, h, i);
  }

  void RowBackward(int64_t b, int64_t h, int64_t i) {
    const int64_t row = QueryRow(b, i, h);
    const Sum* d_output = &output_gradient_[row];
    d_probability_.clear();
    Sum delta = 0;
    Sum delta_terms = 0;
    for (size_t n = 0; n < visible_.size(); ++n) {
      d_probability_.push_back(Dot(d_output, &value_[KeyRow(b, visible_[n], h)]));
      delta += probability_[n] * d_probability_[n];
      delta_terms += probability_[n] * std::abs(d_probability_[n]);
    }
    for (size_t n = 0; n < visible_.size(); ++n) {
      const int64_t key_row = KeyRow(b, visible_[n], h);
      const Sum p = probability_[n];
      const Sum d_score = scale_ * Arithmetic::Operand(p * (d_probability_[n] - delta));
      const Sum terms = scale_ * p * (std::abs(d_probability_[n]) + delta_terms);
      AddScaled(Arithmetic::Operand(p), d_output, &dv_[key_row]);
      AddScaled(d_score, &key_[key_row], &dq_[row]);
      AddScaled(d_score, &query_[row], &dk_[key_row]);
      AddScaledMagnitude(std::abs(terms), &key_[key_row], &dq_terms_[row]);
      AddScaledMagnitude(std::abs(terms), &query_[row], &dk_terms_[key_row]);
    }
  }

  const AttentionCase& case_;
  const int64_t batch_, q_len_, heads_, head_dim_, kv_len_, kv_heads_;
  const Sum scale_;
  const std::vector<Sum> query_, key_, value_;
  std::vector<Sum> output_gradient_;
  std::vector<Sum> dq_, dk_, dv_, dq_terms_, dk_terms_;
  AttentionOracle oracle_;
  // Of the row at hand.
  std::vector<int64_t> visible_;
  std::vector<Sum> probability_, d_probability_, output_;
};

}  // namespace

AttentionOracle ComputeAttentionOracle(const AttentionCase& attention_case) {
  return Formula<Double>(attention_case).Compute();
}

AttentionOracle ComputePlainBf16Attention(const AttentionCase& attention_case) {
  return Formula<PlainBf16>(attention_case).Compute();
}

std::vector<double> ToDoubles(ConstTensorView view) {
  std::vector<double> values;
  values.reserve(view.elements());
  // Missing axes have extent 1 and stride 0.
  std::array<int64_t, Shape::kMaxRank> extent{1, 1, 1, 1};
  for (int axis = 0; axis < view.shape.rank(); ++axis) extent[axis] = view.shape[axis];
  const auto& s = view.strides;
  DispatchDType(view.dtype, [&]<class T>(T) {
    const T* data = view.data<T>();
    for (int64_t a = 0; a < extent[0]; ++a) {
      for (int64_t b = 0; b < extent[1]; ++b) {
        for (int64_t c = 0; c < extent[2]; ++c) {
          for (int64_t d = 0; d < extent[3]; ++d) {
            values.push_back(static_cast<float>(data[a * s[0] + b * s[1] + c * s[2] + d * s[3]]));
          }
        }
      }
    }
  });
  return values;
}

double LargestError(const std::vector<double>& actual, const std::vector<double>& expected) {
  if (actual.size() != expected.size()) return kInfinity;
  double largest = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    if (actual[i] == expected[i]) continue;
    const double error = std::abs(actual[i] - expected[i]);
    if (std::isnan(error)) return kInfinity;
    largest = std::max(largest, error);
  }
  return largest;
}

double RmsError(const std::vector<double>& actual, const std::vector<double>& expected) {
  if (std::isinf(LargestError(actual, expected))) return kInfinity;
  double sum = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    if (actual[i] != expected[i]) sum += (actual[i] - expected[i]) * (actual[i] - expected[i]);
  }
  return actual.empty() ? 0 : std::sqrt(sum / static_cast<double>(actual.size()));
}

double LargestMagnitude(const std::vector<double>& values) {
  double largest = 0;
  for (const double value : values) {
    if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
  }
  return largest;
}

std::string CheckAttention(const AttentionResults& results, const AttentionResults& expected,
                           const AttentionOracle& oracle, const AttentionBounds& bounds) {
  const auto check = [](const char* name, const std::vector<double>& actual,
                        const std::vector<double>& wanted, double scale,
                        double bound) -> std::string {
    const double error = LargestError(actual, wanted);
    if (error <= bound * scale) return "";
    return fmt::format("{}: error {:.3g}, scale {:.3g}, bound {:.3g} x scale", name, error, scale,
                       bound);
  };
  std::string problem = check("output", results.output, expected.output,
                              LargestMagnitude(oracle.output), bounds.forward);
  if (problem.empty()) {
    problem = check("logsumexp", results.logsumexp, expected.logsumexp,
                    LargestMagnitude(oracle.logsumexp), bounds.forward);
  }
  if (!problem.empty() || expected.dq.size() + expected.dk.size() == 0) return problem;
  problem =
      check("dq", results.dq, expected.dq, LargestMagnitude(oracle.dq_terms), bounds.backward);
  if (problem.empty()) {
    problem =
        check("dk", results.dk, expected.dk, LargestMagnitude(oracle.dk_terms), bounds.backward);
  }
  if (problem.empty()) {
    problem = check("dv", results.dv, expected.dv, LargestMagnitude(oracle.dv), bounds.forward);
  }
  return problem;
}

AttentionResults Results(const AttentionOracle& oracle) {
  return {oracle.output, oracle.logsumexp, oracle.dq, oracle.dk, oracle.dv};
}

}  // namespace ringwise
