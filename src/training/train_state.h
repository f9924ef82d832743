#pragma once

#include <cstdint>
#include <string>

namespace ringwise {

// Where a run stands, beside its weights and moments: all that continuing it exactly needs. Random
// numbers and the data order are functions of (seed, phase, sequence), so there is no other state.
struct TrainState {
  int64_t step = 0;             // done
  int64_t tokens = 0;           // trained on in all
  int64_t phase = 0;            // of the context schedule
  int64_t phase_step = 0;       // done in this phase
  int64_t phase_sequences = 0;  // drawn in this phase, by all ranks; or documents
  double seconds = 0;           // of training
  // Where the model has a rotary embedding: its base at the reference context, see RopeTheta.
  double rope_base = 10000;
  int64_t rope_reference = 0;
  // What the data order depends on: must be the same on resuming.
  uint64_t seed = 0;
  int64_t train_tokens = 0;
  uint64_t data_fingerprint = 0;

  bool operator==(const TrainState&) const = default;
};

// state.json in a checkpoint's folder; `checksum` is of its weights and moments. Flushed to the
// disk.
void WriteTrainState(const std::string& folder, const TrainState& state,
                     const std::string& checksum);
// Throw FileError: none there (another kind of folder), or not what WriteTrainState writes.
TrainState ReadTrainState(const std::string& folder);
std::string ReadChecksum(const std::string& folder);

}  // namespace ringwise
