#include "training/run_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <system_error>

#include "formats/file_io.h"
#include "ringwise/error.h"
#include "ringwise/trainer.h"

namespace ringwise {
namespace fs = std::filesystem;

namespace run_folder {

std::string Metrics(const std::string& run) { return (fs::path(run) / "metrics.jsonl").string(); }
std::string Config(const std::string& run) { return (fs::path(run) / "config.toml").string(); }
std::string Checkpoints(const std::string& run) { return (fs::path(run) / "checkpoints").string(); }
std::string Checkpoint(const std::string& run, int64_t step) {
  return (fs::path(Checkpoints(run)) / fmt::format("step-{}", step)).string();
}
std::string Latest(const std::string& run) {
  return (fs::path(Checkpoints(run)) / "latest").string();
}

// The steps of the whole checkpoints, in order.
std::vector<int64_t> CheckpointSteps(const std::string& run) {
  std::vector<int64_t> steps;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(Checkpoints(run), error)) {
    const std::string name = entry.path().filename().string();
    int64_t step = -1;
    if (std::sscanf(name.c_str(), "step-%ld", &step) == 1) steps.push_back(step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

// Whether all that is in the folder is what a run makes before its first checkpoint.
bool HoldsNothingSaved(const std::string& run) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run, error)) {
    const std::string name = entry.path().filename().string();
    const bool ours = name == "checkpoints" || name == "metrics.jsonl" || name == "config.toml" ||
                      name == "config.toml.new";
    if (!ours) return false;
  }
  if (error || !CheckpointSteps(run).empty()) return false;
  return fs::is_empty(run, error) || fs::is_directory(Checkpoints(run), error);
}

void Create(const std::string& run) {
  std::error_code error;
  if (fs::exists(run, error) && !(fs::is_directory(run, error) && HoldsNothingSaved(run))) {
    if (fs::exists(Config(run), error)) {
      throw UsageError(fmt::format(
          "{} already holds a run: continue it with --resume {}, or choose another --out", run,
          run));
    }
    throw UsageError(
        fmt::format("--out {} exists and is not an empty folder: choose another", run));
  }
  if (!fs::create_directories(Checkpoints(run), error) && error) {
    throw FileError(fmt::format("{}: cannot make the run folder: {}", run, error.message()));
  }
}

void ClearUnsaved(const std::string& run) {
  Create(run);  // again: another process may have saved there before we had the lock
  std::error_code error;
  for (const std::string& path : {Metrics(run), Config(run), Config(run) + ".new"}) {
    fs::remove(path, error);
  }
}

std::string NewestCheckpoint(const std::string& run) {
  std::error_code error;
  if (!fs::is_directory(run, error)) {
    throw FileError(fmt::format("{}: no such run folder", run));
  }
  const fs::path latest = Latest(run);
  if (fs::is_symlink(latest, error) && fs::exists(latest, error)) {
    return (latest.parent_path() / fs::read_symlink(latest)).string();
  }
  // The very first save was cut off between its two last moves: the folder is whole.
  const std::vector<int64_t> steps = CheckpointSteps(run);
  if (steps.empty()) {
    throw FileError(
        fmt::format("{} holds no checkpoint yet: start it again with --out {}", run, run));
  }
  return Checkpoint(run, steps.back());
}

std::vector<int64_t> NewerCheckpoints(const std::string& run, int64_t step) {
  std::vector<int64_t> steps = CheckpointSteps(run);
  std::erase_if(steps, [&](int64_t other) { return other <= step; });
  return steps;
}

void RefuseRun(const std::string& folder) {
  std::error_code error;
  if (!fs::exists(Config(folder), error) || !fs::is_directory(Checkpoints(folder), error)) return;
  throw UsageError(
      fmt::format("--init {} is a run: give one of its checkpoints, {}", folder, Latest(folder)));
}

}  // namespace run_folder

void CheckResume(const std::string& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    throw FileError(fmt::format("{}: no such run folder", folder));
  }
  if (!fs::exists(fs::path(folder) / "state.json", error)) return;
  const fs::path run = fs::canonical(folder, error).parent_path().parent_path();
  throw UsageError(fmt::format("--resume {} is a checkpoint: give the run it belongs to, {}",
                               folder, run.string()));
}

void ReplaceFile(const std::string& path, std::string_view text) {
  const std::string temporary = path + ".new";
  std::error_code error;
  try {
    WriteTextFile(temporary, text);
  } catch (...) {
    fs::remove(temporary, error);
    throw;
  }
  fs::rename(temporary, path, error);
  if (error) throw FileError(fmt::format("{}: cannot replace: {}", path, error.message()));
  FlushFolder(fs::path(path).parent_path().string());
}

void ReplaceLink(const std::string& target, const std::string& link) {
  const std::string temporary = link + ".new";
  std::error_code error;
  fs::remove(temporary, error);
  fs::create_symlink(target, temporary, error);
  if (!error) fs::rename(temporary, link, error);
  if (error) throw FileError(fmt::format("{}: cannot make the link: {}", link, error.message()));
  FlushFolder(fs::path(link).parent_path().string());
}

void CutMetrics(const std::string& path, int64_t step) {
  std::error_code error;
  if (!fs::exists(path, error)) return;
  std::istringstream lines(ReadTextFile(path));
  std::string kept;
  std::string line;
  while (std::getline(lines, line)) {
    nlohmann::ordered_json record = nlohmann::ordered_json::parse(line, nullptr, false);
    if (!record.is_object() || !record.contains("step")) break;  // torn by a crash
    if (record["step"].get<int64_t>() > step) break;
    // A finished run that goes on is no longer finished.
    kept += (record.erase("final") > 0 ? record.dump() : line) + "\n";
  }
  ReplaceFile(path, kept);
}

}  // namespace ringwise
