#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ringwise/launch.h"
#include "ringwise/layout.h"

namespace ringwise {

// What `ringwise eval` of a classifier is given.
struct EvalClassifierOptions {
  std::string model;
  std::vector<std::string> data;  // one path; of synthetic samples none
  std::string split;              // "test", "train"
  int64_t samples = 0;            // synthetic
  uint64_t seed = 0;              // likewise
  Layout layout = Layout::kZigzag;
  std::string dtype;
  MeshOptions mesh;
  bool json = false;
};

// Accuracy, loss, precision, recall and confusion of a classifier on its task's documents: a table
// on stderr, or JSON on stdout. Throws UsageError, FileError; Error if the loss is not finite.
void EvalClassifier(const EvalClassifierOptions& options);

}  // namespace ringwise
