#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "cli/bench_parts.h"
#include "cli/bench_report.h"
#include "cli/flags.h"
#include "ringwise/benchmark.h"

namespace ringwise {
namespace {

struct GemmFlags {
  GemmProblem problem;
  int threads = 0;
  std::string dtype = "f32";
  BenchFlags bench;
};

template <class Value>
void Flag(CLI::App& command, const char* name, Value& value, const char* meaning) {
  command.add_option(name, value, meaning)
      ->capture_default_str()
      ->type_name("N")
      ->check(NumberFor(value))
      ->check(AtLeastZero());
}

void Run(const GemmFlags& flags) {
  GemmProblem problem = flags.problem;
  problem.dtype = ResolveDType(flags.dtype);
  const BenchmarkResult result = BenchmarkGemm(flags.threads, problem, flags.bench.min_seconds);
  if (flags.bench.json) {
    BenchRecord record = {{"m", problem.m},
                          {"n", problem.n},
                          {"k", problem.k},
                          {"dtype", Name(problem.dtype)},
                          {"threads", result.threads}};
    AddMeasured(record, result);
    PrintRecord(record);
    return;
  }
  const std::string name =
      fmt::format("{} x {} x {}, {}", problem.m, problem.n, problem.k, Name(problem.dtype));
  BenchTable(name.size(), {}).Row(name, result, {});
}

}  // namespace

void AddBenchGemm(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand(
      "gemm", "Matrix product [m, k] [k, n] with a packed right factor, against the FMA peak");
  const auto flags = std::make_shared<GemmFlags>();
  Flag(*command, "--m", flags->problem.m, "Rows of the result");
  Flag(*command, "--n", flags->problem.n, "Columns of the result");
  Flag(*command, "--k", flags->problem.k, "Terms of a sum");
  Flag(*command, "--threads", flags->threads, "Threads; 0: one a core");
  AddDTypeFlag(*command, flags->dtype);
  AddBenchOutputFlags(*command, flags->bench);
  AddConfigFlag(*command);
  command->callback([flags] { Run(*flags); });
}

}  // namespace ringwise
