#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "ringwise/benchmark.h"

// What the subcommands of `bench` share: their flags, and how a result is printed.
namespace ringwise {

using BenchRecord = nlohmann::ordered_json;

struct BenchFlags {
  std::vector<std::string> cases;  // patterns
  bool list = false;
  double min_seconds = 2;
  bool json = false;
};
// --min-seconds, --avx2 and --json
void AddBenchOutputFlags(CLI::App& command, BenchFlags& flags);
// --case and --list. Returns --case.
CLI::Option* AddCaseFlags(CLI::App& command, BenchFlags& flags);

// The cases that the flags name; all of them without --case.
template <class Benchmark>
std::vector<Benchmark> ChosenCases(const std::vector<Benchmark>& all, const BenchFlags& flags) {
  if (flags.cases.empty()) return all;
  std::vector<std::string> names;
  names.reserve(all.size());
  for (const Benchmark& benchmark : all) names.push_back(benchmark.name);
  std::vector<Benchmark> chosen;
  for (const size_t index : SelectCases(names, flags.cases)) chosen.push_back(all[index]);
  return chosen;
}
template <class Benchmark>
size_t LongestName(const std::vector<Benchmark>& benchmarks) {
  size_t longest = 0;
  for (const Benchmark& benchmark : benchmarks) longest = std::max(longest, benchmark.name.size());
  return longest;
}
// Throws UsageError if a trace is asked for and there is more than one case to show in it.
void CheckTraceOfOneCase(const MeshOptions& mesh, size_t cases);
template <class Benchmark>
void ListCases(const std::vector<Benchmark>& benchmarks) {
  for (const Benchmark& benchmark : benchmarks) fmt::print("{}\n", benchmark.name);
}

// Adds what every benchmark measures.
void AddMeasured(BenchRecord& record, const BenchmarkResult& result);
// One record a line.
void PrintRecord(const BenchRecord& record);

// A plain table that grows by a row whenever a result comes. The first column is `name`, then what
// every benchmark measures, then the columns of its own, a text each.
class BenchTable {
 public:
  BenchTable(size_t name_width, std::vector<std::string> own_columns);
  void Row(const std::string& name, const BenchmarkResult& result,
           const std::vector<std::string>& own);

 private:
  size_t name_width_;
  std::vector<std::string> own_columns_;
  bool any_ = false;
};

}  // namespace ringwise
