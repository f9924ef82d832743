#include "attention/attention_oracle.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace ringwise {
namespace {

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
        value_dim_(c.value.shape[3]),
        scale_(static_cast<Sum>(
            c.options.scale.value_or(1.0 / std::sqrt(static_cast<double>(head_dim_))))),
        query_(Operands(c.query)),
        key_(Operands(c.key)),
        value_(Operands(c.value)) {
    const AttentionOptions& options = c.options;
    if (options.bias) bias_ = ToDoubles(*options.bias);
    if (options.sinks) sinks_ = ToDoubles(*options.sinks);
    if (c.output_gradient) output_gradient_ = Operands(*c.output_gradient);
    if (c.logsumexp_gradient) logsumexp_gradient_ = ToDoubles(*c.logsumexp_gradient);
    for (const PositionRun& run : c.key_positions) {
      for (int64_t n = 0; n < run.count; ++n) key_position_.push_back(run[n]);
    }
  }

  AttentionOracle Compute() {
    oracle_.output.resize(batch_ * q_len_ * heads_ * value_dim_);
    output_terms_.resize(oracle_.output.size());
    oracle_.logsumexp.resize(batch_ * heads_ * q_len_);
    if (case_.output_gradient) {
      for (auto* tensor : {&dq_, &dq_terms_}) tensor->resize(query_.size());
      for (auto* tensor : {&dk_, &dk_terms_}) tensor->resize(key_.size());
      for (auto* tensor : {&dbias_, &dbias_terms_}) tensor->resize(bias_.size());
      for (auto* tensor : {&dsinks_, &dsinks_terms_}) tensor->resize(sinks_.size());
      for (auto* tensor : {&dv_, &dv_terms_}) tensor->resize(value_.size());
    }
    for (int64_t b = 0; b < batch_; ++b) {
      for (int64_t h = 0; h < heads_; ++h) {
        for (int64_t i = 0; i < q_len_; ++i) {
          Row(b, h, i);
          if (case_.output_gradient) RowBackward(b, h, i);
        }
      }
    }
    Copy(dq_, oracle_.dq, Arithmetic::Result);
    Copy(dk_, oracle_.dk, Arithmetic::Result);
    Copy(dv_, oracle_.dv, Arithmetic::Result);
    Copy(dbias_, oracle_.dbias, Arithmetic::Result);
    Copy(dsinks_, oracle_.dsinks, Arithmetic::Result);
    Copy(dq_terms_, oracle_.dq_terms, Unchanged);
    Copy(dk_terms_, oracle_.dk_terms, Unchanged);
    Copy(dbias_terms_, oracle_.dbias_terms, Unchanged);
    Copy(dsinks_terms_, oracle_.dsinks_terms, Unchanged);
    Copy(output_terms_, oracle_.output_terms, Unchanged);
    Copy(dv_terms_, oracle_.dv_terms, Unchanged);
    return std::move(oracle_);
  }

 private:
  // A key that the row at hand sees.
  struct Pair {
    int64_t key = 0;        // where its numbers begin in key_
    int64_t value = 0;      // likewise in value_
    int64_t bias = 0;       // its element of bias_
    bool hidden = false;    // by the bias
    Sum slope = 1;          // d score / d (scale q.k)
    Sum dropout = 1;        // 0 or 1 / (1 - p)
    Sum probability = 0;    // first the score
    Sum d_probability = 0;  // dP
  };

  static Sum Unchanged(Sum value) { return value; }
  template <class Function>
  static void Copy(const std::vector<Sum>& from, std::vector<double>& to, Function function) {
    to.resize(from.size());
    std::transform(from.begin(), from.end(), to.begin(), function);
  }
  static std::vector<Sum> Operands(ConstTensorView view) {
    const std::vector<double> values = ToDoubles(view);
    std::vector<Sum> operands(values.size());
    std::transform(values.begin(), values.end(), operands.begin(),
                   [](double value) { return Arithmetic::Operand(static_cast<Sum>(value)); });
    return operands;
  }

  // One thread's, and nearly all of the time: the thread sanitizer's watch over every element would
  // make it ten times as long and find nothing.
  [[gnu::no_sanitize_thread]] static Sum Dot(const Sum* a, const Sum* b, int64_t count) {
    Sum sum = 0;
    for (int64_t d = 0; d < count; ++d) sum += a[d] * b[d];
    return sum;
  }
  [[gnu::no_sanitize_thread]] static void AddScaled(Sum factor, const Sum* from, int64_t count,
                                                    Sum* to) {
    for (int64_t d = 0; d < count; ++d) to[d] += factor * from[d];
  }
  [[gnu::no_sanitize_thread]] static void AddScaledMagnitude(Sum factor, const Sum* from,
                                                             int64_t count, Sum* to) {
    for (int64_t d = 0; d < count; ++d) to[d] += factor * (from[d] < 0 ? -from[d] : from[d]);
  }

  int64_t BiasElement(int64_t b, int64_t h, int64_t i, int64_t position) const {
    const Shape& shape = case_.options.bias->shape;
    const auto along = [&](int axis, int64_t index) { return shape[axis] == 1 ? 0 : index; };
    return ((along(0, b) * shape[1] + along(1, h)) * shape[2] + along(2, i)) * shape[3] + position;
  }

  // The score and everything that backward needs of the pair.
  Pair Score(int64_t b, int64_t h, int64_t i, int64_t j, int64_t query_position) const {
    const AttentionOptions& options = case_.options;
    const int64_t kv_head = h * kv_heads_ / heads_;
    const int64_t key_row = (b * kv_len_ + j) * kv_heads_ + kv_head;
    Pair pair{.key = key_row * head_dim_, .value = key_row * value_dim_};
    Sum score = scale_ * Dot(&query_[QueryRow(b, h, i) * head_dim_], &key_[pair.key], head_dim_);
    if (options.softcap > 0) {
      const auto cap = static_cast<Sum>(options.softcap);
      const Sum capped = std::tanh(score / cap);
      const Sum cosh = std::cosh(score / cap);
      pair.slope = 1 / (cosh * cosh);
      score = cap * capped;
    }
    const int64_t distance = std::abs(query_position - key_position_[j]);
    if (!options.alibi_slopes.empty()) {
      score -= static_cast<Sum>(options.alibi_slopes[h]) * static_cast<Sum>(distance);
    }
    if (options.bias) {
      pair.bias = BiasElement(b, h, i, key_position_[j]);
      score += static_cast<Sum>(bias_[pair.bias]);
      pair.hidden = bias_[pair.bias] == -std::numeric_limits<double>::infinity();
    }
    if (options.dropout.probability > 0) {
      const bool kept = Keeps(options.dropout, b, h, query_position, key_position_[j]);
      pair.dropout = kept ? static_cast<Sum>(1 / (1 - options.dropout.probability)) : Sum{0};
    }
    pair.probability = score;
    return pair;
  }

  int64_t QueryRow(int64_t b, int64_t h, int64_t i) const { return (b * q_len_ + i) * heads_ + h; }
  int64_t Statistic(int64_t b, int64_t h, int64_t i) const { return (b * heads_ + h) * q_len_ + i; }

  void Row(int64_t b, int64_t h, int64_t i) {
    constexpr Sum kInfinity = std::numeric_limits<Sum>::infinity();
    const int64_t query_position = At(case_.query_positions, i);
    const Sum sink = sinks_.empty() ? -kInfinity : static_cast<Sum>(sinks_[h]);
    Sum largest = sink;
    pairs_.clear();
    for (int64_t j = 0; j < kv_len_; ++j) {
      if (!Sees({case_.options.mask, b, h}, query_position, key_position_[j])) continue;
      const Pair pair = Score(b, h, i, j, query_position);
      if (pair.hidden) continue;
      pairs_.push_back(pair);
      largest = std::max(largest, pairs_.back().probability);
    }
    if (largest == -kInfinity) largest = 0;  // nothing counts: every exponential is 0
    sink_probability_ = std::exp(sink - largest);
    Sum sum = sink_probability_;
    for (Pair& pair : pairs_) sum += pair.probability = std::exp(pair.probability - largest);
    oracle_.logsumexp[Statistic(b, h, i)] = largest + std::log(sum);
    if (sum == 0) sum = 1;
    sink_probability_ /= sum;
    for (Pair& pair : pairs_) pair.probability /= sum;

    // A NaN in the row shows even if all its values are dropped.
    output_.assign(value_dim_, !pairs_.empty() && std::isnan(sum) ? sum : 0);
    const int64_t row = QueryRow(b, h, i) * value_dim_;
    for (const Pair& pair : pairs_) {
      if (pair.dropout == 0) continue;
      const Sum weight = Arithmetic::Operand(pair.probability * pair.dropout);
      AddScaled(weight, &value_[pair.value], value_dim_, output_.data());
      AddScaledMagnitude(weight, &value_[pair.value], value_dim_, &output_terms_[row]);
    }
    std::transform(output_.begin(), output_.end(), oracle_.output.begin() + row,
                   Arithmetic::Result);
  }

  void RowBackward(int64_t b, int64_t h, int64_t i) {
    const int64_t row = QueryRow(b, h, i);
    const Sum* d_output = &output_gradient_[row * value_dim_];
    const Sum d_logsumexp =
        logsumexp_gradient_.empty() ? 0 : static_cast<Sum>(logsumexp_gradient_[Statistic(b, h, i)]);
    Sum delta = 0;
    Sum row_terms = std::abs(d_logsumexp);
    for (Pair& pair : pairs_) {
      if (pair.dropout != 0) {
        pair.d_probability = pair.dropout * Dot(d_output, &value_[pair.value], value_dim_);
      }
      delta += pair.probability * pair.d_probability;
      row_terms += pair.probability * std::abs(pair.d_probability);
    }
    for (const Pair& pair : pairs_) {
      const Sum p = pair.probability;
      const Sum d_score = p * (pair.d_probability - delta + d_logsumexp);
      const Sum terms = p * (std::abs(pair.d_probability) + row_terms);
      const Sum d_product = scale_ * Arithmetic::Operand(d_score * pair.slope);
      const Sum product_terms = std::abs(scale_) * terms * pair.slope;
      const int64_t query = row * head_dim_;
      const Sum weight = Arithmetic::Operand(p * pair.dropout);
      if (pair.dropout != 0) {
        AddScaled(weight, d_output, value_dim_, &dv_[pair.value]);
        AddScaledMagnitude(weight, d_output, value_dim_, &dv_terms_[pair.value]);
      }
      AddScaled(d_product, &key_[pair.key], head_dim_, &dq_[query]);
      AddScaled(d_product, &query_[query], head_dim_, &dk_[pair.key]);
      AddScaledMagnitude(product_terms, &key_[pair.key], head_dim_, &dq_terms_[query]);
      AddScaledMagnitude(product_terms, &query_[query], head_dim_, &dk_terms_[pair.key]);
      if (bias_.empty()) continue;
      dbias_[pair.bias] += d_score;
      dbias_terms_[pair.bias] += terms;
    }
    if (sinks_.empty()) return;
    dsinks_[h] += sink_probability_ * (d_logsumexp - delta);
    dsinks_terms_[h] += sink_probability_ * row_terms;
  }

  const AttentionCase& case_;
  const int64_t batch_, q_len_, heads_, head_dim_, kv_len_, kv_heads_, value_dim_;
  const Sum scale_;
  const std::vector<Sum> query_, key_, value_;
  std::vector<Sum> output_gradient_;
  std::vector<double> bias_, sinks_, logsumexp_gradient_;
  std::vector<int64_t> key_position_;
  std::vector<Sum> dq_, dk_, dv_, dbias_, dsinks_;
  std::vector<Sum> dq_terms_, dk_terms_, dbias_terms_, dsinks_terms_, output_terms_, dv_terms_;
  AttentionOracle oracle_;
  // Of the row at hand.
  std::vector<Pair> pairs_;
  Sum sink_probability_ = 0;
  std::vector<Sum> output_;
};

}  // namespace

AttentionOracle ComputeAttentionOracle(const AttentionCase& attention_case) {
  return Formula<Double>(attention_case).Compute();
}

AttentionOracle ComputePlainBf16Attention(const AttentionCase& attention_case) {
  return Formula<PlainBf16>(attention_case).Compute();
}

const std::vector<MeasuredTensor>& MeasuredTensors() {
  using R = AttentionResults;
  using O = AttentionOracle;
  static const std::vector<MeasuredTensor> tensors = {
      {"output", &R::output, &O::output, &O::output_terms, false},
      {"logsumexp", &R::logsumexp, &O::logsumexp, &O::logsumexp, false},
      {"dq", &R::dq, &O::dq_terms, &O::dq_terms, true},
      {"dk", &R::dk, &O::dk_terms, &O::dk_terms, true},
      {"dv", &R::dv, &O::dv, &O::dv_terms, false},
      {"dbias", &R::dbias, &O::dbias_terms, &O::dbias_terms, true},
      {"dsinks", &R::dsinks, &O::dsinks_terms, &O::dsinks_terms, true}};
  return tensors;
}

std::string CheckAttention(const AttentionResults& results, const AttentionResults& expected,
                           const AttentionOracle& oracle, const AttentionBounds& bounds) {
  const bool gradients = !(expected.dq.empty() && expected.dk.empty() && expected.dv.empty());
  for (const MeasuredTensor& m : MeasuredTensors()) {
    const bool is_gradient =
        m.tensor != &AttentionResults::output && m.tensor != &AttentionResults::logsumexp;
    if (is_gradient && !gradients) continue;
    const double error = LargestError(results.*m.tensor, expected.*m.tensor);
    const double scale = LargestMagnitude(oracle.*m.scale);
    const double bound = m.cancels ? bounds.backward : bounds.forward;
    if (error <= bound * scale) continue;
    return fmt::format("{}: error {:.3g}, scale {:.3g}, bound {:.3g} x scale", m.name, error, scale,
                       bound);
  }
  return "";
}

}  // namespace ringwise
