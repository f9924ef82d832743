#include "ring/ring_proof.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "ring/ring_case_run.h"

namespace ringwise {
namespace {

std::string CheckBf16(const RingCaseData& data, const AttentionResults& results,
                      const AttentionOracle& oracle) {
  // Operands and results are rounded to 8 bits, which errs by 2^-9 of their size: P, dS and the
  // result each once, and dS holds twice its own terms in the bound.
  constexpr double kRoundings = 4 * 0x1p-9;
  constexpr size_t kEnough = 1000;
  const AttentionOracle plain = ComputePlainBf16Attention(data.attention_case());
  for (const MeasuredTensor& m : MeasuredTensors()) {
    const std::vector<double>& exact = oracle.*m.tensor;
    const double largest = LargestError(results.*m.tensor, exact);
    // What is within the bounds of f32 is right: where every operand happens to be exact in bf16
    // the plain formula has no error to compare with, and logsumexp meets no bf16 at all.
    const double bound = m.cancels ? AttentionBounds{}.backward : AttentionBounds{}.forward;
    if (largest <= bound * LargestMagnitude(oracle.*m.scale)) continue;
    const double roundings = m.tensor == &AttentionResults::logsumexp
                                 ? 0
                                 : kRoundings * LargestMagnitude(oracle.*m.terms);
    if (!(largest <= roundings)) {
      return fmt::format("{}: error {:.3g}, roundings add up to {:.3g}", m.name, largest,
                         roundings);
    }
    if (exact.size() < kEnough) continue;
    const double rms = RmsError(results.*m.tensor, exact);
    const double plain_rms = RmsError(plain.*m.tensor, exact);
    const double plain_largest = LargestError(plain.*m.tensor, exact);
    if (!(rms <= 1.1 * plain_rms) || !(largest <= 2 * plain_largest)) {
      return fmt::format(
          "{}: RMS error {:.3g} and largest {:.3g}, of the plain formula {:.3g} and {:.3g}", m.name,
          rms, largest, plain_rms, plain_largest);
    }
  }
  return "";
}

// The largest difference of the tensors over their scales.
double LargestDifference(const AttentionResults& a, const AttentionResults& b,
                         const AttentionOracle& oracle, bool cancels) {
  double largest = 0;
  for (const MeasuredTensor& m : MeasuredTensors()) {
    if (m.cancels != cancels) continue;
    const double error = LargestError(a.*m.tensor, b.*m.tensor);
    if (error > 0) largest = std::max(largest, error / LargestMagnitude(oracle.*m.scale));
  }
  return largest;
}

void CompareWithOne(const RingCase& ring_case, const RingCaseData& data,
                    const AttentionResults& results, const AttentionOracle& oracle,
                    ProofResult& proof) {
  RingCase alone = ring_case;
  alone.ring = 1;
  const AttentionResults one = ToResults(RunCase(alone, data));
  // Forward hands logsumexp to backward as one f32, whose rounding is a relative error of every
  // weight in the row: up to 8 it is at most a quarter of the bound, and what is larger must be
  // allowed its rounding.
  constexpr double kLargestLogSumExp = 8;
  const double rounding = std::max(1.0, LargestMagnitude(oracle.logsumexp) / kLargestLogSumExp);
  proof.forward_from_one = LargestDifference(results, one, oracle, false) / rounding;
  proof.backward_from_one = LargestDifference(results, one, oracle, true) / rounding;
  const double bound = 1e-6 * rounding;
  proof.problem = CheckAttention(results, one, oracle, {bound, bound});
  if (!proof.problem.empty()) proof.problem += ", from the ring of one";
}

std::string CheckReference(const RingCase& ring_case, const RingCaseData& data,
                           const AttentionOracle& oracle) {
  RingCase alone = ring_case;
  alone.ring = 1;
  const AttentionResults ring = RunReferenceCase(ring_case, data);
  const AttentionResults one = RunReferenceCase(alone, data);
  std::string problem = CheckAttention(ring, one, oracle, {1e-12, 1e-12});
  if (problem.empty()) problem = CheckAttention(ring, oracle, oracle, {1e-12, 1e-12});
  if (!problem.empty()) problem += ", in double";
  return problem;
}

bool IsSmall(const RingCase& c) {
  return c.batch * c.heads * c.q_len * c.kv_len * (c.head_dim + c.ValueDim()) < 2'000'000;
}

}  // namespace

std::string CheckResults(const RingCaseData& data, const AttentionResults& results,
                         const AttentionOracle& oracle) {
  if (data.whole().inputs.query.dtype == DType::kBF16) return CheckBf16(data, results, oracle);
  return CheckAttention(results, oracle, oracle, {});
}

ProofResult ProveCase(const RingCase& ring_case) {
  ProofResult proof;
  const RingCaseData data(ring_case);
  const AttentionOracle oracle = ComputeAttentionOracle(data.attention_case());
  const WholeResults results = RunCase(ring_case, data);
  const AttentionResults wide = ToResults(results);
  proof.problem = CheckResults(data, wide, oracle);
  if (!proof.problem.empty()) return proof;
  if (ring_case.seed % 4 == 0 && !SameBits(RunCase(ring_case, data), results)) {
    proof.problem = "the same case twice gives other bits";
    return proof;
  }
  if (ring_case.dtype == DType::kF32) CompareWithOne(ring_case, data, wide, oracle, proof);
  if (proof.problem.empty() && ring_case.seed % 5 == 0 && IsSmall(ring_case)) {
    proof.problem = CheckReference(ring_case, data, oracle);
  }
  return proof;
}

}  // namespace ringwise
