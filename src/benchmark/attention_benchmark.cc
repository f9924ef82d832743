#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "benchmark/attention_call.h"
#include "benchmark/case_progress.h"
#include "benchmark/reference_call.h"
#include "benchmark/timing.h"
#include "core/out_of_memory.h"
#include "kernels/cache.h"
#include "ring/attention_work.h"
#include "ringwise/cpu.h"
#include "ringwise/error.h"
#include "training/mesh_peak.h"

namespace ringwise {
namespace {

// A few queries read a long cache: what decoding does.
bool IsDecoding(const AttentionProblem& problem) {
  constexpr int64_t kFewQueries = 16;
  constexpr int64_t kKeysAQuery = 64;
  return problem.direction == Direction::kForward && problem.seq <= kFewQueries &&
         problem.kv_seq >= kKeysAQuery * problem.seq;
}

double KeyValueBytes(const AttentionProblem& problem) {
  return 2.0 *
         static_cast<double>(problem.batch * problem.kv_seq * problem.kv_heads * problem.head_dim) *
         static_cast<double>(SizeOf(problem.dtype));
}

// A cache that is read again and again may stay in the last level of caches, as that of one layer
// of many does not: decoding is timed on so many copies in turns that none finds itself there.
int CopiesOf(const AttentionProblem& problem) {
  constexpr double kMost = 8;
  if (!IsDecoding(problem)) return 1;
  const double needed = 2.0 * static_cast<double>(LastCacheBytes()) / KeyValueBytes(problem);
  return static_cast<int>(std::clamp(std::ceil(needed), 1.0, kMost));
}

// By how many pairs each rank's queries see.
double WorkByLayout(const AttentionProblem& problem, int ranks) {
  const Mask mask = MaskOf(problem);
  const Positions keys = {{.start = 0, .count = problem.kv_seq}};
  std::vector<double> pairs;
  for (int rank = 0; rank < ranks; ++rank) {
    const Positions queries =
        ShardPositions(problem.layout, problem.seq, ranks, rank, problem.kv_seq - problem.seq);
    pairs.push_back(
        static_cast<double>(VisiblePairs(mask, problem.batch, problem.heads, queries, keys)));
  }
  return LargestOverMean(pairs);
}

// Every rank's value, in rank order.
std::vector<double> GatherDoubles(Communicator& ring, double mine) {
  std::vector<double> all(static_cast<size_t>(ring.size()));
  all[static_cast<size_t>(ring.rank())] = mine;
  ring.AllReduceSum(std::span<double>(all));
  return all;
}

// One case on one rank.
class CaseRun {
 public:
  CaseRun(Rank& rank, const AttentionBenchmark& benchmark, const BenchmarkOptions& options,
          CaseProgress& progress)
      : rank_(rank), benchmark_(benchmark), options_(options), progress_(progress) {}

  // Meaningful on rank 0 of the world. Collective.
  AttentionBenchmarkResult Measure() {
    CheckAttentionProblem(rank_, benchmark_.problem);
    for (int i = CopiesOf(benchmark_.problem); i > 0; --i) {
      calls_.push_back(
          std::make_unique<AttentionCall>(rank_.context, rank_.ring, benchmark_.problem));
    }
    if (benchmark_.reference) {
      reference_ = std::make_unique<ReferenceCall>(rank_, *benchmark_.reference);
    }
    CountBytesAndTiles();  // by the warm-up
    if (reference_) reference_->Run();
    SampleLimits();
    while (TimeOnce()) {
    }
    if (rank_.world.rank() != 0) return {};
    times_.Summarize(result_);
    result_.peak_flops = peak_.best();
    result_.sustained_flops = peak_.sustained();
    if (reference_) {
      BenchmarkResult reference;
      reference_times_.Summarize(reference);
      result_.reference_seconds = reference.seconds;
      result_.speed_ratio = times_.SpeedRatio(reference_times_);
    }
    const AttentionProblem& problem = benchmark_.problem;
    result_.ring = rank_.ring.size();
    result_.threads = rank_.context.team.size();
    result_.flops = AttentionFlops(problem);
    result_.attention_work = WorkByLayout(problem, rank_.ring.size());
    return result_;
  }

 private:
  void RunCall() {
    calls_[next_]->Run();
    next_ = (next_ + 1) % calls_.size();
    rank_.ring.Barrier();
  }

  void CountBytesAndTiles() {
    const int64_t before = rank_.ring.bytes_sent();
    RunCall();
    const auto sent =
        GatherDoubles(rank_.ring, static_cast<double>(rank_.ring.bytes_sent() - before));
    for (const double bytes : sent) result_.bytes_sent += static_cast<int64_t>(bytes);
    result_.most_sent = static_cast<int64_t>(*std::ranges::max_element(sent));
    result_.tile_work =
        LargestOverMean(GatherDoubles(rank_.ring, static_cast<double>(calls_[0]->tiles())));
  }

  void SampleLimits() {
    const DType dtype = benchmark_.problem.dtype;
    peak_.Add(MeasureMeshPeak(rank_, dtype));
    if (IsDecoding(benchmark_.problem) && rank_.world.size() == 1) {
      const double tiles =
          dtype == DType::kBF16 ? MeasureTilePeakFlops(rank_.context.team).best : 0.0;
      result_.product_flops = std::max({result_.product_flops, peak_.best(), tiles});
      result_.bytes_read = KeyValueBytes(benchmark_.problem);
      result_.read_bandwidth =
          std::max(result_.read_bandwidth, MeasureReadBandwidth(rank_.context.team));
    }
  }

  // True if more calls are needed.
  bool TimeOnce() {
    rank_.ring.Barrier();
    times_.Time([&] { RunCall(); });
    if (reference_) reference_times_.Time([&] { reference_->Run(); });
    const bool enough = times_.Enough(options_.min_seconds);
    // Many short calls: some of them between two samples.
    const bool samples = enough || times_.seconds() >= sampled_at_ + kBetweenSamples;
    std::array<std::byte, 2> decided = {std::byte{!enough}, std::byte{samples}};
    rank_.ring.Broadcast(decided, 0);
    if (decided[1] != std::byte{0}) {
      SampleLimits();
      sampled_at_ = times_.seconds();
    }
    if (rank_.world.rank() == 0) progress_.Update(times_.Share(options_.min_seconds));
    return decided[0] != std::byte{0};
  }

  static constexpr double kBetweenSamples = 0.5;  // seconds of calls

  Rank& rank_;
  const AttentionBenchmark& benchmark_;
  const BenchmarkOptions& options_;
  CaseProgress& progress_;
  std::vector<std::unique_ptr<AttentionCall>> calls_;  // copies, in turns
  size_t next_ = 0;
  std::unique_ptr<ReferenceCall> reference_;
  CallTimes times_, reference_times_;
  PeakSamples peak_;
  double sampled_at_ = 0;
  AttentionBenchmarkResult result_;
};

// Of a case's calls, in FLOPs; short ones are repeated, here at some machine's pace.
double Cost(const AttentionBenchmark& benchmark, const BenchmarkOptions& options) {
  constexpr double kPace = 1e11;
  constexpr double kCalls = 4;
  const double both = AttentionFlops(benchmark.problem) +
                      (benchmark.reference ? AttentionFlops(benchmark.reference->problem) : 0);
  return std::max(kCalls * both, kPace * (1 + options.min_seconds));
}

AttentionBenchmark WithDefaults(AttentionBenchmark benchmark) {
  benchmark.problem = WithDefaults(benchmark.problem);
  if (benchmark.reference) {
    benchmark.reference->problem = WithDefaults(benchmark.reference->problem);
  }
  return benchmark;
}

}  // namespace

double AttentionBenchmarkResult::share_of_limit() const {
  return std::max(flops / product_flops, bytes_read / read_bandwidth) / seconds;
}

void BenchmarkAttention(const MeshOptions& mesh, const std::vector<AttentionBenchmark>& given,
                        const BenchmarkOptions& options,
                        const OnResult<AttentionBenchmark, AttentionBenchmarkResult>& on_result) {
  if (mesh.data_parallel > 1)
    throw UsageError("bench attention measures one ring; leave out --data-parallel");
  std::vector<AttentionBenchmark> benchmarks;
  std::vector<double> costs;
  for (const AttentionBenchmark& one : given) {
    benchmarks.push_back(WithDefaults(one));
    costs.push_back(Cost(benchmarks.back(), options));
  }
  CaseProgress progress(options.progress, std::move(costs));
  for (const AttentionBenchmark& benchmark : benchmarks) {
    MeshOptions own = mesh;
    if (benchmark.ring > 0) own.ring = benchmark.ring;
    if (benchmark.threads > 0) own.threads = benchmark.threads;
    std::optional<AttentionBenchmarkResult> result;
    Launch(own, [&](Rank& rank) {
      ExplainOutOfMemory("use more hosts, or a shorter --seq", [&] {
        if (rank.world.rank() == 0) progress.Begin(benchmark.name);
        CaseRun run(rank, benchmark, options, progress);
        const AttentionBenchmarkResult mine = run.Measure();
        if (rank.world.rank() == 0) result = mine;
      });
    });
    if (result) on_result(benchmark, *result);
  }
}

}  // namespace ringwise
