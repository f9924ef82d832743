#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cli/bench_parts.h"
#include "cli/bench_report.h"
#include "cli/flags.h"
#include "ringwise/benchmark.h"

namespace ringwise {
namespace {

struct AttentionFlags {
  AttentionProblem problem;
  MeshOptions mesh;
  std::string dtype = "f32";
  std::vector<int64_t> window, documents;
  int64_t max_seq = 0;
  BenchFlags bench;
};

BenchRecord RecordOf(const AttentionBenchmark& benchmark, const AttentionBenchmarkResult& result) {
  const AttentionProblem& problem = benchmark.problem;
  BenchRecord record = {{"case", benchmark.name},       {"batch", problem.batch},
                        {"seq", problem.seq},           {"kv_seq", problem.kv_seq},
                        {"heads", problem.heads},       {"kv_heads", problem.kv_heads},
                        {"head_dim", problem.head_dim}, {"dtype", Name(problem.dtype)},
                        {"causal", problem.causal}};
  if (problem.window_left) record["window_left"] = *problem.window_left;
  if (problem.window_right) record["window_right"] = *problem.window_right;
  if (problem.documents.longest > 0) {
    record["documents"] = {problem.documents.shortest, problem.documents.longest};
  }
  record["ring"] = result.ring;
  record["layout"] = Name(problem.layout);
  record["threads"] = result.threads;
  record["direction"] = Name(problem.direction);
  AddMeasured(record, result);
  if (result.ring > 1) {
    record["attention_work"] = result.attention_work;
    record["tile_work"] = result.tile_work;
    record["bytes_sent"] = result.bytes_sent;
    record["most_sent"] = result.most_sent;
  }
  if (result.bytes_read > 0) {
    record["read_gbytes"] = result.bytes_read / result.seconds / 1e9;
    record["read_bandwidth_gbytes"] = result.read_bandwidth / 1e9;
    record["share_of_bandwidth"] = result.share_of_bandwidth();
    record["share_of_limit"] = result.share_of_limit();
  }
  if (result.reference_seconds > 0) {
    record["reference"] = ReferenceName(benchmark);
    record["reference_seconds"] = result.reference_seconds;
    record["speed_ratio"] = result.speed_ratio;
  }
  return record;
}

// Of the table, with a dash for what such a case does not have.
std::vector<std::string> OwnColumns(const AttentionBenchmarkResult& result) {
  const auto shown = [](bool has, double value) {
    return has ? fmt::format("{:.3f}", value) : std::string("-");
  };
  const bool travels = result.ring > 1;
  const bool reads = result.bytes_read > 0;
  return {shown(result.reference_seconds > 0, result.speed_ratio),
          shown(travels, static_cast<double>(result.bytes_sent) / 1e6),
          shown(travels, result.attention_work), shown(reads, result.share_of_bandwidth()),
          shown(reads, result.share_of_limit())};
}

// Runs the cases and prints each as it ends.
void Run(const AttentionFlags& flags, std::vector<AttentionBenchmark> benchmarks) {
  CheckTraceOfOneCase(flags.mesh, benchmarks.size());
  if (flags.max_seq > 0) {
    for (AttentionBenchmark& benchmark : benchmarks) {
      benchmark = Shortened(std::move(benchmark), flags.max_seq);
    }
  }
  BenchTable table(LongestName(benchmarks),
                   {"speed ratio", "MB sent", "work", "of reading", "of limit"});
  const BenchmarkOptions options{.min_seconds = flags.bench.min_seconds, .progress = true};
  BenchmarkAttention(
      flags.mesh, benchmarks, options,
      [&](const AttentionBenchmark& benchmark, const AttentionBenchmarkResult& result) {
        if (flags.bench.json) {
          PrintRecord(RecordOf(benchmark, result));
        } else {
          table.Row(benchmark.name, result, OwnColumns(result));
        }
      });
}

template <class Value>
void Flag(CLI::App& command, CLI::Option* cases, const char* name, Value& value,
          const char* meaning) {
  command.add_option(name, value, meaning)
      ->capture_default_str()
      ->type_name("N")
      ->check(NumberFor(value))
      ->check(AtLeastZero())
      ->excludes(cases);
}

// One or two whole numbers with a comma between.
CLI::Option* NumbersFlag(CLI::App& command, const char* name, std::vector<int64_t>& values,
                         int least, const char* type, const char* meaning) {
  return command.add_option(name, values, meaning)
      ->delimiter(',')
      ->expected(least, 2)
      ->type_name(type)
      ->check(NumberFor(int64_t{}))
      ->check(AtLeastZero());
}

// The flags that make a problem of one's own, which a named case has in itself.
void AddProblemFlags(CLI::App& command, CLI::Option* cases, AttentionFlags& flags) {
  AttentionProblem& problem = flags.problem;
  Flag(command, cases, "--batch", problem.batch, "Sequences");
  Flag(command, cases, "--seq", problem.seq, "Queries of a sequence, its last positions");
  Flag(command, cases, "--kv-seq", problem.kv_seq, "Keys of a sequence; 0: as --seq");
  Flag(command, cases, "--heads", problem.heads, "Query heads");
  Flag(command, cases, "--kv-heads", problem.kv_heads, "Key/value heads; 0: as --heads");
  Flag(command, cases, "--head-dim", problem.head_dim, "Width of a head, at most 256");
  command.add_flag("--causal", problem.causal, "Queries see no later key")->excludes(cases);
  NumbersFlag(command, "--window", flags.window, 1, "LEFT[,RIGHT]",
              "Queries see so many keys before, and after, their own position")
      ->excludes(cases);
  NumbersFlag(command, "--documents", flags.documents, 2, "MIN,MAX",
              "Packed documents of random lengths, which do not see each other")
      ->excludes(cases);
  command
      .add_option_function<std::string>(
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
      ->check(CLI::IsMember({"forward", "backward", "forward_backward"}).description(""))
      ->excludes(cases);
  AddDTypeFlag(command, flags.dtype);
  AddLayoutFlag(command, problem.layout);
  for (const char* name : {"--dtype", "--layout"}) command.get_option(name)->excludes(cases);
}

AttentionBenchmark Custom(const AttentionFlags& flags) {
  AttentionBenchmark benchmark{.name = "custom", .problem = flags.problem};
  AttentionProblem& problem = benchmark.problem;
  problem.dtype = ResolveDType(flags.dtype);
  if (!flags.window.empty()) problem.window_left = flags.window[0];
  if (flags.window.size() > 1) problem.window_right = flags.window[1];
  if (!flags.documents.empty()) problem.documents = {flags.documents[0], flags.documents[1]};
  return benchmark;
}

void AddMaxSeqFlag(CLI::App& command, int64_t& max_seq) {
  command
      .add_option("--max-seq", max_seq,
                  "Cut every case to so many tokens, for a quick look; 0: as they are")
      ->capture_default_str()
      ->type_name("N")
      ->check(NumberFor(max_seq))
      ->check(AtLeastZero());
}

}  // namespace

void AddBenchAttention(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand(
      "attention",
      "Attention, named cases or one of your own: checked against float64, then timed against the "
      "FMA peak");
  const auto flags = std::make_shared<AttentionFlags>();
  CLI::Option* const cases = AddCaseFlags(*command, flags->bench);
  AddProblemFlags(*command, cases, *flags);
  AddMaxSeqFlag(*command, flags->max_seq);
  AddMeshFlags(*command, flags->mesh);
  AddTraceFlag(*command, flags->mesh);
  AddBenchOutputFlags(*command, flags->bench);
  AddConfigFlag(*command);
  command->callback([flags] {
    if (flags->bench.list) return ListCases(AttentionBenchmarks());
    if (flags->bench.cases.empty()) return Run(*flags, {Custom(*flags)});
    Run(*flags, ChosenCases(AttentionBenchmarks(), flags->bench));
  });
}

void AddBenchRing(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand(
      "ring",
      "Rings of 2, 4 and 8 ranks against one rank with the same cores, and layouts against the "
      "contiguous one, in turns; under mpirun the cases of as many ranks");
  const auto flags = std::make_shared<AttentionFlags>();
  AddCaseFlags(*command, flags->bench);
  AddMaxSeqFlag(*command, flags->max_seq);
  AddRankFlags(*command, flags->mesh);
  AddTraceFlag(*command, flags->mesh);
  AddBenchOutputFlags(*command, flags->bench);
  AddConfigFlag(*command);
  command->callback([flags] {
    if (flags->bench.list) return ListCases(RingBenchmarks());
    Run(*flags, ChosenCases(RingBenchmarks(), flags->bench));
  });
}

}  // namespace ringwise
