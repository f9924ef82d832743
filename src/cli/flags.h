#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <system_error>
#include <type_traits>
#include <vector>

#include "ringwise/dtype.h"
#include "ringwise/launch.h"
#include "ringwise/layout.h"
#include "ringwise/llama.h"

// The flags that subcommands share, so that one name means one thing with one default everywhere.
namespace ringwise {

// --ring, --data-parallel, and AddRankFlags
void AddMeshFlags(CLI::App& command, MeshOptions& mesh);
// --threads, --timeout
void AddRankFlags(CLI::App& command, MeshOptions& mesh);
// --trace
void AddTraceFlag(CLI::App& command, MeshOptions& mesh);
// --layout contiguous|striped|zigzag, and --key-layout, which stays empty where it is not given.
void AddLayoutFlag(CLI::App& command, Layout& layout);
void AddKeyLayoutFlag(CLI::App& command, std::optional<Layout>& layout);
// --dtype f32|bf16|auto. `dtype` keeps the name; ResolveDType makes it a type when it is needed.
void AddDTypeFlag(CLI::App& command, std::string& dtype);
DType ResolveDType(const std::string& name);
// --recompute none|attention|block
void AddRecomputeFlag(CLI::App& command, Recompute& recompute);
// --context, --seed, --json
void AddContextFlag(CLI::App& command, int64_t& context, const std::string& meaning);
void AddSeedFlag(CLI::App& command, uint64_t& seed, const std::string& meaning);
void AddJsonFlag(CLI::App& command, bool& json);
// --config FILE. Its keys are the subcommand's flags without the dashes; see ExpandConfig.
void AddConfigFlag(CLI::App& command);

// Checks that a text is a number such as the variable holds: "must be a whole number, found 1.5".
template <class Value>
CLI::Validator NumberFor(const Value& /*variable*/) {
  return {[](std::string& text) {
            Value parsed{};
            if constexpr (std::is_integral_v<Value>) {  // the conversion would take the nearest
              const char* const first = text.data() + (text.starts_with('+') ? 1 : 0);
              const auto result = std::from_chars(first, text.data() + text.size(), parsed);
              if (result.ec == std::errc::result_out_of_range) {
                return fmt::format("must be a whole number from {} to {}, found {}",
                                   std::numeric_limits<Value>::min(),
                                   std::numeric_limits<Value>::max(), text);
              }
            }
            if (CLI::detail::lexical_cast(text, parsed)) return std::string();
            return fmt::format("must be a {}, found {}",
                               std::is_integral_v<Value> ? "whole number" : "number", text);
          },
          ""};
}

// Checks of a number, finite: "must be 0 or more, found -1". What is none is left to NumberFor.
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
