#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "ringwise/classifier.h"
#include "ringwise/communicator.h"
#include "ringwise/tensor.h"
#include "transformer/sequence_shard.h"

namespace ringwise {

// What every layer needs to know of packed documents on their way through an encoder: one sequence,
// of which this rank has sequence.length rows.
struct PackedShard {
  SequenceShard sequence;
  std::vector<PackedDocument> documents;
  std::vector<int32_t> document_of_row;  // of this rank's rows
  std::vector<int64_t> row_in_document;
  // What dropout draws from; none: not in training, nothing is dropped.
  std::optional<uint64_t> dropout_seed;

  int64_t rows() const { return sequence.length; }
  Communicator& ring() const { return sequence.ring; }
};

// Of a batch in training, or not. Throws ShapeError: documents that do not follow one another,
// positions that are not those of the ring's ranks or not of all rows.
PackedShard MakePackedShard(Communicator& ring, const DocumentBatch& batch, double rope_theta,
                            bool trains);

// pooled_dj = mean of x_ij over the words i of document d, over all ranks of the ring. x [rows,
// hidden], pooled [documents, hidden] f32. Collective.
void PoolDocuments(Context& context, const PackedShard& shard, ConstTensorView x,
                   TensorView pooled);
// x_gradient_ij = pooled_gradient_dj / words_d, 0 in padding.
void PoolBackward(Context& context, const PackedShard& shard, ConstTensorView pooled_gradient,
                  TensorView x_gradient);

}  // namespace ringwise
