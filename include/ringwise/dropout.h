#pragma once

#include <cstdint>

namespace ringwise {

// Dropout of attention probabilities: which (query, key) pairs stay is a pure function of the seed,
// the sequence, the head and the two positions, the same for any ring, layout, tile or
// recomputation. Kept probabilities are multiplied by 1 / (1 - probability).
struct Dropout {
  double probability = 0;  // of a pair being dropped: [0, 1); 0: no dropout
  uint64_t seed = 0;       // callers mix the layer and the step into it
  // What the call's first sequence and first query head are in the whole batch and model.
  int64_t first_batch = 0;
  int64_t first_head = 0;

  bool operator==(const Dropout&) const = default;
};

// Whether the pair stays; batch and head are the call's, from 0. The definition: the vector form
// agrees with it to the bit. A pair is dropped when a random word, uniform over 2^32 values, is
// below probability * 2^32.
bool Keeps(const Dropout& dropout, int64_t batch, int64_t head, int64_t query_position,
           int64_t key_position);

}  // namespace ringwise
