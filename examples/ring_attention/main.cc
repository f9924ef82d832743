// Exact causal attention of one sequence cut over a ring of ranks: four threads of this process, or
// the processes that mpirun starts. Each rank compares its rows with a ring of one.
#include <cmath>
#include <cstdio>

#include "ringwise/launch.h"
#include "ringwise/layout.h"
#include "ringwise/random.h"
#include "ringwise/ring_attention.h"

using namespace ringwise;  // NOLINT

constexpr int64_t kTokens = 2048, kHeads = 4, kHeadDim = 64;

// A row's numbers depend on its position in the sequence, not on the ring.
Tensor RandomRows(Context& context, const Positions& positions, uint64_t seed) {
  Tensor rows(context.meter, MemoryCategory::kActivations, DType::kF32,
              {1, Count(positions), kHeads, kHeadDim});
  for (int64_t row = 0; row < Count(positions); ++row) {
    Random random(seed, static_cast<uint64_t>(At(positions, row)));
    float* elements = rows.view().at<float>(0, row);
    for (int64_t i = 0; i < kHeads * kHeadDim; ++i) elements[i] = random.Normal();
  }
  return rows;
}

// This rank's rows of the output, for queries, keys and values of the same rows.
Tensor Attend(Context& context, Communicator& ring) {
  RingAttentionOptions options;
  options.mask.causal = true;
  for (int rank = 0; rank < ring.size(); ++rank) {
    options.query_positions.push_back(ShardPositions(Layout::kZigzag, kTokens, ring.size(), rank));
  }
  options.key_positions = options.query_positions;
  const Positions& mine = options.query_positions[ring.rank()];
  const Tensor query = RandomRows(context, mine, 1), key = RandomRows(context, mine, 2),
               value = RandomRows(context, mine, 3);
  Tensor output(context.meter, MemoryCategory::kActivations, DType::kF32, value.shape());
  Tensor logsumexp(context.meter, MemoryCategory::kActivations, DType::kF32,
                   {1, kHeads, Count(mine)});
  RingAttentionForward(context, ring, options, {query.view(), key.view(), value.view()},
                       {output.view(), logsumexp.view()});
  return output;
}

int main() {
  Launch({.ring = UnderMpi() ? 0 : 4}, [](Rank& rank) {
    Communicator& ring = rank.ring;
    const Tensor mine = Attend(rank.context, ring);
    const Tensor whole = Attend(rank.context, *ring.Split(ring.rank()));  // a ring of one
    const Positions rows = ShardPositions(Layout::kZigzag, kTokens, ring.size(), ring.rank());
    double squares[] = {0, 0};  // the output's, and of its difference from the ring of one
    for (int64_t i = 0; i < mine.elements(); ++i) {
      const int64_t row = i / (kHeads * kHeadDim), element = i % (kHeads * kHeadDim);
      const float one = whole.view().at<float>(0, At(rows, row))[element];
      squares[0] += std::pow(mine.data<float>()[i], 2);
      squares[1] += std::pow(mine.data<float>()[i] - one, 2);
    }
    ring.AllReduceSum(std::span<double>(squares));
    if (ring.rank() == 0) {
      std::printf("ring of %d %s: checksum %.9g, relative difference from a ring of one %.1e\n",
                  ring.size(), UnderMpi() ? "processes" : "threads", squares[0],
                  std::sqrt(squares[1] / squares[0]));
    }
  });
}
