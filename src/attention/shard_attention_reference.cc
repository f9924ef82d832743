#include "attention/shard_attention_reference.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>

#include "attention/attention_checks.h"
#include "attention/comparison.h"
#include "attention/tiling.h"

namespace ringwise {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// A block: keys [batch, kv_len, kv_heads, head_dim], then values [.., value_dim]. A gradient
// likewise.
int64_t KeyElements(const AttentionShape& shape, int64_t kv_len) {
  return shape.batch * kv_len * shape.kv_heads * shape.head_dim;
}
int64_t BytesOfBlock(const AttentionShape& shape, int64_t kv_len) {
  const int64_t value_elements = shape.batch * kv_len * shape.kv_heads * shape.value_dim;
  return (KeyElements(shape, kv_len) + value_elements) * static_cast<int64_t>(sizeof(double));
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

double Dot(const double* a, const double* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

// Some rows of a tensor [outer, length, ..].
std::vector<double> RowsOf(const std::vector<double>& tensor, int64_t outer, int64_t length,
                           Range rows) {
  std::vector<double> part;
  const int64_t row_elements = outer * length == 0 ? 0 : std::ssize(tensor) / (outer * length);
  for (int64_t i = 0; i < outer; ++i) {
    const auto begin = tensor.begin() + (i * length + rows.begin) * row_elements;
    part.insert(part.end(), begin, begin + rows.size() * row_elements);
  }
  return part;
}

// tensor [outer, ..][:, rows] += part.
void AddRows(std::span<const double> part, int64_t outer, Range rows, std::vector<double>& tensor) {
  const int64_t part_elements = std::ssize(part) / outer;
  const int64_t begin = rows.begin * part_elements / std::max<int64_t>(rows.size(), 1);
  for (int64_t i = 0; i < outer; ++i) {
    double* to = tensor.data() + i * (std::ssize(tensor) / outer) + begin;
    for (int64_t e = 0; e < part_elements; ++e) to[e] += part[i * part_elements + e];
  }
}

double LogAdd(double a, double b) {
  const double high = std::max(a, b);
  return high == -kInfinity ? high : high + std::log(std::exp(a - high) + std::exp(b - high));
}

std::vector<double> Sinks(const AttentionOptions& options) {
  return options.sinks ? ToDoubles(*options.sinks) : std::vector<double>();
}

// A query and a key that it sees.
struct Pair {
  int64_t query = 0;      // row of [batch, q_len, heads]
  int64_t key = 0;        // row of [batch, kv_len, kv_heads]
  int64_t statistic = 0;  // of the query, in [batch, heads, q_len]
  int64_t bias = 0;       // element of the bias
  double score = 0;
  double slope = 1;    // d score / d (scale q.k)
  double dropout = 1;  // 0 or 1 / (1 - p)
};

// The queries of a shard and the keys of a block.
struct Operands {
  const AttentionShape& shape;
  const AttentionOptions& options;
  const std::vector<double>& query;
  const Positions& query_positions;
  const double* key;
  const Positions& key_positions;

  template <class Visit>
  void ForEachPair(const Visit& visit) const {
    const int64_t q_len = Count(query_positions);
    const int64_t kv_len = Count(key_positions);
    const int64_t group = shape.heads / shape.kv_heads;
    const std::vector<double> bias =
        options.bias ? ToDoubles(*options.bias) : std::vector<double>();
    for (int64_t b = 0; b < shape.batch; ++b) {
      for (int64_t h = 0; h < shape.heads; ++h) {
        for (int64_t i = 0; i < q_len; ++i) {
          for (int64_t j = 0; j < kv_len; ++j) {
            if (!Sees({options.mask, b, h}, At(query_positions, i), At(key_positions, j))) continue;
            Pair pair{.query = (b * q_len + i) * shape.heads + h,
                      .key = (b * kv_len + j) * shape.kv_heads + h / group,
                      .statistic = (b * shape.heads + h) * q_len + i};
            Score(b, h, i, At(query_positions, i), At(key_positions, j), bias, pair);
            visit(pair);
          }
        }
      }
    }
  }

  void Score(int64_t b, int64_t h, int64_t i, int64_t query_position, int64_t key_position,
             const std::vector<double>& bias, Pair& pair) const {
    double score = Scale(shape, options) * Dot(&query[pair.query * shape.head_dim],
                                               key + pair.key * shape.head_dim, shape.head_dim);
    if (options.softcap > 0) {
      const double cosh = std::cosh(score / options.softcap);
      score = options.softcap * std::tanh(score / options.softcap);
      pair.slope = 1 / (cosh * cosh);
    }
    if (!options.alibi_slopes.empty()) {
      score -= options.alibi_slopes[h] *
               std::abs(static_cast<double>(query_position) - static_cast<double>(key_position));
    }
    if (options.bias) {
      const Shape& s = options.bias->shape;
      pair.bias = (((b % s[0]) * s[1] + h % s[1]) * s[2] + i % s[2]) * s[3] + key_position;
      score += bias[pair.bias];
    }
    pair.score = score;
    if (options.dropout.probability > 0) {
      const bool kept = Keeps(options.dropout, b, h, query_position, key_position);
      pair.dropout = kept ? 1 / (1 - options.dropout.probability) : 0;
    }
  }
};

}  // namespace

ReferenceShardForward::ReferenceShardForward(const AttentionShape& shape,
                                             const AttentionOptions& options, ConstTensorView query,
                                             const Positions& query_positions)
    : shape_(shape),
      options_(options),
      query_positions_(query_positions),
      q_len_(Count(query_positions)),
      query_(ToDoubles(query)),
      output_(shape.batch * q_len_ * shape.heads * shape.value_dim, 0.0),
      logsumexp_(shape.batch * shape.heads * q_len_, -kInfinity) {}

int64_t ReferenceShardForward::BlockBytes(int64_t kv_len) const {
  return BytesOfBlock(shape_, kv_len);
}

void ReferenceShardForward::Pack(ConstTensorView key, ConstTensorView value, const Positions&,
                                 std::span<std::byte> block) {
  PackBlock(key, value, block);
}

void ReferenceShardForward::Attend(std::span<const std::byte> block, const Positions& key_positions,
                                   const ProgressHook& progress) {
  const std::vector<double> doubles = Doubles(block);
  const double* values = doubles.data() + KeyElements(shape_, Count(key_positions));
  const Operands operands{shape_,           options_,       query_,
                          query_positions_, doubles.data(), key_positions};
  // Merges one key at a time: output is a weighted mean, and the new key's weight is its share of
  // the exponentials so far.
  operands.ForEachPair([&](const Pair& pair) {
    if (pair.score == -kInfinity) return;
    const double old = logsumexp_[pair.statistic];
    const double merged = LogAdd(old, pair.score);
    logsumexp_[pair.statistic] = merged;
    const double kept = std::exp(old - merged);
    const double added = std::exp(pair.score - merged) * pair.dropout;
    double* output = &output_[pair.query * shape_.value_dim];
    const double* value = values + pair.key * shape_.value_dim;
    for (int64_t d = 0; d < shape_.value_dim; ++d) output[d] = kept * output[d] + added * value[d];
  });
  if (progress) progress();
}

std::vector<double> ReferenceShardForward::Output() const {
  const std::vector<double> with_sinks = LogSumExp();
  std::vector<double> output = output_;
  for (int64_t b = 0; b < shape_.batch; ++b) {
    for (int64_t i = 0; i < q_len_; ++i) {
      for (int64_t h = 0; h < shape_.heads; ++h) {
        const int64_t statistic = (b * shape_.heads + h) * q_len_ + i;
        if (with_sinks[statistic] == logsumexp_[statistic]) continue;
        const double factor = std::exp(logsumexp_[statistic] - with_sinks[statistic]);
        double* row = &output[((b * q_len_ + i) * shape_.heads + h) * shape_.value_dim];
        for (int64_t d = 0; d < shape_.value_dim; ++d) row[d] *= factor;
      }
    }
  }
  return output;
}

std::vector<double> ReferenceShardForward::LogSumExp() const {
  if (!options_.sinks) return logsumexp_;
  const std::vector<double> sinks = Sinks(options_);
  std::vector<double> logsumexp = logsumexp_;
  for (size_t row = 0; row < logsumexp.size(); ++row) {
    logsumexp[row] =
        LogAdd(logsumexp[row], sinks[static_cast<int64_t>(row) / q_len_ % shape_.heads]);
  }
  return logsumexp;
}

ReferenceShardBackward::ReferenceShardBackward(const Call& call, Travelling travelling)
    : shape_(call.shape),
      options_(call.options),
      travelling_(travelling),
      queries_{call.query_positions, ToDoubles(call.inputs.query), ToDoubles(call.output_gradient),
               call.logsumexp, std::vector<double>(call.logsumexp.size())},
      keys_{call.key_positions, ToDoubles(call.inputs.key), ToDoubles(call.inputs.value)},
      dq_(queries_.query.size(), 0.0),
      dk_(keys_.key.size(), 0.0),
      dv_(keys_.value.size(), 0.0),
      dbias_(options_.bias ? options_.bias->elements() : 0, 0.0) {
  const int64_t q_len = Count(call.query_positions);
  for (int64_t b = 0; b < shape_.batch; ++b) {
    for (int64_t i = 0; i < q_len; ++i) {
      for (int64_t h = 0; h < shape_.heads; ++h) {
        const int64_t row = ((b * q_len + i) * shape_.heads + h) * shape_.value_dim;
        queries_.delta[(b * shape_.heads + h) * q_len + i] =
            Dot(&queries_.output_gradient[row], &call.output[row], shape_.value_dim);
      }
    }
  }
  if (!call.logsumexp_gradient) return;
  const std::vector<double> d_logsumexp = ToDoubles(*call.logsumexp_gradient);
  for (size_t row = 0; row < d_logsumexp.size(); ++row) queries_.delta[row] -= d_logsumexp[row];
}

TravelBytes ReferenceShardBackward::BytesOf(int64_t rows) const {
  constexpr auto kDouble = static_cast<int64_t>(sizeof(double));
  if (travelling_ == Travelling::kKeys) {
    return {BytesOfBlock(shape_, rows), BytesOfBlock(shape_, rows)};
  }
  const int64_t head_rows = shape_.batch * shape_.heads * rows;
  return {head_rows * (shape_.head_dim + shape_.value_dim + 2) * kDouble,
          head_rows * shape_.head_dim * kDouble};
}

void ReferenceShardBackward::Pack(Range rows, std::span<std::byte> block) {
  const int64_t heads = shape_.batch * shape_.heads;
  std::vector<double> packed;
  const auto append = [&](const std::vector<double>& tensor, int64_t outer, int64_t length) {
    const std::vector<double> part = RowsOf(tensor, outer, length, rows);
    packed.insert(packed.end(), part.begin(), part.end());
  };
  if (travelling_ == Travelling::kKeys) {
    const int64_t length = Count(keys_.positions);
    append(keys_.key, shape_.batch, length);
    append(keys_.value, shape_.batch, length);
  } else {
    const int64_t length = Count(queries_.positions);
    append(queries_.query, shape_.batch, length);
    append(queries_.output_gradient, shape_.batch, length);
    append(queries_.logsumexp, heads, length);
    append(queries_.delta, heads, length);
  }
  assert(block.size() == packed.size() * sizeof(double));
  if (!packed.empty()) std::memcpy(block.data(), packed.data(), block.size());
}

void ReferenceShardBackward::AttendOwn(Range rows, const ProgressHook& progress) {
  const TravelBytes bytes = BytesOf(rows.size());
  std::vector<std::byte> block(bytes.block);
  std::vector<std::byte> gradient(bytes.gradient);
  Pack(rows, block);
  const bool keys_travel = travelling_ == Travelling::kKeys;
  Attend(block, PositionsOf(keys_travel ? keys_.positions : queries_.positions, rows), gradient,
         progress);
  AddGradient(rows, gradient);
}

void ReferenceShardBackward::Attend(std::span<const std::byte> block, const Positions& positions,
                                    std::span<std::byte> gradient, const ProgressHook& progress) {
  const int64_t rows = Count(positions);
  const std::vector<double> doubles = Doubles(block);
  std::vector<double> sums = Doubles(gradient);
  auto from = doubles.begin();
  const auto next = [&](int64_t elements) {
    from += elements;
    return std::vector<double>(from - elements, from);
  };
  if (travelling_ == Travelling::kKeys) {
    const Keys keys{positions, next(KeyElements(shape_, rows)),
                    next(shape_.batch * rows * shape_.kv_heads * shape_.value_dim)};
    const auto end_of_keys = sums.begin() + std::ssize(keys.key);
    std::vector<double> dk(sums.begin(), end_of_keys);
    std::vector<double> dv(end_of_keys, sums.end());
    AttendPairs(queries_, keys, dq_, dk, dv);
    std::copy(dv.begin(), dv.end(), std::copy(dk.begin(), dk.end(), sums.begin()));
  } else {
    const int64_t head_rows = shape_.batch * rows * shape_.heads;
    const Queries queries{positions, next(head_rows * shape_.head_dim),
                          next(head_rows * shape_.value_dim), next(head_rows), next(head_rows)};
    AttendPairs(queries, keys_, sums, dk_, dv_);
  }
  if (!sums.empty()) std::memcpy(gradient.data(), sums.data(), gradient.size());
  if (progress) progress();
}

void ReferenceShardBackward::AttendPairs(const Queries& queries, const Keys& keys,
                                         std::vector<double>& dq, std::vector<double>& dk,
                                         std::vector<double>& dv) {
  const double scale = Scale(shape_, options_);
  const Operands operands{shape_,          options_,      queries.query, queries.positions,
                          keys.key.data(), keys.positions};
  operands.ForEachPair([&](const Pair& pair) {
    if (pair.score == -kInfinity) return;
    const int64_t query_row = pair.query * shape_.head_dim;
    const int64_t key_row = pair.key * shape_.head_dim;
    const int64_t value_row = pair.key * shape_.value_dim;
    const double* d_output = &queries.output_gradient[pair.query * shape_.value_dim];
    const double p = std::exp(pair.score - queries.logsumexp[pair.statistic]);
    const double dp = pair.dropout * Dot(d_output, &keys.value[value_row], shape_.value_dim);
    const double ds = p * (dp - queries.delta[pair.statistic]);
    const double d_product = scale * pair.slope * ds;
    for (int64_t d = 0; d < shape_.head_dim; ++d) {
      dq[query_row + d] += d_product * keys.key[key_row + d];
      dk[key_row + d] += d_product * queries.query[query_row + d];
    }
    for (int64_t d = 0; d < shape_.value_dim; ++d) {
      dv[value_row + d] += p * pair.dropout * d_output[d];
    }
    if (options_.bias) dbias_[pair.bias] += ds;
  });
}

void ReferenceShardBackward::AddGradient(Range rows, std::span<const std::byte> gradient) {
  const std::vector<double> doubles = Doubles(gradient);
  const std::span<const double> sums = doubles;
  if (travelling_ == Travelling::kKeys) {
    const auto keys = static_cast<size_t>(KeyElements(shape_, rows.size()));
    AddRows(sums.first(keys), shape_.batch, rows, dk_);
    AddRows(sums.subspan(keys), shape_.batch, rows, dv_);
  } else {
    AddRows(sums, shape_.batch, rows, dq_);
  }
}

std::vector<double> ReferenceShardBackward::SinkGradient() const {
  const std::vector<double> sinks = Sinks(options_);
  std::vector<double> dsinks(sinks.size(), 0.0);
  if (sinks.empty()) return dsinks;
  const int64_t q_len = Count(queries_.positions);
  for (size_t row = 0; row < queries_.delta.size(); ++row) {
    const int64_t head = static_cast<int64_t>(row) / q_len % shape_.heads;
    if (sinks[head] == -kInfinity) continue;
    dsinks[head] -= std::exp(sinks[head] - queries_.logsumexp[row]) * queries_.delta[row];
  }
  return dsinks;
}

}  // namespace ringwise
