#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ringwise/dtype.h"
#include "ringwise/launch.h"
#include "ringwise/layout.h"

namespace CLI {
class App;
class Validator;
}  // namespace CLI

// The flags that subcommands share, so that one name means one thing with one default everywhere.
namespace ringwise {

// --ring, --data-parallel, --threads, --timeout
void AddMeshFlags(CLI::App& command, MeshOptions& mesh);
// --layout contiguous|striped|zigzag
void AddLayoutFlag(CLI::App& command, Layout& layout);
// --dtype f32|bf16|auto. `dtype` keeps the name; ResolveDType makes it a type when it is needed.
void AddDTypeFlag(CLI::App& command, std::string& dtype);
DType ResolveDType(const std::string& name);
// --context, --seed, --json
void AddContextFlag(CLI::App& command, int64_t& context, const std::string& meaning);
void AddSeedFlag(CLI::App& command, uint64_t& seed, const std::string& meaning);
void AddJsonFlag(CLI::App& command, bool& json);
// --config FILE. Its keys are the subcommand's flags without the dashes; see ExpandConfig.
void AddConfigFlag(CLI::App& command);

// Checks of a number, finite: "must be 0 or more, found -1".
CLI::Validator AtLeastZero();
CLI::Validator AboveZero();

// The names with the separator in between.
std::string JoinNames(const std::vector<std::string>& names, const char* separator = ", ");

// The candidate within a few edits of `name`, or none if all are far from it.
std::optional<std::string> NearestName(const std::string& name,
                                       const std::vector<std::string>& candidates);

// Checks the subcommand names that `args` (the command line without the program) begin with and
// adds what `--config FILE` says as flags; `--resume FOLDER` reads FOLDER/config.toml the same way.
// Flags on the command line win over FILE, and FILE over FOLDER's.
// Throws UsageError: no or unknown subcommand, unknown flag or key (names the nearest); FileError.
std::vector<std::string> ExpandConfig(const CLI::App& app, const std::vector<std::string>& args);

}  // namespace ringwise
