#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace ringwise {

// Called between the moves of a save with the name of the one just done: tests end the process
// there.
using SaveHook = std::function<void(std::string_view stage)>;

// Makes run/checkpoints/step-N, filled by `fill`, whole or not at all: written into a hidden
// folder, flushed to the disk, renamed. Then points checkpoints/latest to it and removes all but
// the newest `keep` that are no newer than it. A crash at any moment leaves latest pointing to a
// whole checkpoint. Returns the folder. Throws FileError (no space left, ...) after removing what
// it wrote.
std::string PublishCheckpoint(const std::string& run, int64_t step, int64_t keep,
                              const std::function<void(const std::string& folder)>& fill,
                              const SaveHook& hook = {});

}  // namespace ringwise
