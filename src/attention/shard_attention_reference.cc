#include "attention/shard_attention_reference.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "attention/attention_oracle.h"

namespace ringwise {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double Scale(const AttentionShape& shape, const AttentionOptions& options) {
  return options.scale.value_or(1.0 / std::sqrt(static_cast<double>(shape.head_dim)));
}

// A block: keys, then values, each [batch, kv_len, kv_heads, head_dim]. A gradient likewise.
int64_t BlockElements(const AttentionShape& shape, int64_t kv_len) {
  return 2 * shape.batch * kv_len * shape.kv_heads * shape.head_dim;
}

void PackBlock(ConstTensorView key, ConstTensorView value, std::span<std::byte> block) {
  std::vector<double> doubles = ToDoubles(key);
  const std::vector<double> values = ToDoubles(value);
  doubles.insert(doubles.end(), values.begin(), values.end());
  assert(block.size() == doubles.size() * sizeof(double));
  if (!doubles.empty()) std::memcpy(block.data(), doubles.data(), block.size());
}

std::vector<double> Doubles(std::span<const std::byte> bytes) {
  std::vector<double> doubles(bytes.size() / sizeof(double));
  if (!doubles.empty()) std::memcpy(doubles.data(), bytes.data(), bytes.size());
  return doubles;
}

void Write(std::span<const double> values, TensorView view) {
  assert(view.contiguous() && view.elements() == static_cast<int64_t>(values.size()));
  DispatchDType(view.dtype, [&]<class T>(T) {
    T* to = view.data<T>();
    for (const double value : values) *to++ = T(static_cast<float>(value));
  });
}

double Dot(const double* a, const double* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

// Calls visit(query_row, key_row, statistic) for every visible pair: where the query's and the
// key's head_dim numbers begin, and where the row's logsumexp is.
template <class Visit>
void ForEachVisiblePair(const AttentionShape& shape, const Mask& mask, const Positions& queries,
                        const Positions& keys, const Visit& visit) {
  const int64_t q_len = Count(queries);
  const int64_t kv_len = Count(keys);
  const int64_t group = shape.heads / shape.kv_heads;
  for (int64_t b = 0; b < shape.batch; ++b) {
    for (int64_t h = 0; h < shape.heads; ++h) {
      for (int64_t i = 0; i < q_len; ++i) {
        for (int64_t j = 0; j < kv_len; ++j) {
          if (!Sees({mask, b, h}, At(queries, i), At(keys, j))) continue;
          visit(((b * q_len + i) * shape.heads + h) * shape.head_dim,
                ((b * kv_len + j) * shape.kv_heads + h / group) * shape.head_dim,
                (b * shape.heads + h) * q_len + i);
        }
      }
    }
  }
}

}  // namespace

ReferenceShardForward::ReferenceShardForward(const AttentionShape& shape,
                                             const AttentionOptions& options, ConstTensorView query,
                                             const Positions& query_positions)
    : shape_(shape),
      options_(options),
      query_positions_(query_positions),
      q_len_(Count(query_positions)),
      query_(ToDoubles(query)),
      output_(query_.size(), 0.0),
      logsumexp_(shape.batch * shape.heads * q_len_, -kInfinity) {}

int64_t ReferenceShardForward::BlockBytes(int64_t kv_len) const {
  return BlockElements(shape_, kv_len) * static_cast<int64_t>(sizeof(double));
}

void ReferenceShardForward::Pack(ConstTensorView key, ConstTensorView value, const Positions&,
                                 std::span<std::byte> block) {
  PackBlock(key, value, block);
}

void ReferenceShardForward::Attend(std::span<const std::byte> block, const Positions& key_positions,
                                   const ProgressHook& progress) {
  const std::vector<double> doubles = Doubles(block);
  const double* keys = doubles.data();
  const double* values = keys + doubles.size() / 2;
  const double scale = Scale(shape_, options_);
  // Merges one key at a time: output is a weighted mean, and the new key's weight is its share of
  // the exponentials so far.
  ForEachVisiblePair(shape_, options_.mask, query_positions_, key_positions,
                     [&](int64_t query_row, int64_t key_row, int64_t statistic) {
                       const double score =
                           scale * Dot(query_.data() + query_row, keys + key_row, shape_.head_dim);
                       const double old = logsumexp_[statistic];
                       const double high = std::max(old, score);
                       const double merged =
                           high + std::log(std::exp(old - high) + std::exp(score - high));
                       logsumexp_[statistic] = merged;
                       const double kept = std::exp(old - merged);
                       const double added = std::exp(score - merged);
                       for (int64_t d = 0; d < shape_.head_dim; ++d) {
                         double& output = output_[query_row + d];
                         output = kept * output + added * values[key_row + d];
                       }
                     });
  if (progress) progress();
}

void ReferenceShardForward::Finish(const AttentionOutputs& outputs) {
  Write(output_, outputs.output);
  Write(logsumexp_, outputs.logsumexp);
}

std::vector<double> ReferenceShardForward::Output() const { return output_; }
std::vector<double> ReferenceShardForward::LogSumExp() const { return logsumexp_; }

ReferenceShardBackward::ReferenceShardBackward(
    const AttentionShape& shape, const AttentionOptions& options, ConstTensorView query,
    ConstTensorView output_gradient, const std::vector<double>& output,
    std::vector<double> logsumexp, const Positions& query_positions)
    : shape_(shape),
      options_(options),
      query_positions_(query_positions),
      q_len_(Count(query_positions)),
      query_(ToDoubles(query)),
      output_gradient_(ToDoubles(output_gradient)),
      logsumexp_(std::move(logsumexp)),
      delta_(logsumexp_.size()),
      dq_(query_.size(), 0.0) {
  for (int64_t b = 0; b < shape_.batch; ++b) {
    for (int64_t i = 0; i < q_len_; ++i) {
      for (int64_t h = 0; h < shape_.heads; ++h) {
        const int64_t row = ((b * q_len_ + i) * shape_.heads + h) * shape_.head_dim;
        delta_[(b * shape_.heads + h) * q_len_ + i] =
            Dot(&output_gradient_[row], &output[row], shape_.head_dim);
      }
    }
  }
}

int64_t ReferenceShardBackward::BlockBytes(int64_t kv_len) const {
  return BlockElements(shape_, kv_len) * static_cast<int64_t>(sizeof(double));
}

void ReferenceShardBackward::Pack(ConstTensorView key, ConstTensorView value, const Positions&,
                                  std::span<std::byte> block) {
  PackBlock(key, value, block);
}

int64_t ReferenceShardBackward::GradientBytes(int64_t kv_len) const { return BlockBytes(kv_len); }

void ReferenceShardBackward::Attend(std::span<const std::byte> block,
                                    const Positions& key_positions, std::span<std::byte> gradient,
                                    const ProgressHook& progress) {
  const std::vector<double> doubles = Doubles(block);
  const double* keys = doubles.data();
  const double* values = keys + doubles.size() / 2;
  std::vector<double> sums = Doubles(gradient);
  double* dk = sums.data();
  double* dv = dk + sums.size() / 2;
  const double scale = Scale(shape_, options_);
  ForEachVisiblePair(shape_, options_.mask, query_positions_, key_positions,
                     [&](int64_t query_row, int64_t key_row, int64_t statistic) {
                       const double* q = query_.data() + query_row;
                       const double* k = keys + key_row;
                       const double* d_output = output_gradient_.data() + query_row;
                       const double p =
                           std::exp(scale * Dot(q, k, shape_.head_dim) - logsumexp_[statistic]);
                       const double dp = Dot(d_output, values + key_row, shape_.head_dim);
                       const double ds = scale * p * (dp - delta_[statistic]);
                       for (int64_t d = 0; d < shape_.head_dim; ++d) {
                         dq_[query_row + d] += ds * k[d];
                         dk[key_row + d] += ds * q[d];
                         dv[key_row + d] += p * d_output[d];
                       }
                     });
  if (!sums.empty()) std::memcpy(gradient.data(), sums.data(), gradient.size());
  if (progress) progress();
}

void ReferenceShardBackward::AddGradient(std::span<std::byte> sum,
                                         std::span<const std::byte> gradient) {
  std::vector<double> sums = Doubles(sum);
  const std::vector<double> terms = Doubles(gradient);
  for (size_t i = 0; i < sums.size(); ++i) sums[i] += terms[i];
  if (!sums.empty()) std::memcpy(sum.data(), sums.data(), sum.size());
}

void ReferenceShardBackward::UnpackGradient(std::span<const std::byte> gradient,
                                            TensorView key_gradient, TensorView value_gradient) {
  const std::vector<double> doubles = Doubles(gradient);
  const auto half = static_cast<std::ptrdiff_t>(doubles.size() / 2);
  dk_.assign(doubles.begin(), doubles.begin() + half);
  dv_.assign(doubles.begin() + half, doubles.end());
  Write(dk_, key_gradient);
  Write(dv_, value_gradient);
}

void ReferenceShardBackward::Finish(const AttentionGradients& gradients) {
  Write(dq_, gradients.query);
}

}  // namespace ringwise
