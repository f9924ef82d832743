#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ringwise/dtype.h"
#include "ringwise/launch.h"
#include "ringwise/layout.h"
#include "ringwise/model_config.h"

namespace ringwise {

// What a benchmark found. Shares refer to the FMA peak of the cores used (MeasurePeakFlops), the
// best of samples taken before, between and after the calls. `sustained_flops` is what the
// same samples reached together: on a machine whose neighbours take turns with it the best is what
// few milliseconds reach, and a call of a second meets what is sustained.
struct BenchmarkResult {
  int ring = 1;     // ranks, as it ran
  int threads = 1;  // a rank
  int64_t calls = 0;
  double seconds = 0;       // median of a call
  double best_seconds = 0;  // of a call
  double mean_seconds = 0;  // of a call
  double spread = 0;        // (third quartile - first) / median
  double cores = 0;         // CPU seconds over seconds, of this process: what a busy machine gave
  double flops = 0;         // of a call
  double peak_flops = 0;    // a second
  double sustained_flops = 0;  // a second; 0: not sampled

  double flops_per_second() const { return flops / seconds; }
  double share_of_peak() const { return flops / seconds / peak_flops; }
  double best_share_of_peak() const { return flops / best_seconds / peak_flops; }
  // Means of both over the same time; where it was sampled.
  double share_of_sustained() const { return flops / mean_seconds / sustained_flops; }
};

enum class Direction { kForward, kBackward, kForwardBackward };
std::string_view Name(Direction direction);  // "forward", "backward", "forward_backward"

// Documents of random lengths in [shortest, longest], packed one after another; the same every
// time. None if longest is 0.
struct PackedDocuments {
  int64_t shortest = 0;
  int64_t longest = 0;
};

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
  std::optional<int64_t> window_left = {};  // as Mask's
  std::optional<int64_t> window_right = {};
  PackedDocuments documents = {};
  Layout layout = Layout::kZigzag;
  Direction direction = Direction::kForwardBackward;
};

// FLOPs as FlashAttention counts them: 4 seq kv_seq head_dim heads batch forward, for a causal mask
// without the half of the seq x seq square at the end; 2.5 times that backward, 3.5 times both.
// With a window or documents only the pairs that see each other count.
double AttentionFlops(const AttentionProblem& problem);

// What a case is timed against: calls of both in turns, in one run.
struct AttentionReference {
  AttentionProblem problem;
  bool on_one_rank = false;  // with the cores of all ranks, which must be on one host
};

struct AttentionBenchmark {
  std::string name;
  AttentionProblem problem;
  int ring = 0;     // as in MeshOptions, which counts where this is 0
  int threads = 0;  // likewise
  std::optional<AttentionReference> reference = {};
};
// What the reference is, in words: "one rank", "contiguous", "8 kv_heads"; empty: there is none.
std::string ReferenceName(const AttentionBenchmark& benchmark);

// The cases of `bench attention` and `bench ring`, in the order of the tables in
// docs/performance.md.
std::vector<AttentionBenchmark> AttentionBenchmarks();
std::vector<AttentionBenchmark> RingBenchmarks();
// The same with at most so many queries and keys.
AttentionBenchmark Shortened(AttentionBenchmark benchmark, int64_t most);

struct AttentionBenchmarkResult : BenchmarkResult {
  double attention_work = 1;  // pairs of the busiest rank over the mean
  double tile_work = 1;       // the same of the tiles they computed
  int64_t bytes_sent = 0;     // by all ranks, a call
  int64_t most_sent = 0;      // of them by one rank
  // A few queries of a long cache: keys and values are read once, and reading may be the limit.
  double bytes_read = 0;         // of a call; 0: not such a problem, or several ranks
  double read_bandwidth = 0;     // of memory, by MeasureReadBandwidth in this run
  double product_flops = 0;      // a second: peak_flops, or in bf16 matrix tiles' where faster
  double reference_seconds = 0;  // median of the reference's calls; 0: none
  double speed_ratio = 0;        // reference's seconds over the case's: median of the turns

  double share_of_bandwidth() const { return bytes_read / seconds / read_bandwidth; }
  // Of the speed at which either reading or products, on the fastest units for them, would be the
  // limit.
  double share_of_limit() const;
};

struct BenchmarkOptions {
  double min_seconds = 2;  // of calls, at least three, after a warm-up
  bool progress = false;   // on stderr, with the time left, of what takes more than two seconds
};

template <class Benchmark, class Result>
using OnResult = std::function<void(const Benchmark&, const Result&)>;

// Checks every case at a small length against the float64 reference (the bounds of
// docs/ring_attention.md), then times it and calls on_result. Every process of an MPI job calls it;
// on_result runs on the first alone. Throws UsageError if the shapes or the mesh do not fit, Error
// if a result is wrong.
void BenchmarkAttention(const MeshOptions& mesh, const std::vector<AttentionBenchmark>& benchmarks,
                        const BenchmarkOptions& options,
                        const OnResult<AttentionBenchmark, AttentionBenchmarkResult>& on_result);

// Steps of training a Llama on one sequence a step, nothing recomputed.
struct TrainBenchmark {
  std::string name;
  ModelConfig model;
  int64_t context = 0;
  DType dtype = DType::kF32;
};
std::vector<TrainBenchmark> TrainBenchmarks();

// A call is a step, its FLOPs are those of docs/training.md: share_of_peak is the MFU.
struct TrainBenchmarkResult : BenchmarkResult {
  int64_t tokens = 0;      // a step
  int64_t peak_bytes = 0;  // of the rank that holds most
  double attention_work = 1;
  int64_t bytes_sent = 0;  // by all ranks, a step

  double tokens_per_second() const { return static_cast<double>(tokens) / seconds; }
};

// The same for training, by the trainer's own steps. The check is of a smaller model: its gradient
// against the slope of its loss, and bf16's against f32's.
void BenchmarkTraining(const MeshOptions& mesh, Layout layout,
                       const std::vector<TrainBenchmark>& benchmarks,
                       const BenchmarkOptions& options,
                       const OnResult<TrainBenchmark, TrainBenchmarkResult>& on_result);

// Which of the names match any of the patterns (* and ? as in a shell), in their order. Throws
// UsageError for a pattern that matches none, naming all there are.
std::vector<size_t> SelectCases(const std::vector<std::string>& names,
                                const std::vector<std::string>& patterns);

// c [m, n] = a [m, k] b [k, n]
struct GemmProblem {
  int64_t m = 2048;
  int64_t n = 2048;
  int64_t k = 2048;
  DType dtype = DType::kF32;
};

// Checks and times a matrix product on one rank of `threads` threads (0: every core): a warm-up,
// then calls until `min_seconds` have passed, at least three.
BenchmarkResult BenchmarkGemm(int threads, const GemmProblem& problem, double min_seconds);

}  // namespace ringwise
