#include "transformer/packed_shard.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "ringwise/error.h"

namespace ringwise {
namespace {

constexpr int64_t kLineFloats = 16;

void CheckDocuments(const DocumentBatch& batch) {
  int64_t at = 0;
  for (const PackedDocument& document : batch.documents) {
    if (document.begin != at || document.words < 1 || document.end - at < document.words) {
      throw ShapeError(fmt::format(
          "packed documents must follow one another and have a word each, found rows {} to {} with "
          "{} words after row {}",
          document.begin, document.end, document.words, at));
    }
    at = document.end;
  }
  int64_t rows = 0;
  for (const Positions& positions : batch.positions) rows += Count(positions);
  if (rows != at) {
    throw ShapeError(
        fmt::format("the ranks' positions must be the documents' {} rows, found {}", at, rows));
  }
}

}  // namespace

PackedShard MakePackedShard(Communicator& ring, const DocumentBatch& batch, double rope_theta,
                            bool trains) {
  if (batch.positions.size() != static_cast<size_t>(ring.size())) {
    throw ShapeError(fmt::format("a batch needs the positions of all {} ranks, found {}",
                                 ring.size(), batch.positions.size()));
  }
  CheckDocuments(batch);
  const Positions& mine = batch.positions[static_cast<size_t>(ring.rank())];
  Segments segments;
  segments.reserve(batch.documents.size());
  for (const PackedDocument& document : batch.documents) {
    segments.push_back({document.begin, document.end, static_cast<int32_t>(segments.size())});
  }
  RingAttentionOptions attention;
  const std::vector<Segments> whole = {segments};
  attention.mask.segments = std::make_shared<SegmentMap>(whole, whole);
  attention.query_positions = batch.positions;
  attention.key_positions = batch.positions;
  PackedShard shard{.sequence = {.ring = ring,
                                 .attention = std::move(attention),
                                 .rope_theta = rope_theta,
                                 .batch = 1,
                                 .length = Count(mine)},
                    .documents = batch.documents,
                    .document_of_row = {},
                    .row_in_document = {},
                    .dropout_seed = {}};
  if (trains) shard.dropout_seed = batch.dropout_seed;
  shard.document_of_row.reserve(static_cast<size_t>(shard.rows()));
  shard.row_in_document.reserve(static_cast<size_t>(shard.rows()));
  for (const PositionRun& run : mine) {
    auto document = segments.begin();
    for (int64_t i = 0; i < run.count; ++i) {
      document = std::find_if(document, segments.end(),
                              [&](const Segment& segment) { return run[i] < segment.end; });
      shard.document_of_row.push_back(document->id);
      shard.row_in_document.push_back(run[i] - document->begin);
    }
  }
  return shard;
}

void PoolDocuments(Context& context, const PackedShard& shard, ConstTensorView x,
                   TensorView pooled) {
  DispatchDType(x.dtype, [&]<class T>(T) {
    // Split by columns: a document's sum is then one thread's, in the rows' order.
    context.team.Run([&](int thread) {
      const Range columns = SplitRange(x.shape[1], context.team.size(), thread, kLineFloats);
      for (int64_t document = 0; document < pooled.shape[0]; ++document) {
        std::fill_n(pooled.at<float>(document, columns.begin), columns.size(), 0.0f);
      }
      for (int64_t row = 0; row < x.shape[0]; ++row) {
        const int64_t document = shard.document_of_row[row];
        if (shard.row_in_document[row] >= shard.documents[document].words) continue;
        const T* const from = x.at<T>(row);
        float* const to = pooled.at<float>(document);
        for (int64_t j = columns.begin; j < columns.end; ++j) to[j] += static_cast<float>(from[j]);
      }
    });
  });
  shard.ring().AllReduceSum({pooled.data<float>(), static_cast<size_t>(pooled.elements())});
  for (int64_t document = 0; document < pooled.shape[0]; ++document) {
    const auto words = static_cast<float>(shard.documents[document].words);
    float* const values = pooled.at<float>(document);
    for (int64_t j = 0; j < pooled.shape[1]; ++j) values[j] /= words;
  }
}

void PoolBackward(Context& context, const PackedShard& shard, ConstTensorView pooled_gradient,
                  TensorView x_gradient) {
  DispatchDType(x_gradient.dtype, [&]<class T>(T) {
    context.team.Run([&](int thread) {
      const Range rows = SplitRange(x_gradient.shape[0], context.team.size(), thread);
      for (int64_t row = rows.begin; row < rows.end; ++row) {
        const int64_t document = shard.document_of_row[row];
        const int64_t words = shard.documents[document].words;
        const float share =
            shard.row_in_document[row] < words ? 1.0f / static_cast<float>(words) : 0.0f;
        const float* const from = pooled_gradient.at<float>(document);
        T* const to = x_gradient.at<T>(row);
        for (int64_t j = 0; j < x_gradient.shape[1]; ++j) to[j] = T(share * from[j]);
      }
    });
  });
}

}  // namespace ringwise
