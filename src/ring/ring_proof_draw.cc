#include <algorithm>
#include <initializer_list>
#include <string>

#include "ring/ring_proof.h"

namespace ringwise {
namespace {

template <class T>
T OneOf(Random& random, std::initializer_list<T> choices) {
  return choices.begin()[random.Below(choices.size())];
}

bool Chance(Random& random, uint64_t percent) { return random.Below(100) < percent; }

int64_t Below(Random& random, int64_t bound) { return static_cast<int64_t>(random.Below(bound)); }

int64_t DrawLength(Random& random) {
  if (Chance(random, 30)) return OneOf<int64_t>(random, {0, 1, 2, 3, 5, 17, 64, 113});
  if (Chance(random, 90)) return Below(random, 80);
  return Below(random, 700);
}

int64_t DrawDim(Random& random) {
  return Chance(random, 50) ? OneOf<int64_t>(random, {1, 2, 8, 16, 32, 64, 80, 128, 256})
                            : 1 + Below(random, 256);
}

void DrawShape(Random& random, RingCase& c) {
  c.batch = OneOf<int64_t>(random, {1, 1, 2, 3});
  c.kv_heads = OneOf<int64_t>(random, {1, 1, 2, 3});
  c.heads = c.kv_heads * OneOf<int64_t>(random, {1, 1, 2, 3, 4});
  c.head_dim = DrawDim(random);
  if (Chance(random, 40)) c.value_dim = DrawDim(random);
  c.kv_len = DrawLength(random);
  c.q_len = Chance(random, 60) ? c.kv_len : DrawLength(random);
  // The oracle takes about a microsecond for a thousand products, and for ten pairs.
  constexpr int64_t kMostProducts = 20'000'000;
  constexpr int64_t kMostPairs = 400'000;
  for (;;) {
    const int64_t pairs = c.batch * c.heads * c.q_len * c.kv_len;
    if (pairs <= kMostPairs && pairs * (c.head_dim + c.ValueDim()) / 2 <= kMostProducts) break;
    if (c.batch > 1) {
      c.batch = 1;
    } else {
      c.q_len /= 2;
      c.kv_len /= 2;
    }
  }
  c.query_offset = c.kv_len - c.q_len;
  if (Chance(random, 25)) c.query_offset = Below(random, 2 * c.kv_len + 4) - c.kv_len - 2;
}

void DrawMask(Random& random, RingCase& c) {
  const int64_t length = std::max(c.q_len, c.kv_len);
  c.causal = Chance(random, 50);
  if (Chance(random, 25)) {
    if (Chance(random, 75)) c.window_left = Below(random, length / 2 + 2);
    if (Chance(random, 75)) c.window_right = Below(random, length / 2 + 2);
  }
  if (Chance(random, 12)) c.causal_block = 1 + Below(random, length / 2 + 2);
  if (Chance(random, 20)) c.documents = 1 + Below(random, 6);
  if (Chance(random, 15)) c.slices = Chance(random, 10) ? 0 : 1 + Below(random, 8);
}

void DrawScores(Random& random, RingCase& c) {
  if (Chance(random, 25)) c.scale = OneOf<double>(random, {0.0, 0.05, 0.5, -0.1});
  if (Chance(random, 20)) c.softcap = OneOf<double>(random, {0.5, 2, 30});
  if (Chance(random, 20)) {
    // At most so much of a score: rounding it is a relative error of the weight.
    const double most = OneOf<double>(random, {1, 4, 4, 16});
    const int64_t furthest = std::max({std::abs(c.query_offset), c.kv_len - c.query_offset,
                                       c.query_offset + c.q_len, int64_t{1}});
    c.alibi = most / static_cast<double>(furthest);
  }
  if (Chance(random, 30)) {
    c.bias = OneOf<std::string>(random, {"k", "b", "h", "q", "bh", "bq", "hq", "bhq"});
    if (Chance(random, 30)) c.bias_hidden = OneOf<int64_t>(random, {5, 40, 100});
  }
  c.sinks = Chance(random, 20);
  if (Chance(random, 20)) c.dropout = OneOf<double>(random, {0.1, 0.5, 0.9});
  c.logsumexp_gradient = Chance(random, 35);
}

void DrawRing(Random& random, RingCase& c) {
  const auto layout = [&] {
    return OneOf(random, {Layout::kContiguous, Layout::kStriped, Layout::kZigzag});
  };
  c.dtype = Chance(random, 60) ? DType::kF32 : DType::kBF16;
  c.ring = 1 + static_cast<int>(random.Below(6));
  c.layout = layout();
  if (Chance(random, 50)) c.key_layout = layout();
  c.threads = OneOf(random, {1, 1, 2, 3});
}

}  // namespace

RingCase DrawCase(Random& random) {
  RingCase c;
  DrawShape(random, c);
  DrawMask(random, c);
  DrawScores(random, c);
  DrawRing(random, c);
  c.seed = 1 + random.Below(1'000'000);
  return c;
}

}  // namespace ringwise
