#include "cli/flags.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <numeric>

#include "cli/toml.h"
#include "ringwise/cpu.h"
#include "ringwise/error.h"
#include "ringwise/trainer.h"

namespace ringwise {
namespace {

int64_t EditDistance(const std::string& a, const std::string& b) {
  std::vector<int64_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    int64_t diagonal = row[0];
    row[0] = static_cast<int64_t>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int64_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({substituted, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

std::string Suggestion(const std::string& name, const std::vector<std::string>& candidates,
                       const char* prefix = "") {
  const std::optional<std::string> nearest = NearestName(name, candidates);
  return nearest ? fmt::format("; did you mean '{}{}'?", prefix, *nearest) : "";
}

std::vector<std::string> SubcommandNames(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(command->get_name());
  }
  return names;
}

std::vector<std::string> FlagNames(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back(name);
  }
  return names;
}

// "--steps=5" -> "steps"; empty if not a long flag.
std::string FlagName(const std::string& arg) {
  if (arg.size() < 3 || arg.compare(0, 2, "--") != 0) return "";
  return arg.substr(2, arg.find('=') - 2);
}

// The value of the last --name VALUE or --name=VALUE, or nothing.
std::optional<std::string> FlagValue(const std::vector<std::string>& args,
                                     const std::string& name) {
  std::optional<std::string> value;
  for (size_t i = 0; i < args.size(); ++i) {
    if (FlagName(args[i]) != name) continue;
    const size_t equals = args[i].find('=');
    if (equals != std::string::npos) {
      value = args[i].substr(equals + 1);
    } else if (i + 1 < args.size()) {
      value = args[i + 1];
    }
  }
  return value;
}

// A switch may be given a value; `where` is what the error begins with.
void CheckSwitch(const CLI::Option& option, const std::string& value, const std::string& where) {
  if (option.get_items_expected_max() > 0 || value == "true" || value == "false") return;
  throw UsageError(fmt::format("{}: must be true or false, found {}", where, value));
}

// `path` is what the user typed to get here: "ringwise train".
void CheckFlags(const CLI::App& command, const std::string& path,
                const std::vector<std::string>& args) {
  const std::vector<std::string> known = FlagNames(command);
  std::vector<std::string> given;
  for (size_t i = 0; i < args.size(); ++i) {
    if (args[i] == "--") return;
    const std::string name = FlagName(args[i]);
    if (name.empty()) continue;
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      throw UsageError(fmt::format("unknown flag '--{}'{} (see {} --help)", name,
                                   Suggestion(name, known, "--"), path));
    }
    const CLI::Option* option = command.get_option("--" + name);
    if (option->get_items_expected_max() == 1 &&
        std::find(given.begin(), given.end(), name) != given.end()) {
      throw UsageError(fmt::format("--{} is given twice", name));
    }
    given.push_back(name);
    const size_t equals = args[i].find('=');
    if (equals != std::string::npos) CheckSwitch(*option, args[i].substr(equals + 1), "--" + name);
    // The value that follows may look like a flag: text does.
    const bool takes_next = option->get_items_expected_min() > 0;
    if (takes_next && equals == std::string::npos) ++i;
  }
}

// --init takes the shapes from its model, and --resume everything from its run: what else names
// them would be ignored. `given` is the command line, `all` also what the files say.
void CheckContradictions(const std::vector<std::string>& given,
                         const std::vector<std::string>& all) {
  const auto refuse = [&](const char* first, const char* second, const char* why) {
    if (!FlagValue(given, second)) return;
    throw UsageError(fmt::format("--{} contradicts --{}, {}: leave one out", second, first, why));
  };
  if (FlagValue(given, "resume")) {
    refuse("resume", "init", "whose run has its weights");
    refuse("resume", "out", "which continues in its own folder");
  }
  if (!FlagValue(all, "init")) return;
  for (const char* shape : {"hidden", "layers", "heads", "kv-heads", "head-dim", "ffn", "vocab",
                            "rope-theta", "norm-eps", "tied-embeddings", "window"}) {
    refuse("init", shape, "whose model has its own");
  }
}

// A value in brackets would be read as a list of values: a path is one.
void KeepBrackets(const CLI::App& command, std::vector<std::string>& args) {
  bool paths = false;
  for (std::string& arg : args) {
    const std::string name = FlagName(arg);
    if (!name.empty()) {
      const CLI::Option* option = command.get_option_no_throw("--" + name);
      paths = option != nullptr && option->get_allow_extra_args();
    }
    const size_t begin = name.empty() ? 0 : arg.find('=') + 1;
    if (!paths || (!name.empty() && begin == 0)) continue;
    if (arg.size() > begin && arg[begin] == '[' && arg.back() == ']') arg.insert(begin, "./");
  }
}

// A check of the number alone: what is none is left to NumberFor.
template <class Accepts>
CLI::Validator NumberCheck(const char* expected, const Accepts& accepts) {
  return {[expected, accepts](const std::string& text) {
            char* end = nullptr;
            const double value = std::strtod(text.c_str(), &end);
            const bool number = end != text.c_str() && *end == '\0';
            if (!number || (std::isfinite(value) && accepts(value))) return std::string();
            return fmt::format("must be {}, found {}", expected, text);
          },
          ""};
}

template <class Target>
CLI::Option* AddLayoutOption(CLI::App& command, const std::string& flag, Target& layout,
                             const char* meaning) {
  const auto parse = [&layout, flag](const std::string& name) {
    try {
      layout = ParseLayout(name);
    } catch (const UsageError& error) {
      throw UsageError(flag + ": " + error.what());
    }
  };
  return command.add_option_function<std::string>(flag, parse, meaning)->type_name("NAME");
}

// Appends the file's keys as --key=value, except those that `args` already has.
void AppendConfig(const CLI::App& command, const std::string& path,
                  std::vector<std::string>& args) {
  const std::vector<std::string> known = FlagNames(command);
  std::vector<std::string> added;
  for (const TomlEntry& entry : ReadToml(path)) {
    if (std::find(known.begin(), known.end(), entry.key) == known.end()) {
      throw UsageError(fmt::format("{}:{}: unknown key '{}'{}", path, entry.line, entry.key,
                                   Suggestion(entry.key, known)));
    }
    if (entry.key == "config") {
      throw UsageError(fmt::format(
          "{}:{}: a configuration file cannot name another: give --config on the command line",
          path, entry.line));
    }
    const bool given = std::any_of(args.begin(), args.end(), [&](const std::string& arg) {
      return FlagName(arg) == entry.key;
    });
    if (given) continue;
    for (const std::string& value : entry.values) {
      CheckSwitch(*command.get_option("--" + entry.key), value,
                  fmt::format("{}:{}: {}", path, entry.line, entry.key));
      added.push_back(fmt::format("--{}={}", entry.key, value));
    }
  }
  args.insert(args.end(), added.begin(), added.end());
}

}  // namespace

std::string JoinNames(const std::vector<std::string>& names, const char* separator) {
  std::string text;
  for (const std::string& name : names) {
    if (!text.empty()) text += separator;
    text += name;
  }
  return text;
}

std::optional<std::string> NearestName(const std::string& name,
                                       const std::vector<std::string>& candidates) {
  std::optional<std::string> nearest;
  int64_t least = std::max<int64_t>(2, static_cast<int64_t>(name.size()) / 2) + 1;
  for (const std::string& candidate : candidates) {
    const int64_t distance = EditDistance(name, candidate);
    if (distance < least) {
      least = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

std::vector<std::string> ExpandConfig(const CLI::App& app, const std::vector<std::string>& args) {
  const CLI::App* command = &app;
  std::string path = app.get_name();
  size_t used = 0;
  while (true) {
    const std::vector<std::string> names = SubcommandNames(*command);
    if (names.empty()) break;
    if (used == args.size()) {
      throw UsageError(fmt::format("a subcommand is needed: {} (see {} --help)", JoinNames(names),
                                   command->get_name()));
    }
    const std::string& word = args[used];
    if (!word.empty() && word.front() == '-') {
      CheckFlags(*command, path, {word});
      return args;  // --help or --version
    }
    if (std::find(names.begin(), names.end(), word) == names.end()) {
      throw UsageError(fmt::format("unknown subcommand '{}'{} (see {} --help)", word,
                                   Suggestion(word, names), path));
    }
    command = command->get_subcommand(word);
    path += " " + word;
    ++used;
  }
  std::vector<std::string> flags(args.begin() + static_cast<std::ptrdiff_t>(used), args.end());
  CheckFlags(*command, path, flags);
  const std::vector<std::string> known = FlagNames(*command);
  const auto knows = [&](const char* name) {
    return std::find(known.begin(), known.end(), name) != known.end();
  };
  const std::vector<std::string> given = flags;
  if (knows("config")) {
    if (const auto file = FlagValue(flags, "config")) AppendConfig(*command, *file, flags);
  }
  if (knows("resume")) {
    if (const auto folder = FlagValue(flags, "resume")) {
      CheckResume(*folder);
      AppendConfig(*command, (std::filesystem::path(*folder) / "config.toml").string(), flags);
    }
  }
  if (knows("init")) CheckContradictions(given, flags);
  KeepBrackets(*command, flags);
  std::vector<std::string> expanded(args.begin(), args.begin() + static_cast<std::ptrdiff_t>(used));
  expanded.insert(expanded.end(), flags.begin(), flags.end());
  return expanded;
}

CLI::Validator AtLeastZero() {
  return NumberCheck("0 or more", [](double value) { return value >= 0; });
}

CLI::Validator AboveZero() {
  return NumberCheck("above 0", [](double value) { return value > 0; });
}

void AddMeshFlags(CLI::App& command, MeshOptions& mesh) {
  command
      .add_option("--ring", mesh.ring,
                  "Ranks along the sequence; 0: those left of mpirun's by --data-parallel, else 1")
      ->capture_default_str()
      ->type_name("N")
      ->check(NumberFor(mesh.ring))
      ->check(AtLeastZero());
  command
      .add_option("--data-parallel", mesh.data_parallel,
                  "Groups of ranks that see different sequences; 0: what is left, else 1")
      ->capture_default_str()
      ->type_name("N")
      ->check(NumberFor(mesh.data_parallel))
      ->check(AtLeastZero());
  AddRankFlags(command, mesh);
}

void AddRankFlags(CLI::App& command, MeshOptions& mesh) {
  command
      .add_option("--threads", mesh.threads,
                  "Threads a rank; 0: the cores this job may use, over the ranks on this host")
      ->capture_default_str()
      ->type_name("N")
      ->check(NumberFor(mesh.threads))
      ->check(AtLeastZero());
  command
      .add_option("--timeout", mesh.timeout_seconds,
                  "Seconds of silence after which a rank that is waited for has failed")
      ->capture_default_str()
      ->type_name("SECONDS")
      ->check(NumberFor(mesh.timeout_seconds))
      ->check(AboveZero());
}

void AddTraceFlag(CLI::App& command, MeshOptions& mesh) {
  command
      .add_option("--trace", mesh.trace,
                  "Write a timeline of every rank and thread (compute, send, receive, wait) in the "
                  "Trace Event format, which Perfetto opens")
      ->type_name("FILE");
}

void AddLayoutFlag(CLI::App& command, Layout& layout) {
  AddLayoutOption(command, "--layout", layout,
                  "How the sequence is cut over the ring: contiguous, striped or zigzag")
      ->default_str(std::string(Name(layout)));
}

void AddKeyLayoutFlag(CLI::App& command, std::optional<Layout>& layout) {
  AddLayoutOption(command, "--key-layout", layout,
                  "How keys and values are cut over the ring; default: as --layout");
}

void AddDTypeFlag(CLI::App& command, std::string& dtype) {
  command
      .add_option("--dtype", dtype,
                  "Type computed in: f32, bf16 or auto (bf16 where this CPU computes it natively)")
      ->capture_default_str()
      ->type_name("NAME")
      ->check(CLI::IsMember({"f32", "bf16", "auto"}).description(""));
}

DType ResolveDType(const std::string& name) {
  if (name == "auto") return HasNativeBf16() ? DType::kBF16 : DType::kF32;
  return name == "bf16" ? DType::kBF16 : DType::kF32;
}

void AddRecomputeFlag(CLI::App& command, Recompute& recompute) {
  command
      .add_option_function<std::string>(
          "--recompute",
          [&recompute](const std::string& name) { recompute = ParseRecompute(name); },
          "What backward computes again, from most memory to least: none, attention (all but it), "
          "block (all)")
      ->default_str("attention")
      ->type_name("NAME");
}

void AddContextFlag(CLI::App& command, int64_t& context, const std::string& meaning) {
  command.add_option("--context", context, meaning)
      ->capture_default_str()
      ->type_name("TOKENS")
      ->check(NumberFor(context))
      ->check(AboveZero());
}

void AddSeedFlag(CLI::App& command, uint64_t& seed, const std::string& meaning) {
  command.add_option("--seed", seed, meaning)
      ->capture_default_str()
      ->type_name("N")
      ->check(NumberFor(seed))
      ->check(AtLeastZero());  // the conversion would take -1 for the largest number
}

void AddJsonFlag(CLI::App& command, bool& json) {
  command.add_flag("--json", json, "Print the results as JSON lines on stdout");
}

void AddConfigFlag(CLI::App& command) {
  // Its value is used by ExpandConfig before the flags are parsed.
  command
      .add_option("--config", "TOML file of flags: their names without the dashes; flags given win")
      ->type_name("FILE");
}

}  // namespace ringwise
