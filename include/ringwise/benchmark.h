#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "ringwise/dtype.h"
#include "ringwise/launch.h"
#include "ringwise/layout.h"

namespace ringwise {

// What a benchmark found. Shares refer to the FMA peak of the cores used (MeasurePeakFlops), the
// best of samples taken before, between and after the calls.
struct BenchmarkResult {
  int ring = 1;     // ranks, as it ran
  int threads = 1;  // a rank
  int64_t calls = 0;
  double seconds = 0;       // median of a call
  double best_seconds = 0;  // of a call
  double spread = 0;        // (third quartile - first) / median
  double cores = 0;         // CPU seconds over seconds, of this process: what a busy machine gave
  double flops = 0;         // of a call
  double peak_flops = 0;    // a second

  double flops_per_second() const { return flops / seconds; }
  double share_of_peak() const { return flops / seconds / peak_flops; }
  double best_share_of_peak() const { return flops / best_seconds / peak_flops; }
};

enum class Direction { kForward, kBackward, kForwardBackward };
std::string_view Name(Direction direction);  // "forward", "backward", "forward_backward"

// One call of ring attention.
struct AttentionProblem {
  int64_t batch = 1;
  int64_t seq = 8192;  // queries, the last of
  int64_t kv_seq = 0;  // keys; 0: as seq
  int64_t heads = 8;
  int64_t kv_heads = 0;  // 0: as heads
  int64_t head_dim = 64;
  DType dtype = DType::kF32;
  bool causal = false;
  Layout layout = Layout::kZigzag;
  Direction direction = Direction::kForwardBackward;
};

// FLOPs as FlashAttention counts them: 4 seq kv_seq head_dim heads batch forward, for a causal mask
// without the half of the seq x seq square at the end; 2.5 times that backward, 3.5 times both.
double AttentionFlops(const AttentionProblem& problem);

// Checks the problem at a small length against the float64 reference (the bounds of
// docs/ring_attention.md), then times it: a warm-up, then calls until `min_seconds` have passed, at
// least three. Every process of an MPI job calls it; empty on all but the first. Throws UsageError
// if the shapes or the mesh do not fit, Error if a result is wrong.
std::optional<BenchmarkResult> BenchmarkAttention(const MeshOptions& mesh, AttentionProblem problem,
                                                  double min_seconds);

// c [m, n] = a [m, k] b [k, n]
struct GemmProblem {
  int64_t m = 2048;
  int64_t n = 2048;
  int64_t k = 2048;
  DType dtype = DType::kF32;
};

// The same for a matrix product on one rank of `threads` threads (0: every core).
BenchmarkResult BenchmarkGemm(int threads, const GemmProblem& problem, double min_seconds);

}  // namespace ringwise
