#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/plan_report.h"
#include "ringwise/error.h"
#include "ringwise/measure_hardware.h"
#include "ringwise/planner.h"
#include "ringwise/thread_team.h"

namespace ringwise {
namespace {

constexpr const char* kThis = "this";
constexpr double kEfficiencyOfMakersFigures = 0.5;

struct PlanFlags {
  PlanOptions options;
  std::string model, hardware;
  std::string dtype = "auto";
  int64_t devices = 0;
  double efficiency = 0;
  double tokens = 0;
  MeshOptions measured_mesh;
  bool json = false;
};

[[noreturn]] void ThrowUnknown(const char* what, const std::string& name,
                               const std::vector<std::string>& known, const char* file) {
  const std::optional<std::string> nearest = NearestName(name, known);
  throw UsageError(fmt::format("unknown {} '{}': expected {} or {}{}", what, name, JoinNames(known),
                               file, nearest ? fmt::format("; did you mean '{}'?", *nearest) : ""));
}

ModelConfig FindModel(const std::string& name) {
  std::vector<std::string> known;
  for (const auto& [model, config] : KnownModels()) {
    if (model == name) return config;
    known.push_back(model);
  }
  if (std::filesystem::is_directory(name)) return ReadModelConfig(name);
  if (std::filesystem::exists(name)) return ReadModelConfigFile(name);
  ThrowUnknown("model", name, known, "a config.json");
}

// Nothing for `this`, which is measured.
std::optional<Hardware> FindHardware(const std::string& name) {
  std::vector<std::string> known;
  for (const Hardware& hardware : KnownHardware()) {
    if (hardware.name == name) return hardware;
    known.push_back(hardware.name);
  }
  if (name == kThis) return std::nullopt;
  known.emplace_back(kThis);
  if (std::filesystem::is_regular_file(name)) return ReadHardware(name);
  ThrowUnknown("hardware", name, known, "a file (docs/planning.md)");
}

// Without mpirun the ranks measured are threads: as many as are planned for, while each has a core.
MeshOptions MeshToMeasure(const PlanFlags& flags) {
  MeshOptions mesh = flags.measured_mesh;
  if (!UnderMpi()) {
    const int64_t cores = AvailableCores();
    mesh.ring =
        static_cast<int>(std::clamp<int64_t>(flags.devices, 1, std::max<int64_t>(2, cores)));
  }
  return mesh;
}

DType ChooseDType(const std::string& name, const std::optional<Hardware>& hardware) {
  if (name != "auto" || !hardware) return ResolveDType(name);
  return hardware->bf16.products > 0 ? DType::kBF16 : DType::kF32;
}

void Run(const PlanFlags& flags) {
  PlanReport report{
      .model = flags.model, .options = flags.options, .token_budget = flags.tokens, .plan = {}};
  PlanOptions& options = report.options;
  options.model = FindModel(flags.model);
  const std::optional<Hardware> found = FindHardware(flags.hardware);
  options.dtype = ChooseDType(flags.dtype, found);
  options.devices = flags.devices;
  options.efficiency = flags.efficiency;
  if (found) {
    if (UnderMpi()) {
      throw UsageError("only --hardware this measures: run the plan of others without mpirun");
    }
    if (flags.devices == 0) throw UsageError("--devices is needed: how many to plan for");
    options.hardware = *found;
    const bool measured = !std::ranges::any_of(
        KnownHardware(), [&](const Hardware& known) { return known.name == flags.hardware; });
    if (flags.efficiency == 0) options.efficiency = measured ? 1 : kEfficiencyOfMakersFigures;
  } else {
    const std::optional<MeasuredHardware> measured =
        MeasureHardware(MeshToMeasure(flags), options.model, options.dtype);
    if (!measured) return;  // another process of the job reports
    options.hardware = measured->hardware;
    if (flags.devices == 0) options.devices = measured->ranks;
    if (flags.efficiency == 0) options.efficiency = 1;
  }
  report.plan = MakePlan(options);
  if (flags.json) {
    PrintPlanJson(report);
  } else {
    PrintPlanTable(report);
  }
}

std::string KnownNames() {
  std::vector<std::string> names;
  for (const Hardware& hardware : KnownHardware()) names.push_back(hardware.name);
  return JoinNames(names);
}

template <class Value>
CLI::Option* Flag(CLI::App& command, const char* name, Value& value, const char* meaning,
                  const char* unit) {
  return command.add_option(name, value, meaning)
      ->capture_default_str()
      ->type_name(unit)
      ->check(NumberFor(value))
      ->check(AtLeastZero());
}

void AddParametersFlag(CLI::App& command, Parameters& parameters) {
  const auto parse = [&parameters](const std::string& name) {
    for (const Parameters one :
         {Parameters::kAuto, Parameters::kReplicated, Parameters::kSharded}) {
      if (name == Name(one)) {
        parameters = one;
        return;
      }
    }
    throw UsageError("--parameters must be auto, replicated or sharded, found '" + name + "'");
  };
  command
      .add_option_function<std::string>(
          "--parameters", parse,
          "Parameters, gradients and optimizer: replicated (whole on every device, as train has "
          "them), sharded (each device its part), or auto (sharded where the context does not fit "
          "otherwise; without --context, where a longer one fits)")
      ->default_str("auto")
      ->type_name("NAME");
}

}  // namespace

void AddPlan(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "plan", "Block size, memory, longest context and time of training on hardware to be rented");
  const auto flags = std::make_shared<PlanFlags>();
  PlanOptions& options = flags->options;
  command->add_option("--model", flags->model, "3b, 7b, 13b, 30b, 65b, or a model's config.json")
      ->required()
      ->type_name("NAME|FILE");
  command
      ->add_option("--hardware", flags->hardware,
                   KnownNames() + ", this (measured; under mpirun the job's processes), or a file")
      ->required()
      ->type_name("NAME|FILE");
  Flag(*command, "--devices", flags->devices,
       "Devices; needed, but for --hardware this, where 0 is as many as are measured", "N");
  Flag(*command, "--ring", options.ring,
       "Of them along a sequence, others see other sequences; 0: all", "N");
  Flag(*command, "--context", options.context,
       "Tokens a sequence; 0: the most that fit into memory", "TOKENS");
  Flag(*command, "--batch", options.batch, "Sequences a step and ring", "N");
  Flag(*command, "--tokens", flags->tokens, "Budget: how many days do so many tokens take?",
       "TOKENS");
  command
      ->add_option("--dtype", flags->dtype,
                   "Type computed in: f32, bf16 or auto (bf16 where the hardware computes it)")
      ->capture_default_str()
      ->type_name("NAME")
      ->check(CLI::IsMember({"f32", "bf16", "auto"}).description(""));
  command->add_flag("--causal", options.causal,
                    "Tokens see no later ones (the default); --causal=false: all see all");
  AddLayoutFlag(*command, options.layout);
  AddRecomputeFlag(*command, options.recompute);
  AddParametersFlag(*command, options.parameters);
  Flag(*command, "--efficiency", flags->efficiency,
       "Share of its rates that compute reaches, for times; 0: 0.5 of the makers' figures, 1 of "
       "what was measured or a file says",
       "SHARE");
  Flag(*command, "--slowest", options.slowest,
       "Speed of the ring's slowest device in that of the others", "SHARE");
  command->option_defaults()->group("Measuring, for --hardware this");
  AddRankFlags(*command, flags->measured_mesh);
  command->option_defaults()->group("Options");
  AddJsonFlag(*command, flags->json);
  AddConfigFlag(*command);
  command->callback([flags] { Run(*flags); });
}

}  // namespace ringwise
