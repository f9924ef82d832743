#include <algorithm>
#include <chrono>
#include <cmath>
#include <span>
#include <vector>

#include "benchmark/timing.h"
#include "kernels/gemm.h"
#include "ringwise/context.h"
#include "ringwise/cpu.h"
#include "ringwise/error.h"
#include "ringwise/random.h"
#include "ringwise/tensor.h"

namespace ringwise {
namespace {

// The operands of one product: left [m, k] in the type computed in, right [k, n] as the weight
// [n, k] it is packed from.
struct Product {
  Product(Context& context, Gemm& gemm, const GemmProblem& problem)
      : left(context.meter, MemoryCategory::kActivations, problem.dtype, {problem.m, problem.k}),
        weight(context.meter, MemoryCategory::kParameters, DType::kF32, {problem.n, problem.k}),
        output(context.meter, MemoryCategory::kActivations, DType::kF32, {problem.m, problem.n}) {
    Random random(1, 0);
    const auto fill = [&]<class T>(T* out, int64_t count) {
      for (int64_t i = 0; i < count; ++i) {
        // Few enough bits to be exact in bf16.
        out[i] = T(static_cast<float>(random.Below(129)) / 64 - 1);
      }
    };
    DispatchDType(problem.dtype, [&]<class T>(T) { fill(left.data<T>(), left.elements()); });
    fill(weight.data<float>(), weight.elements());
    const ConstTensorView weights[] = {weight.view()};
    right = gemm.Pack(weights, Gemm::Orientation::kTransposed, problem.dtype);
  }

  Tensor left, weight, output;
  PackedMatrix right;
};

// Sums of k products of numbers of magnitude at most 1, in f32: off by at most k^2 / 2 roundings.
void CheckSmall(Context& context, Gemm& gemm, GemmProblem problem) {
  problem.m = std::min<int64_t>(problem.m, 67);
  problem.n = std::min<int64_t>(problem.n, 83);
  problem.k = std::min<int64_t>(problem.k, 301);
  Product product(context, gemm, problem);
  gemm.Multiply(product.left.view(), product.right, product.output.view());
  const auto k = static_cast<double>(problem.k);
  for (int64_t i = 0; i < problem.m; ++i) {
    for (int64_t j = 0; j < problem.n; ++j) {
      double sum = 0;
      for (int64_t l = 0; l < problem.k; ++l) {
        const double left = DispatchDType(problem.dtype, [&]<class T>(T) {
          return static_cast<double>(static_cast<float>(product.left.data<T>()[i * problem.k + l]));
        });
        sum += left * product.weight.data<float>()[j * problem.k + l];
      }
      const double error = std::abs(product.output.data<float>()[i * problem.n + j] - sum);
      if (!(error <= k * k / 2 * 0x1p-24)) {
        throw Error("the matrix product is wrong, nothing was timed");
      }
    }
  }
}

}  // namespace

BenchmarkResult BenchmarkGemm(int threads, const GemmProblem& problem, double min_seconds) {
  for (const int64_t extent : {problem.m, problem.n, problem.k}) {
    if (extent < 1) throw UsageError("--m, --n and --k must be at least 1");
  }
  ThreadTeam team(threads == 0 ? AvailableCores() : threads);
  MemoryMeter meter;
  Context context{team, meter};
  Gemm gemm(context);
  CheckSmall(context, gemm, problem);

  Product product(context, gemm, problem);
  const auto run = [&] {
    gemm.Multiply(product.left.view(), product.right, product.output.view());
  };
  run();
  BenchmarkResult result;
  result.threads = team.size();
  result.flops = 2.0 * static_cast<double>(problem.m) * static_cast<double>(problem.n) *
                 static_cast<double>(problem.k);
  constexpr double kBetweenPeaks = 0.5;
  CallTimes times;
  PeakSamples peak;
  std::chrono::steady_clock::time_point last_peak;
  while (!times.Enough(min_seconds)) {
    const auto now = std::chrono::steady_clock::now();
    if (now - last_peak > std::chrono::duration<double>(kBetweenPeaks)) {
      peak.Add(MeasurePeakFlops(team, problem.dtype));
      last_peak = std::chrono::steady_clock::now();
    }
    times.Time(run);
  }
  peak.Add(MeasurePeakFlops(team, problem.dtype));
  result.peak_flops = peak.best();
  result.sustained_flops = peak.sustained();
  times.Summarize(result);
  return result;
}

}  // namespace ringwise
