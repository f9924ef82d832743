#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "attention/attention_oracle.h"
#include "ringwise/launch.h"
#include "ringwise/whole_attention.h"

// One case of ring attention as data, for tests: what the unit tests list, the MPI test repeats and
// the proof draws at random.
namespace ringwise {

struct RingCase {
  int64_t batch = 1;
  int64_t heads = 2;
  int64_t kv_heads = 1;
  int64_t head_dim = 4;
  int64_t q_len = 8;   // of the whole sequence
  int64_t kv_len = 8;  // likewise
  int64_t query_offset = 0;
  bool causal = true;
  std::optional<double> scale;
  DType dtype = DType::kF32;
  int ring = 1;
  Layout layout = Layout::kZigzag;
  int threads = 1;
  uint64_t seed = 1;

  // As flags of attention_proof_probe, to run it again.
  std::string ToString() const;
};

// The case's tensors: normal random numbers, rounded to its dtype.
class RingCaseData {
 public:
  explicit RingCaseData(const RingCase& ring_case);

  WholeAttention whole() const;          // to be attended on a ring
  AttentionCase attention_case() const;  // to be given to the oracle
  // max_j sum_i P_ij: how much weight the most attended key gathers from all queries and heads.
  double LargestColumnWeight() const;

 private:
  RingCase case_;
  MemoryMeter meter_;
  Tensor query_, key_, value_, output_gradient_;
};

// Forward and backward by the tiled kernels on a ring of `ring` ranks, threads of this process.
WholeResults RunCase(const RingCase& ring_case, const RingCaseData& data);
// The same on the ranks of `ring`, whatever they are.
WholeResults RunCaseOn(Context& context, Communicator& ring, const RingCaseData& data);

// The double reference through the same schedule.
AttentionResults RunReferenceCaseOn(Context& context, Communicator& ring, const RingCase& ring_case,
                                    const RingCaseData& data);

// NaN included.
bool SameBits(const WholeResults& a, const WholeResults& b);

AttentionResults ToResults(const WholeResults& results);

}  // namespace ringwise
