#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cli/bench_parts.h"
#include "cli/bench_report.h"
#include "cli/flags.h"
#include "ringwise/context_benchmark.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

constexpr double kMiB = 1 << 20;

struct ContextFlags {
  ContextOptions options;
  std::vector<std::string> designs, tables;  // patterns
  double budget = 64;                        // MiB
  std::string dtype = "f32";
  bool list = false;
  BenchFlags bench;
};

double MiB(int64_t bytes) { return static_cast<double>(bytes) / kMiB; }

BenchRecord RecordOf(const char* table, const ContextFlags& flags, const ContextDesign& design,
                     int ranks, int64_t context) {
  return {{"table", table},
          {"design", design.name},
          {"attention", Name(design.attention)},
          {"layout", Name(design.layout)},
          {"sparse", design.sparse},
          {"dtype", Name(flags.options.dtype)},
          {"ranks", ranks},
          {"context", context}};
}

// The tables for people: a heading and its columns whenever another one begins.
class ContextTables {
 public:
  // The rest of a row after the design, its ranks and the context.
  void Row(const std::string& title, const std::string& columns, const ContextDesign& design,
           int ranks, int64_t context, const std::string& rest) {
    if (title != std::exchange(title_, title)) {
      fmt::print("\n{}\n{:<17}{:>6}{:>9}{}\n", title, "design", "ranks", "context", columns);
    }
    fmt::print("{:<17}{:>6}{:>9}{}\n", design.name, ranks, context, rest);
    std::fflush(stdout);
  }

 private:
  std::string title_;
};

OnContextResult Printer(const ContextFlags& flags, ContextTables& tables) {
  const bool json = flags.bench.json;
  OnContextResult printer;
  printer.memory = [&flags, &tables, json](const ContextDesign& design,
                                           const ContextMemory& memory) {
    if (json) {
      BenchRecord record = RecordOf("memory", flags, design, memory.ranks, memory.context);
      record["working"] = memory.working;
      record["kept_a_layer"] = memory.kept;
      record["at_work"] = memory.at_work;
      record["paper"] = memory.paper;
      record["paper_formula"] = memory.paper_formula;
      return PrintRecord(record);
    }
    tables.Row(
        "Memory of a training step, MiB of the rank that holds most (dry runs)",
        "    total  a layer  at work  papers, a layer", design, memory.ranks, memory.context,
        fmt::format("{:>9.2f}{:>9.2f}{:>9.2f}{:>9.2f} = {}", MiB(memory.working), MiB(memory.kept),
                    MiB(memory.at_work), MiB(memory.paper), memory.paper_formula));
  };
  printer.largest = [&flags, &tables, json](const ContextDesign& design,
                                            const ContextLargest& largest) {
    if (json) {
      BenchRecord record = RecordOf("largest", flags, design, largest.ranks, largest.context);
      record["budget"] = flags.options.budget;
      record["predicted"] = largest.predicted;
      if (flags.options.trains) {
        record["measured"] = largest.measured;
        record["loss"] = largest.loss;
        record["seconds"] = largest.seconds;
      }
      return PrintRecord(record);
    }
    const std::string step = flags.options.trains
                                 ? fmt::format("{:>16.3f}{:>7.3f}{:>10.2f}", MiB(largest.measured),
                                               largest.loss, largest.seconds)
                                 : fmt::format("{:>16}{:>7}{:>10}", "-", "-", "-");
    tables.Row(fmt::format("Largest context within {:g} MiB a rank", flags.budget),
               "  dry run, MiB  real step, MiB   loss   seconds", design, largest.ranks,
               largest.context, fmt::format("{:>14.3f}{}", MiB(largest.predicted), step));
  };
  printer.time = [&flags, &tables, json](const ContextDesign& design, const ContextTime& time) {
    if (json) {
      BenchRecord record = RecordOf("time", flags, design, time.ring, time.context);
      record["threads"] = time.threads;
      record["seconds"] = time.seconds;
      record["best_seconds"] = time.best_seconds;
      record["spread"] = time.spread;
      record["calls"] = time.calls;
      record["cores"] = time.cores;
      record["tokens_per_second"] = time.tokens_per_second();
      record["loss"] = time.loss;
      return PrintRecord(record);
    }
    tables.Row("Time of a step at equal context, on the same cores",
               "    seconds  spread   tokens/s      loss", design, time.ring, time.context,
               fmt::format("{:>11.4g}{:>6.1f} %{:>11.0f}{:>10.6f}", time.seconds, 100 * time.spread,
                           time.tokens_per_second(), time.loss));
  };
  printer.balance = [&flags, &tables, json](const ContextDesign& design,
                                            const ContextBalance& balance) {
    if (json) {
      BenchRecord record = RecordOf("balance", flags, design, balance.ranks, balance.context);
      record["attention_work"] = balance.work;
      return PrintRecord(record);
    }
    tables.Row("Balance: visible pairs of the busiest rank over the mean", "   work", design,
               balance.ranks, balance.context, fmt::format("{:>7.3f}", balance.work));
  };
  return printer;
}

// Of all, those whose names match one of the patterns; all without patterns.
template <class Named, class NameOf>
std::vector<Named> Chosen(const std::vector<Named>& all, const std::vector<std::string>& patterns,
                          const NameOf& name_of) {
  if (patterns.empty()) return all;
  std::vector<std::string> names;
  names.reserve(all.size());
  for (const Named& one : all) names.emplace_back(name_of(one));
  std::vector<Named> chosen;
  for (const size_t index : SelectCases(names, patterns)) chosen.push_back(all[index]);
  return chosen;
}

void Run(ContextFlags& flags) {
  ContextOptions& options = flags.options;
  options.dtype = ResolveDType(flags.dtype);
  constexpr double kLargestBudget = 1 << 20;  // a TiB
  if (flags.budget > kLargestBudget) {
    throw UsageError(
        fmt::format("--budget must be at most {} MiB, found {:g}", kLargestBudget, flags.budget));
  }
  options.budget = static_cast<int64_t>(flags.budget * kMiB);
  options.min_seconds = flags.bench.min_seconds;
  options.progress = true;
  options.designs =
      Chosen(options.designs, flags.designs, [](const ContextDesign& one) { return one.name; });
  options.tables = Chosen(options.tables, flags.tables, [](ContextTable one) { return Name(one); });
  ContextTables tables;
  BenchmarkContext(options, Printer(flags, tables));
}

template <class Value>
void ListFlag(CLI::App& command, const char* name, std::vector<Value>& values, const char* meaning,
              const char* unit) {
  command.add_option(name, values, meaning)
      ->capture_default_str()
      ->delimiter(',')
      ->type_name(unit)
      ->check(NumberFor(Value{}))
      ->check(AboveZero());
}

}  // namespace

void AddBenchContext(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand(
      "context",
      "The attention designs side by side, on a model of 4 layers, hidden 128, 8 heads: memory, "
      "largest context within a budget, time, balance");
  const auto flags = std::make_shared<ContextFlags>();
  command->add_flag("--list", flags->list, "Print the names of the designs and end");
  command
      ->add_option("--design", flags->designs,
                   "Design to compare, or all whose names match a pattern (* and ?); may be "
                   "repeated; default: all")
      ->type_name("NAME");
  command
      ->add_option("--table", flags->tables,
                   "Table to make: balance, memory, time or largest; may be repeated; default: all")
      ->type_name("NAME");
  command
      ->add_option(
          "--budget", flags->budget,
          "Activations, ring buffers and workspace that a rank may hold; parameters, their "
          "gradients and moments do not count")
      ->capture_default_str()
      ->type_name("MIB")
      ->check(NumberFor(flags->budget))
      ->check(AboveZero());
  ListFlag(*command, "--ranks", flags->options.ranks,
           "Rings to compare, with a comma between; ranks are threads", "N,...");
  ListFlag(*command, "--memory-context", flags->options.memory_contexts,
           "Contexts whose memory is shown", "TOKENS,...");
  ListFlag(*command, "--time-context", flags->options.time_contexts,
           "Contexts at which designs are timed, but those that need 16 budgets", "TOKENS,...");
  command->add_flag_callback(
      "--dry", [flags] { flags->options.trains = false; },
      "Find the largest contexts by dry runs alone, without the real step of each, which takes "
      "most "
      "of the time");
  AddDTypeFlag(*command, flags->dtype);
  AddBenchOutputFlags(*command, flags->bench);
  AddConfigFlag(*command);
  command->callback([flags] {
    if (flags->list) return ListCases(ContextDesigns());
    Run(*flags);
  });
}

}  // namespace ringwise
