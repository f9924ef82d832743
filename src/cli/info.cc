#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/commands.h"
#include "cli/flags.h"
#include "ringwise/cpu.h"
#include "ringwise/launch.h"
#include "ringwise/thread_team.h"

namespace ringwise {
namespace {

struct InfoFlags {
  bool peak = false;
  bool json = false;
};

void RunInfo(const InfoFlags& flags) {
  nlohmann::ordered_json info;
  info["version"] = RINGWISE_VERSION;
  info["cores"] = AvailableCores();
  info["cpu_features"] = CpuFeatures();
  info["native_bf16"] = HasNativeBf16();
  info["vector_kernels"] = VectorTarget();
  info["auto_dtype"] = Name(ResolveDType("auto"));
  info["onednn"] = OneDnnVersion();
  info["highway"] = HighwayVersion();
  info["mpi"] = MpiVersion();
  if (flags.peak) {
    ThreadTeam team(AvailableCores());
    info["peak_gflops_f32"] = MeasurePeakFlops(team, DType::kF32).best / 1e9;
    info["peak_gflops_bf16"] = MeasurePeakFlops(team, DType::kBF16).best / 1e9;
    if (const double tiles = MeasureTilePeakFlops(team).best; tiles > 0) {
      info["peak_gflops_bf16_tiles"] = tiles / 1e9;
    }
  }
  if (flags.json) {
    fmt::print("{}\n", info.dump());
    return;
  }
  for (const auto& [name, value] : info.items()) {
    std::string text;
    if (value.is_array()) {
      for (const auto& word : value) text += (text.empty() ? "" : " ") + word.get<std::string>();
    } else if (value.is_number_float()) {
      text = fmt::format("{:.1f}", value.get<double>());
    } else {
      text = value.is_string() ? value.get<std::string>() : value.dump();
    }
    fmt::print("{:<17} {}\n", name, text);
  }
}

}  // namespace

void AddInfo(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("info", "CPU features, kernels chosen, library versions, MPI");
  const auto flags = std::make_shared<InfoFlags>();
  command->add_flag("--peak", flags->peak,
                    "Also measure the floating-point peak of all cores, in GFLOP/s");
  AddJsonFlag(*command, flags->json);
  command->callback([flags] { RunInfo(*flags); });
}

}  // namespace ringwise
