#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/commands.h"
#include "cli/flags.h"
#include "ringwise/benchmark.h"

namespace ringwise {
namespace {

using Json = nlohmann::ordered_json;

template <class Value>
void Flag(CLI::App& command, const char* name, Value& value, const char* meaning) {
  command.add_option(name, value, meaning)
      ->capture_default_str()
      ->type_name("N")
      ->check(NumberFor(value))
      ->check(AtLeastZero());
}

void AddMinSecondsFlag(CLI::App& command, double& seconds) {
  command
      .add_option("--min-seconds", seconds,
                  "Repeat for at least so long, and three times; the median is reported")
      ->capture_default_str()
      ->type_name("SECONDS")
      ->check(NumberFor(seconds))
      ->check(AtLeastZero());
}

// The problem's own fields first, then what was measured.
void Print(Json record, const BenchmarkResult& result, bool json) {
  if (json) {
    record["seconds"] = result.seconds;
    record["best_seconds"] = result.best_seconds;
    record["spread"] = result.spread;
    record["calls"] = result.calls;
    record["cores"] = result.cores;
    record["gflops"] = result.flops_per_second() / 1e9;
    record["peak_gflops"] = result.peak_flops / 1e9;
    record["share_of_peak"] = result.share_of_peak();
    record["best_share_of_peak"] = result.best_share_of_peak();
    fmt::print("{}\n", record.dump());
    return;
  }
  std::string problem;
  for (const auto& [name, value] : record.items()) {
    problem += fmt::format("{}{} {}", problem.empty() ? "" : ", ", name,
                           value.is_string() ? value.get<std::string>() : value.dump());
  }
  fmt::print("{}\n", problem);
  fmt::print("  {:.4g} s a call, the median of {}; the best {:.4g} s, quartiles {:.1f} % apart\n",
             result.seconds, result.calls, result.best_seconds, 100 * result.spread);
  fmt::print("  {:.2f} cores busy with it\n", result.cores);
  fmt::print("  {:.1f} of {:.1f} GFLOP/s: {:.1f} % of the FMA peak; the best {:.1f} %\n",
             result.flops_per_second() / 1e9, result.peak_flops / 1e9, 100 * result.share_of_peak(),
             100 * result.best_share_of_peak());
}

struct AttentionFlags {
  AttentionProblem problem;
  MeshOptions mesh;
  std::string dtype = "f32";
  double min_seconds = 2;
  bool json = false;
};

void RunAttention(const AttentionFlags& flags) {
  AttentionProblem problem = flags.problem;
  problem.dtype = ResolveDType(flags.dtype);
  if (problem.kv_seq == 0) problem.kv_seq = problem.seq;
  if (problem.kv_heads == 0) problem.kv_heads = problem.heads;
  const auto result = BenchmarkAttention(flags.mesh, problem, flags.min_seconds);
  if (!result) return;
  Print({{"batch", problem.batch},
         {"seq", problem.seq},
         {"kv_seq", problem.kv_seq},
         {"heads", problem.heads},
         {"kv_heads", problem.kv_heads},
         {"head_dim", problem.head_dim},
         {"dtype", Name(problem.dtype)},
         {"causal", problem.causal},
         {"ring", result->ring},
         {"layout", Name(problem.layout)},
         {"threads", result->threads},
         {"direction", Name(problem.direction)}},
        *result, flags.json);
}

void AddBenchAttention(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand(
      "attention", "Ring attention: checked against float64, then timed against the FMA peak");
  const auto flags = std::make_shared<AttentionFlags>();
  AttentionProblem& problem = flags->problem;
  Flag(*command, "--batch", problem.batch, "Sequences");
  Flag(*command, "--seq", problem.seq, "Queries of a sequence, its last positions");
  Flag(*command, "--kv-seq", problem.kv_seq, "Keys of a sequence; 0: as --seq");
  Flag(*command, "--heads", problem.heads, "Query heads");
  Flag(*command, "--kv-heads", problem.kv_heads, "Key/value heads; 0: as --heads");
  Flag(*command, "--head-dim", problem.head_dim, "Width of a head, at most 256");
  command->add_flag("--causal", problem.causal, "Queries see no later key");
  command
      ->add_option_function<std::string>(
          "--direction",
          [&problem](const std::string& name) {
            for (const Direction direction :
                 {Direction::kForward, Direction::kBackward, Direction::kForwardBackward}) {
              if (name == Name(direction)) problem.direction = direction;
            }
          },
          "What is timed: forward, backward or forward_backward")
      ->default_str("forward_backward")
      ->type_name("NAME")
      ->check(CLI::IsMember({"forward", "backward", "forward_backward"}).description(""));
  AddDTypeFlag(*command, flags->dtype);
  AddLayoutFlag(*command, problem.layout);
  AddMeshFlags(*command, flags->mesh);
  AddMinSecondsFlag(*command, flags->min_seconds);
  AddJsonFlag(*command, flags->json);
  AddConfigFlag(*command);
  command->callback([flags] { RunAttention(*flags); });
}

struct GemmFlags {
  GemmProblem problem;
  int threads = 0;
  std::string dtype = "f32";
  double min_seconds = 2;
  bool json = false;
};

void RunGemm(const GemmFlags& flags) {
  GemmProblem problem = flags.problem;
  problem.dtype = ResolveDType(flags.dtype);
  const BenchmarkResult result = BenchmarkGemm(flags.threads, problem, flags.min_seconds);
  Print({{"m", problem.m},
         {"n", problem.n},
         {"k", problem.k},
         {"dtype", Name(problem.dtype)},
         {"threads", result.threads}},
        result, flags.json);
}

void AddGemm(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand(
      "gemm", "Matrix product [m, k] [k, n] with a packed right factor, against the FMA peak");
  const auto flags = std::make_shared<GemmFlags>();
  Flag(*command, "--m", flags->problem.m, "Rows of the result");
  Flag(*command, "--n", flags->problem.n, "Columns of the result");
  Flag(*command, "--k", flags->problem.k, "Terms of a sum");
  Flag(*command, "--threads", flags->threads, "Threads; 0: one a core");
  AddDTypeFlag(*command, flags->dtype);
  AddMinSecondsFlag(*command, flags->min_seconds);
  AddJsonFlag(*command, flags->json);
  AddConfigFlag(*command);
  command->callback([flags] { RunGemm(*flags); });
}

}  // namespace

void AddBench(CLI::App& app) {
  CLI::App* bench =
      app.add_subcommand("bench", "Measure against this machine's own floating-point peak");
  bench->require_subcommand(1);
  AddBenchAttention(*bench);
  AddGemm(*bench);
}

}  // namespace ringwise
