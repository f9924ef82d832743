#pragma once

#include <cstdint>

#include "ringwise/attention_design.h"
#include "ringwise/communicator.h"
#include "ringwise/ring_attention.h"

namespace ringwise {

// What every layer needs to know of the batch that is on its way through the model: this rank's
// `length` rows of each of `batch` sequences, one sequence after the other.
struct SequenceShard {
  Communicator& ring;
  RingAttentionOptions attention;  // mask, positions of every rank, dropout of the whole model
  double rope_theta = 0;
  int64_t batch = 0;
  int64_t length = 0;
  // Attention takes the heads in this many groups, one after the other: what the ring holds, and
  // attention's sums in f32, then exist for one group's heads alone.
  int64_t head_groups = 1;
  AttentionDesign design = AttentionDesign::kRing;

  int64_t rows() const { return batch * length; }
  // The positions of rows [begin, begin + count), which may run over several sequences.
  Positions PositionsOfRows(int64_t begin, int64_t count) const;
};

// Rows of a shard from which on there are more head groups.
inline constexpr int64_t kRowsForTwoGroups = 1024;
inline constexpr int64_t kRowsForFourGroups = 4096;
// How many head groups passes that recompute have, for shards of so many rows on average: every
// group costs a round of messages, so few for short shards, whose memory is small.
int64_t HeadGroups(int64_t rows, int64_t kv_heads);

}  // namespace ringwise
