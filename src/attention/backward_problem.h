#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "attention/backward_plan.h"
#include "attention/score_terms.h"
#include "attention/shard_attention.h"
#include "attention/tiling.h"
#include "ringwise/mask.h"
#include "ringwise/tensor.h"

namespace ringwise {

// What every walk of one shard's backward shares.
struct BackwardProblem {
  AttentionShape shape;
  Mask mask;
  double scale = 0;
  float scale_base2 = 0;
  ScoreTerms terms;
  Dropout dropout;
  std::optional<TensorView> bias_gradient;
  ConstTensorView query;
  ConstTensorView output_gradient;
  int64_t q_len = 0;
  int64_t tile_rows = 0;               // keys of a tile: BackwardTileRows
  std::vector<RowBlock> query_blocks;  // of at most kBackwardQueryBlock
  const BlockHulls* hulls = nullptr;   // of query_blocks
  const float* logsumexp = nullptr;    // [batch, heads, q_len], base 2; rows seeing nothing: +inf
  const float* delta = nullptr;        // [batch, heads, q_len]: rowsum(dO * O) - dlogsumexp
};

// A query block of one head.
struct QueryPart {
  int64_t batch = 0;
  int64_t head = 0;
  RowBlock queries;
};

// The query blocks of `heads` heads that see any of `keys`, in order.
std::vector<QueryPart> FindQueryParts(const BackwardProblem& problem, int64_t batch,
                                      int64_t first_head, int64_t heads, const PositionRun& keys);

}  // namespace ringwise
