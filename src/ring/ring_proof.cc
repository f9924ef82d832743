#include "ring/ring_proof.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <vector>

namespace ringwise {
namespace {

template <class T>
T OneOf(Random& random, std::initializer_list<T> choices) {
  return choices.begin()[random.Below(choices.size())];
}

bool Chance(Random& random, uint64_t percent) { return random.Below(100) < percent; }

int64_t DrawLength(Random& random) {
  if (Chance(random, 30)) return OneOf<int64_t>(random, {0, 1, 2, 3, 5, 17, 64, 113});
  if (Chance(random, 90)) return static_cast<int64_t>(random.Below(80));
  return static_cast<int64_t>(random.Below(700));
}

struct Compared {
  const char* name;
  std::vector<double> AttentionResults::*tensor;
};
constexpr Compared kTensors[] = {{"output", &AttentionResults::output},
                                 {"dq", &AttentionResults::dq},
                                 {"dk", &AttentionResults::dk},
                                 {"dv", &AttentionResults::dv}};

// The largest magnitude that each of kTensors' sums can reach with all terms positive.
std::array<double, 4> LargestTerms(const RingCaseData& data, const AttentionOracle& oracle) {
  // output_i = sum_j P_ij v_j: |v| at most. dv_j = sum_i P_ij dout_i: by the oracle of |dout|, for
  // which one number is enough.
  const AttentionCase c = data.attention_case();
  const double value = LargestMagnitude(ToDoubles(c.value));
  const double d_output = LargestMagnitude(ToDoubles(*c.output_gradient));
  const double weights = data.LargestColumnWeight();
  return {value, LargestMagnitude(oracle.dq_terms), LargestMagnitude(oracle.dk_terms),
          weights * d_output};
}

std::string CheckBf16(const RingCaseData& data, const AttentionResults& results,
                      const AttentionOracle& oracle) {
  // Operands and results are rounded to 8 bits, which errs by 2^-9 of their size: P, dS and the
  // result each once, and dS holds twice its own terms in the bound.
  constexpr double kRoundings = 4 * 0x1p-9;
  constexpr size_t kEnough = 1000;
  const AttentionOracle plain_oracle = ComputePlainBf16Attention(data.attention_case());
  const AttentionResults plain = Results(plain_oracle);
  const AttentionResults exact = Results(oracle);
  const std::array<double, 4> terms = LargestTerms(data, oracle);
  for (size_t i = 0; i < std::size(kTensors); ++i) {
    const auto& [name, tensor] = kTensors[i];
    const double largest = LargestError(results.*tensor, exact.*tensor);
    // Where every operand happens to be exact in bf16 the plain formula has no error to compare
    // with: what is within the bounds of f32 is right.
    if (largest <= 1e-6 * terms[i]) continue;
    if (!(largest <= kRoundings * terms[i])) {
      return fmt::format("{}: error {:.3g}, roundings add up to {:.3g}", name, largest,
                         kRoundings * terms[i]);
    }
    if ((exact.*tensor).size() < kEnough) continue;
    const double rms = RmsError(results.*tensor, exact.*tensor);
    const double plain_rms = RmsError(plain.*tensor, exact.*tensor);
    const double plain_largest = LargestError(plain.*tensor, exact.*tensor);
    if (!(rms <= 1.1 * plain_rms) || !(largest <= 2 * plain_largest)) {
      return fmt::format(
          "{}: RMS error {:.3g} and largest {:.3g}, of the plain formula {:.3g} and {:.3g}", name,
          rms, largest, plain_rms, plain_largest);
    }
  }
  const double logsumexp = LargestError(results.logsumexp, exact.logsumexp);
  const double bound = 1e-3 * std::max(1.0, LargestMagnitude(exact.logsumexp));
  return logsumexp <= bound ? "" : fmt::format("logsumexp: error {:.3g}", logsumexp);
}

double OverScale(double error, double scale) { return error == 0 ? 0 : error / scale; }

}  // namespace

RingCase DrawCase(Random& random) {
  RingCase c;
  c.batch = OneOf<int64_t>(random, {1, 1, 2, 3});
  c.kv_heads = OneOf<int64_t>(random, {1, 1, 2, 3});
  c.heads = c.kv_heads * OneOf<int64_t>(random, {1, 1, 2, 3, 4});
  c.head_dim = Chance(random, 50) ? OneOf<int64_t>(random, {1, 2, 8, 16, 32, 64, 80, 128, 256})
                                  : 1 + static_cast<int64_t>(random.Below(256));
  c.kv_len = DrawLength(random);
  c.q_len = Chance(random, 60) ? c.kv_len : DrawLength(random);
  c.causal = Chance(random, 65);
  c.query_offset = c.kv_len - c.q_len;
  if (Chance(random, 25)) {
    c.query_offset = static_cast<int64_t>(random.Below(2 * c.kv_len + 4)) - c.kv_len - 2;
  }
  if (Chance(random, 25)) c.scale = OneOf<double>(random, {0.0, 0.05, 0.5, -0.1});
  c.dtype = Chance(random, 60) ? DType::kF32 : DType::kBF16;
  c.ring = 1 + static_cast<int>(random.Below(6));
  c.layout = OneOf(random, {Layout::kContiguous, Layout::kStriped, Layout::kZigzag});
  c.threads = OneOf(random, {1, 1, 2, 3});
  c.seed = 1 + random.Below(1'000'000);
  // The oracle takes about a microsecond for a thousand of these.
  constexpr int64_t kMostWork = 20'000'000;
  while (c.batch * c.heads * c.head_dim * c.q_len * c.kv_len > kMostWork) {
    if (c.batch > 1) {
      c.batch = 1;
    } else {
      c.q_len /= 2;
      c.kv_len /= 2;
    }
  }
  return c;
}

ProofResult ProveCase(const RingCase& ring_case) {
  ProofResult proof;
  const RingCaseData data(ring_case);
  const AttentionOracle oracle = ComputeAttentionOracle(data.attention_case());
  const WholeResults results = RunCase(ring_case, data);
  const AttentionResults wide = ToResults(results);
  if (ring_case.seed % 4 == 0 && !SameBits(RunCase(ring_case, data), results)) {
    proof.problem = "the same case twice gives other bits";
    return proof;
  }
  if (ring_case.dtype == DType::kBF16) {
    proof.problem = CheckBf16(data, wide, oracle);
    return proof;
  }
  proof.problem = CheckAttention(wide, Results(oracle), oracle, {});
  RingCase alone = ring_case;
  alone.ring = 1;
  alone.layout = Layout::kContiguous;
  const AttentionResults one = ToResults(RunCase(alone, RingCaseData(alone)));
  const auto difference = [&](std::vector<double> AttentionResults::*tensor,
                              const std::vector<double>& scale) {
    return OverScale(LargestError(wide.*tensor, one.*tensor), LargestMagnitude(scale));
  };
  proof.forward_from_one = std::max({difference(&AttentionResults::output, oracle.output),
                                     difference(&AttentionResults::logsumexp, oracle.logsumexp),
                                     difference(&AttentionResults::dv, oracle.dv)});
  proof.backward_from_one = std::max(difference(&AttentionResults::dq, oracle.dq_terms),
                                     difference(&AttentionResults::dk, oracle.dk_terms));
  // Forward hands logsumexp to backward as one f32, whose rounding is a relative error of every
  // weight in the row: 1e-6 can be asked where that is at most a quarter of it.
  constexpr double kLargestLogSumExp = 8;
  if (proof.problem.empty() && LargestMagnitude(oracle.logsumexp) < kLargestLogSumExp) {
    proof.problem = CheckAttention(wide, one, oracle, {1e-6, 1e-6});
    if (!proof.problem.empty()) proof.problem += ", from the ring of one";
  }
  return proof;
}

}  // namespace ringwise
