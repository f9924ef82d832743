#include <CLI/CLI.hpp>

#include "cli/bench_parts.h"
#include "cli/commands.h"

namespace ringwise {

void AddBench(CLI::App& app) {
  CLI::App* bench =
      app.add_subcommand("bench", "Measure against this machine's own floating-point peak");
  bench->require_subcommand(1);
  AddBenchAttention(*bench);
  AddBenchRing(*bench);
  AddBenchTrain(*bench);
  AddBenchContext(*bench);
  AddBenchGemm(*bench);
}

}  // namespace ringwise
