#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ringwise {

// Names inside a run folder, and how its files change so that a crash at any moment leaves either
// the old or the new.
namespace run_folder {

std::string Metrics(const std::string& run);
std::string Config(const std::string& run);
std::string Checkpoints(const std::string& run);
std::string Checkpoint(const std::string& run, int64_t step);
std::string Latest(const std::string& run);

// Makes the folder for a new run. A folder of a run that ended before it saved anything is used
// again; see ClearUnsaved. Throws UsageError if it holds anything else already, FileError.
void Create(const std::string& run);
// Removes what a run that saved nothing left in the folder. To be called with its lock held. Throws
// as Create does.
void ClearUnsaved(const std::string& run);

// The folder of the newest whole checkpoint: where `latest` points. Throws FileError: no such run,
// or no checkpoint in it yet.
std::string NewestCheckpoint(const std::string& run);

// The checkpoints of later steps than `step`, in order: there only if `latest` was moved back.
std::vector<int64_t> NewerCheckpoints(const std::string& run, int64_t step);

// Throws UsageError if `folder`, given as a model, is a run: names the checkpoint to give instead.
void RefuseRun(const std::string& folder);

}  // namespace run_folder

// Replaces the file by way of a temporary one beside it, flushed to the disk. Throws FileError.
void ReplaceFile(const std::string& path, std::string_view text);
// Makes `link` point to `target`, replacing an older link in one step.
void ReplaceLink(const std::string& target, const std::string& link);

// Keeps the whole records of metrics.jsonl up to `step`, without their "final" marks, and drops the
// rest. A missing file is left missing. Throws FileError.
void CutMetrics(const std::string& path, int64_t step);

}  // namespace ringwise
