#include "training/checkpoint_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "formats/file_io.h"
#include "ringwise/error.h"
#include "training/run_folder.h"

namespace ringwise {
namespace fs = std::filesystem;

namespace {

// A step folder's number, or -1 for anything else.
int64_t StepOf(const std::string& name) {
  constexpr std::string_view kPrefix = "step-";
  if (name.rfind(kPrefix, 0) != 0 || name.size() == kPrefix.size()) return -1;
  int64_t step = 0;
  for (const char digit : name.substr(kPrefix.size())) {
    if (digit < '0' || digit > '9' || step > INT64_MAX / 10 - 1) return -1;
    step = step * 10 + (digit - '0');
  }
  return step;
}

// Takes the folder out of sight in one step before its files go one by one.
void RemoveFolder(const fs::path& folder) {
  const fs::path hidden =
      folder.parent_path() / fmt::format(".{}.removed", folder.filename().string());
  std::error_code error;
  fs::remove_all(hidden, error);
  fs::rename(folder, hidden, error);
  fs::remove_all(hidden, error);
}

void RemoveLeftovers(const std::string& checkpoints) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(checkpoints, error)) {
    if (entry.path().filename().string().rfind(".step-", 0) != 0) continue;
    std::error_code ignored;
    fs::remove_all(entry.path(), ignored);
  }
}

void Prune(const std::string& checkpoints, int64_t newest, int64_t keep) {
  std::vector<int64_t> steps;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(checkpoints, error)) {
    const int64_t step = StepOf(entry.path().filename().string());
    if (step >= 0 && step <= newest) steps.push_back(step);
  }
  std::sort(steps.rbegin(), steps.rend());
  for (size_t i = static_cast<size_t>(keep); i < steps.size(); ++i) {
    RemoveFolder(fs::path(checkpoints) / fmt::format("step-{}", steps[i]));
  }
}

void FlushFiles(const std::string& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.is_directory()) FlushFiles(entry.path().string());
  }
  FlushFolder(folder);
}

}  // namespace

std::string PublishCheckpoint(const std::string& run, int64_t step, int64_t keep,
                              const std::function<void(const std::string& folder)>& fill,
                              const SaveHook& hook) {
  const auto done = [&](std::string_view stage) {
    if (hook) hook(stage);
  };
  const std::string checkpoints = run_folder::Checkpoints(run);
  const std::string name = fmt::format("step-{}", step);
  const fs::path target = fs::path(checkpoints) / name;
  const fs::path temporary = fs::path(checkpoints) / fmt::format(".{}.new", name);
  RemoveLeftovers(checkpoints);
  try {
    fs::create_directories(temporary);
    done("made");
    fill(temporary.string());
    done("filled");
    FlushFiles(temporary.string());
    done("flushed");
    // Only a run resumed from an older checkpoint meets a folder of this step: `latest` does not
    // point to it.
    if (fs::exists(target)) RemoveFolder(target);
    done("cleared");
    fs::rename(temporary, target);
    done("renamed");
    FlushFolder(checkpoints);
    ReplaceLink(name, run_folder::Latest(run));
    done("linked");
  } catch (const std::exception& error) {
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    throw FileError(fmt::format(
        "cannot save the checkpoint of step {}: {}; earlier ones are intact", step, error.what()));
  }
  Prune(checkpoints, step, keep);
  done("pruned");
  return target.string();
}

}  // namespace ringwise
