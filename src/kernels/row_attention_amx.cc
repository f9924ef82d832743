// Attention of a few rows by AMX tiles: see row_attention.h. Compiled for CPUs that have them
// whatever the flags, and only called there.
//
// Headers that others share come before the pragma, as in tile_kernels_amx.cc.
#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/arena.h"
#include "kernels/lines_ahead.h"
#include "kernels/register_tiles.h"
#include "kernels/round_up.h"
#include "kernels/row_attention.h"
#include "kernels/row_batches.h"
#include "kernels/steady_prefetch.h"
#include "kernels/tile_kernels.h"
#include "kernels/transpose.h"

#if defined(__x86_64__)
#include <immintrin.h>

// GCC 12 warns of its own header's deliberately undefined vectors.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16")

#include "kernels/amx_tiles-inl.h"
#include "kernels/tile_vectors_bf16-inl.h"

namespace ringwise {
namespace amx {
namespace {

// Positions attended at once, and those that a tile's depth holds.
constexpr int kStep = 64;
constexpr int kPart = kDepth;

// Work as SteadyPrefetch is told of it, in cycles.
constexpr int64_t kProductWork = 64;  // of a step of the depth: four tiles
constexpr int64_t kWeightsWork = 16;  // of 16 rows and two positions
constexpr int64_t kPackWork = 6;      // of two positions' values in one tile's depth of columns

// Rows of some kv_heads that lie side by side, over kStep positions of a head at a time:
//
//   S^T[keys, rows]      = K Q^T                          keys where they lie, queries packed
//   P[rows, keys]        = 2^(scale S - row_max)          transposed on the way
//   O[rows, value_dim]  += P V                            values packed
//
// Rows are padded to whole tiles. row_max is a reference, as in the forward of tiles: it moves only
// when some weights add up to more than kMostSum.
class TileWalk {
 public:
  TileWalk(const KeyValueRows<bf16>& keys, const AttentionRows& rows)
      : keys_(keys),
        rows_(rows),
        columns_(static_cast<int>(RoundUp(rows.rows, kColumns))),
        head_dim_(static_cast<int>(rows.head_dim)),
        value_dim_(static_cast<int>(rows.value_dim)) {
    Arena counter;
    Lay(counter);
    memory_.resize(counter.used() + kLine);
    Arena arena(memory_.data() + (kLine - reinterpret_cast<uintptr_t>(memory_.data()) % kLine));
    Lay(arena);
    for (int64_t head = 0; head < rows.kv_heads; ++head) Load(head);
  }

  void Attend() {
    const Shapes shapes(kBlockRows, kDepth);
    ForEachBatch(keys_, rows_, kStep, Work(), ahead_,
                 [&](int64_t head, int64_t begin, int64_t count) {
                   AttendKeys(head, begin, static_cast<int>(count));
                 });
    for (int64_t head = 0; head < rows_.kv_heads; ++head) Store(head);
  }

 private:
  static constexpr uintptr_t kLine = 64;
  static constexpr int kStatistics = 3;
  static constexpr float kMostSum = 512.0f;  // of a step's weights, all of which may be 1
  static_assert(kMostSum > kStep);

  // One kv_head's, of columns_ rows.
  struct HeadRows {
    bf16* query;    // packed
    float* output;  // [columns_][value_dim]
    float* row_max;
    float* row_sum;
    float* row_weight;
  };

  void Lay(Arena& arena) {
    queries_ = arena.Take<bf16>(rows_.kv_heads * head_dim_ * columns_);
    output_ = arena.Take<float>(rows_.kv_heads * columns_ * value_dim_);
    statistics_ = arena.Take<float>(rows_.kv_heads * kStatistics * columns_);
    scores_ = arena.Take<float>(int64_t{kStep} * columns_);
    weights_ = arena.Take<bf16>(int64_t{columns_} * kStep);
    values_ = arena.Take<bf16>(int64_t{kStep} * value_dim_);
    sums_ = arena.Take<float>(int64_t{kBlockRows} * std::max(value_dim_, head_dim_));
    keys_pad_ = arena.Take<bf16>(int64_t{kPart} * head_dim_);
  }

  HeadRows RowsOf(int64_t head) const {
    float* const statistics = statistics_ + head * kStatistics * columns_;
    return {queries_ + head * head_dim_ * columns_, output_ + head * columns_ * value_dim_,
            statistics, statistics + columns_, statistics + 2 * columns_};
  }

  int64_t Work() const {
    const int64_t column_blocks = (columns_ + kUnit - 1) / kUnit;
    const int64_t products = kStep / kPart * column_blocks * (head_dim_ / kDepth) +
                             column_blocks * (value_dim_ / kUnit) * (kStep / kDepth);
    return products * kProductWork + kStep / 2 * (columns_ / kColumns) * kWeightsWork +
           kStep / 2 * (value_dim_ / kUnit) * kPackWork;
  }

  // Rows past the last have queries of zeros.
  void Load(int64_t head) {
    const HeadRows to = RowsOf(head);
    PackQueries(head, to.query);
    std::fill_n(to.output, columns_ * value_dim_, 0.0f);
    std::fill_n(to.row_max, kStatistics * columns_, 0.0f);
    for (int64_t row = 0; row < rows_.rows; ++row) {
      const int64_t from = head * rows_.rows + row;
      if (rows_.row_sum[from] == 0) {
        fresh_ = true;
        continue;
      }
      std::copy_n(rows_.output + from * value_dim_, value_dim_, to.output + row * value_dim_);
      to.row_max[row] = rows_.row_max[from];
      to.row_sum[row] = rows_.row_sum[from];
      to.row_weight[row] = rows_.row_weight[from];
    }
  }

  // query[head_dim / 2][columns_][2]. Rounding takes rows side by side and pairs them: words are
  // transposed.
  void PackQueries(int64_t head, bf16* query) {
    auto* const rounded = reinterpret_cast<bf16*>(sums_);  // [columns_][head_dim], as much as room
    const int64_t elements = rows_.rows * head_dim_;
    const float* from = rows_.query + head * elements;
    for (int64_t i = 0; i < elements; i += kUnit) {
      _mm512_store_si512(rounded + i, native_bf16::Round(_mm512_loadu_ps(from + i),
                                                         _mm512_loadu_ps(from + i + kLanes)));
    }
    std::fill_n(rounded + elements, columns_ * head_dim_ - elements, bf16(0.0f));
    TransposeWords(rounded, head_dim_ * static_cast<int64_t>(sizeof(bf16)), columns_, head_dim_ / 2,
                   query, columns_);
  }

  void Store(int64_t head) const {
    const HeadRows from = RowsOf(head);
    const int64_t first = head * rows_.rows;
    std::copy_n(from.output, rows_.rows * value_dim_, rows_.output + first * value_dim_);
    std::copy_n(from.row_max, rows_.rows, rows_.row_max + first);
    std::copy_n(from.row_sum, rows_.rows, rows_.row_sum + first);
    std::copy_n(from.row_weight, rows_.rows, rows_.row_weight + first);
  }

  void AttendKeys(int64_t head, int64_t begin, int count) {
    const HeadRows rows = RowsOf(head);
    Score(keys_.keys.data + begin * keys_.keys.stride + head * keys_.keys.head_stride, count, rows);
    const bool starts = fresh_ && begin == 0;
    if (starts) MoveReferences(count, rows);
    if (!Weigh(count, rows)) {
      MoveReferences(count, rows);
      Weigh(count, rows);
    }
    AddSums(rows);
    PackValues(keys_.values.data + begin * keys_.values.stride + head * keys_.values.head_stride,
               count);
    AddValues(count, rows);
  }

  static int InWholeParts(int count) { return static_cast<int>(RoundUp(count, kPart)); }

  auto Worked(int64_t work) {
    return [ this, work ]() __attribute__((always_inline)) { ahead_.Worked(work); };
  }

  void Score(const bf16* keys, int count, const HeadRows& rows) {
    AfterStores();
    for (int first = 0; first < count; first += kPart) {
      const bf16* from = keys + first * keys_.keys.stride;
      int64_t stride = keys_.keys.stride;
      if (count - first < kPart) {
        std::fill_n(keys_pad_, kPart * head_dim_, bf16(0.0f));
        for (int key = 0; key < count - first; ++key) {
          std::copy_n(from + key * stride, head_dim_, keys_pad_ + key * head_dim_);
        }
        from = keys_pad_;
        stride = head_dim_;
        AfterStores();
      }
      const Factors of{from,    stride, rows.query, columns_, head_dim_, scores_ + first * columns_,
                       columns_};
      MultiplyBlock(of, kPart, columns_, Worked(kProductWork));
    }
  }

  // Scores become weights, whose sums are left in new_sums_ and new_weights_. False where some
  // reference has to move.
  bool Weigh(int count, const HeadRows& rows) {
    const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
    const __m512 scale = _mm512_set1_ps(rows_.scale);
    bool fits = true;
    for (int column = 0; column < columns_; column += kLanes) {
      const __m512 reference = _mm512_loadu_ps(rows.row_max + column);
      __m512 sum = _mm512_setzero_ps();
      __m512 weight = _mm512_setzero_ps();
      for (int first = 0; first < count; first += kPart) {
        alignas(64) uint32_t pairs[kPart / 2][kLanes];
        const auto power = [&](int key) __attribute__((always_inline)) {
          if (key >= count) return _mm512_setzero_ps();
          const __m512 score = _mm512_load_ps(scores_ + key * columns_ + column);
          return native_bf16::Exp2(_mm512_fmsub_ps(score, scale, reference));
        };
#pragma GCC unroll 4
        for (int i = 0; i < kPart / 2; ++i) {
          const __m512 even = power(first + 2 * i);
          const __m512 odd = power(first + 2 * i + 1);
          sum = _mm512_add_ps(sum, _mm512_add_ps(even, odd));
          const __m512i pair = native_bf16::Pair(native_bf16::Round(even, odd));
          weight = _mm512_dpbf16_ps(weight, (__m512bh)pair, ones);
          _mm512_store_si512(pairs[i], pair);
          ahead_.Worked(kWeightsWork);
        }
        TransposeWords(pairs, sizeof(pairs[0]), kPart / 2, kLanes,
                       weights_ + column * kStep + first, kStep / 2);
      }
      _mm512_storeu_ps(new_sums_ + column, sum);
      _mm512_storeu_ps(new_weights_ + column, weight);
      const __mmask16 own =
          static_cast<__mmask16>((1u << std::min<int64_t>(kLanes, rows_.rows - column)) - 1u);
      const __mmask16 low = _mm512_cmp_ps_mask(sum, _mm512_set1_ps(kMostSum), _CMP_LE_OQ);
      fits &= (low & own) == own;
    }
    return fits;
  }

  void AddSums(const HeadRows& rows) const {
    for (int row = 0; row < columns_; ++row) {
      rows.row_sum[row] += new_sums_[row];
      rows.row_weight[row] += new_weights_[row];
    }
  }

  // To the largest score, where that is higher or a row has seen nothing.
  void MoveReferences(int count, const HeadRows& rows) const {
    for (int64_t row = 0; row < rows_.rows; ++row) {
      // Above -inf, which overflow can give: its difference from itself would be NaN.
      float maximum = std::numeric_limits<float>::lowest();
      for (int key = 0; key < count; ++key) {
        maximum = std::max(maximum, rows_.scale * scores_[key * columns_ + row]);
      }
      if (rows.row_sum[row] != 0) {
        if (!(maximum > rows.row_max[row])) continue;
        const float factor = std::exp2(rows.row_max[row] - maximum);
        rows.row_sum[row] *= factor;
        rows.row_weight[row] *= factor;
        float* output = rows.output + row * value_dim_;
        for (int64_t i = 0; i < value_dim_; ++i) output[i] *= factor;
      }
      rows.row_max[row] = maximum;
    }
  }

  // values_[position / 2][value_dim][2], zeros past the last.
  void PackValues(const bf16* values, int count) {
    const int end = InWholeParts(count);
    static constexpr uint16_t kFirst[32] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,
                                            37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
                                            11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i first_half = _mm512_loadu_si512(kFirst);
    const __m512i second_half = _mm512_add_epi16(first_half, _mm512_set1_epi16(16));
    for (int key = 0; key < end; key += 2) {
      const bf16* from = values + key * keys_.values.stride;
      bf16* to = values_ + key * value_dim_;
      for (int column = 0; column < value_dim_; column += kUnit) {
        const __m512i even =
            key < count ? _mm512_loadu_si512(from + column) : _mm512_setzero_si512();
        const __m512i odd = key + 1 < count
                                ? _mm512_loadu_si512(from + keys_.values.stride + column)
                                : _mm512_setzero_si512();
        _mm512_store_si512(to + 2 * column, _mm512_permutex2var_epi16(even, first_half, odd));
        _mm512_store_si512(to + 2 * column + kUnit,
                           _mm512_permutex2var_epi16(even, second_half, odd));
        ahead_.Worked(kPackWork);
      }
    }
  }

  // The sums of a step are made first, then added: so rounding grows with the root of the steps,
  // not of the keys.
  void AddValues(int count, const HeadRows& rows) {
    AfterStores();
    for (int row = 0; row < columns_; row += kBlockRows) {
      const int block = std::min(kBlockRows, columns_ - row);
      const Factors of{weights_ + row * kStep, kStep, values_,   value_dim_,
                       InWholeParts(count),    sums_, value_dim_};
      MultiplyBlock(of, block, value_dim_, Worked(kProductWork));
      float* const output = rows.output + row * value_dim_;
      for (int i = 0; i < block * value_dim_; i += kLanes) {
        _mm512_store_ps(output + i,
                        _mm512_add_ps(_mm512_load_ps(output + i), _mm512_load_ps(sums_ + i)));
      }
    }
  }

  static constexpr int kUnit = 2 * kColumns;

  const KeyValueRows<bf16>& keys_;
  const AttentionRows& rows_;
  const int columns_;  // rows of a kv_head in whole tiles
  const int head_dim_;
  const int value_dim_;
  std::vector<std::byte> memory_;
  bf16* queries_ = nullptr;      // packed, of each kv_head
  float* output_ = nullptr;      // see HeadRows
  float* statistics_ = nullptr;  // the same
  float* scores_ = nullptr;      // [kStep][columns_]
  bf16* weights_ = nullptr;      // [columns_][kStep]
  bf16* values_ = nullptr;       // packed
  float* sums_ = nullptr;        // [kBlockRows][value_dim]
  bf16* keys_pad_ = nullptr;     // [kPart][head_dim]
  float new_sums_[kMostTileRows];
  float new_weights_[kMostTileRows];
  SteadyPrefetch ahead_;
  bool fresh_ = false;  // some row saw nothing before
};

}  // namespace
}  // namespace amx

void AttendRowsByTiles(const KeyValueRows<bf16>& keys, const AttentionRows& rows) {
  assert(rows.rows <= kMostTileRows && CanAttendByTiles(rows.head_dim, rows.value_dim));
  if (keys.count == 0) return;
  ForEachGroupOfHeads(keys, rows, amx::kStep,
                      [](const KeyValueRows<bf16>& some_keys, const AttentionRows& some_rows) {
                        amx::TileWalk(some_keys, some_rows).Attend();
                      });
}

}  // namespace ringwise

#pragma GCC pop_options
#pragma GCC diagnostic pop

namespace ringwise {

bool CanAttendByTiles(int64_t head_dim, int64_t value_dim) {
  return AmxTileKernels() != nullptr && head_dim % amx::kDepth == 0 &&
         value_dim % (2 * amx::kColumns) == 0;
}

}  // namespace ringwise

#else

namespace ringwise {

void AttendRowsByTiles(const KeyValueRows<bf16>& /*keys*/, const AttentionRows& /*rows*/) {}
bool CanAttendByTiles(int64_t /*head_dim*/, int64_t /*value_dim*/) { return false; }

}  // namespace ringwise

#endif
