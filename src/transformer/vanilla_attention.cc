#include "transformer/vanilla_attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "attention/tiling.h"
#include "core/dropout_stream.h"
#include "kernels/convert.h"
#include "kernels/dropout_bits.h"
#include "kernels/row_softmax.h"
#include "transformer/row_blocks.h"

namespace ringwise {
namespace {

constexpr int64_t kBitRows = 64;  // queries whose bits of one key make a word

// [rows, columns] of one sequence and head of a tensor [batch, rows, heads, columns]; rows strided.
template <class View>
View HeadOf(const View& tensor, int64_t batch, int64_t head) {
  View view = tensor.Slice(0, batch, 1).Slice(2, head, 1);
  view.shape = {tensor.shape[1], tensor.shape[3]};
  view.strides = {tensor.strides[1], 1};
  return view;
}

// to = from, rounded to its type; rows of either may be strided.
void CopyRows(Context& context, ConstTensorView from, TensorView to) {
  DispatchDType(from.dtype, [&]<class From>(From) {
    DispatchDType(to.dtype, [&]<class To>(To) {
      context.team.Run([&](int thread) {
        const Range range = SplitRange(from.shape[0], context.team.size(), thread);
        for (int64_t row = range.begin; row < range.end; ++row) {
          Convert(from.at<From>(row), to.at<To>(row), from.shape[1]);
        }
      });
    });
  });
}

// One sequence and head of a call.
class Head {
 public:
  Head(Gemm& gemm, const RingAttentionOptions& options, const AttentionInputs& inputs,
       int64_t batch, int64_t head)
      : gemm_(gemm),
        context_(gemm.context()),
        options_(options),
        dtype_(inputs.query.dtype),
        q_len_(inputs.query.shape[1]),
        kv_len_(inputs.key.shape[1]),
        batch_(batch),
        head_(head),
        scale_(static_cast<float>(
            options.scale.value_or(1 / std::sqrt(static_cast<double>(inputs.query.shape[3]))))),
        keys_(CutIntoBlocks(options.key_positions[0], std::numeric_limits<int64_t>::max())),
        query_(Copy(HeadOf(inputs.query, batch, head), dtype_)),
        wide_(Make(DType::kF32, std::min(kBlockRows, q_len_), kv_len_)) {}

  void Forward(ConstTensorView key, ConstTensorView value, TensorView probabilities,
               TensorView output) {
    const PackedMatrix for_scores = Pack(key, Gemm::Orientation::kTransposed);
    const PackedMatrix for_output = Pack(value, Gemm::Orientation::kAsStored);
    Tensor rows_out = Make(dtype_, wide_.shape()[0], value.shape[1]);
    Tensor dropped = MakeDropped();
    ForEachRowBlock(q_len_, kBlockRows, [&](int64_t begin, int64_t rows) {
      const TensorView scores = wide_.view().Slice(0, 0, rows);
      const TensorView p = probabilities.Slice(0, begin, rows);
      const TensorView out = rows_out.view().Slice(0, 0, rows);
      gemm_.Multiply(query_.view().Slice(0, begin, rows), for_scores, scores);
      Hide(begin, scores);
      RowSoftmaxForward(context_, scores, scale_, p);
      gemm_.Multiply(Dropped(begin, p, dropped), for_output, out);
      CopyRows(context_, out, output.Slice(0, begin, rows));
    });
  }

  // Adds to key_gradient and value_gradient [kv_len, head_dim] f32.
  void Backward(ConstTensorView key, ConstTensorView value, ConstTensorView probabilities,
                ConstTensorView output_gradient, TensorView query_gradient, TensorView key_gradient,
                TensorView value_gradient) {
    const PackedMatrix for_probabilities = Pack(value, Gemm::Orientation::kTransposed);
    const PackedMatrix for_query = Pack(key, Gemm::Orientation::kAsStored);
    const Tensor d_output = Copy(output_gradient, dtype_);
    Tensor score_gradient = Make(dtype_, wide_.shape()[0], kv_len_);
    Tensor rows_dq = Make(dtype_, wide_.shape()[0], key.shape[1]);
    Tensor dropped = MakeDropped();
    ForEachRowBlock(q_len_, kBlockRows, [&](int64_t begin, int64_t rows) {
      const ConstTensorView p = probabilities.Slice(0, begin, rows);
      const ConstTensorView d_out = d_output.view().Slice(0, begin, rows);
      const TensorView dp = wide_.view().Slice(0, 0, rows);
      const TensorView ds = score_gradient.view().Slice(0, 0, rows);
      const TensorView dq = rows_dq.view().Slice(0, 0, rows);
      // output = (P o D) v
      gemm_.AddWeightGradients(Dropped(begin, p, dropped), d_out, {&value_gradient, 1});
      gemm_.Multiply(d_out, for_probabilities, dp);
      Drop(begin, dp);
      // P = softmax(scale S)
      RowSoftmaxBackward(context_, p, dp, scale_, ds);
      // S = q k^T
      gemm_.Multiply(ds, for_query, dq);
      CopyRows(context_, dq, query_gradient.Slice(0, begin, rows));
      gemm_.AddWeightGradients(ds, query_.view().Slice(0, begin, rows), {&key_gradient, 1});
    });
  }

 private:
  Tensor Make(DType dtype, int64_t rows, int64_t columns) const {
    return {context_.meter, MemoryCategory::kWorkspace, dtype, {rows, columns}};
  }
  Tensor MakeDropped() const {
    return options_.dropout.probability > 0 ? Make(dtype_, wide_.shape()[0], kv_len_) : Tensor();
  }
  Tensor Copy(ConstTensorView rows, DType dtype) const {
    Tensor copy = Make(dtype, rows.shape[0], rows.shape[1]);
    CopyRows(context_, rows, copy.view());
    return copy;
  }
  PackedMatrix Pack(ConstTensorView rows, Gemm::Orientation orientation) {
    const Tensor wide = Copy(rows, DType::kF32);
    const ConstTensorView view = wide.view();
    return gemm_.Pack({&view, 1}, orientation, dtype_, MemoryCategory::kWorkspace);
  }

  // Calls bits(queries, keys, words), which fills a word a key, for up to kBitRows of the block of
  // rows that begins at query `begin`, then change(row, key) for every pair whose bit is `chosen`.
  template <class Bits, class Change>
  void ForEachPair(int64_t begin, int64_t rows, bool chosen, const Bits& bits,
                   const Change& change) {
    const std::vector<RowBlock> groups =
        CutIntoBlocks(PositionsOf(options_.query_positions[0], {begin, begin + rows}), kBitRows);
    context_.team.ForEach(std::ssize(groups), [&](int64_t index, int) {
      const RowBlock& group = groups[index];
      std::vector<uint64_t> words;
      for (const RowBlock& keys : keys_) {
        words.resize(static_cast<size_t>(keys.count()));
        bits(group.positions, keys.positions, words.data());
        for (int64_t row = 0; row < group.count(); ++row) {
          for (int64_t key = 0; key < keys.count(); ++key) {
            if (((words[key] >> row & 1) != 0) == chosen) {
              change(group.begin + row, keys.begin + key);
            }
          }
        }
      }
    });
  }

  void Hide(int64_t begin, TensorView scores) {
    const MaskPlane plane{options_.mask, batch_, head_};
    ForEachPair(
        begin, scores.shape[0], false,
        [&](const PositionRun& queries, const PositionRun& keys, uint64_t* words) {
          VisibleBits(plane, queries, keys, {words, static_cast<size_t>(keys.count)});
        },
        [&](int64_t row, int64_t key) {
          *scores.at<float>(row, key) = -std::numeric_limits<float>::infinity();
        });
  }

  // rows = D o rows
  void Drop(int64_t begin, TensorView rows) {
    if (options_.dropout.probability == 0) return;
    const DropoutStream stream(options_.dropout, batch_, head_);
    const auto factor = static_cast<float>(1 / (1 - options_.dropout.probability));
    const auto bits = [&](const PositionRun& queries, const PositionRun& keys, uint64_t* words) {
      DropoutBits(stream, queries, keys, words);
    };
    DispatchDType(rows.dtype, [&]<class T>(T) {
      const auto multiply = [&](float by) {
        return [&rows, by](int64_t row, int64_t key) {
          T& value = *rows.at<T>(row, key);
          value = T(static_cast<float>(value) * by);
        };
      };
      ForEachPair(begin, rows.shape[0], false, bits, multiply(0));
      ForEachPair(begin, rows.shape[0], true, bits, multiply(factor));
    });
  }

  // P o D of a block of rows: P itself, or in `dropped`.
  ConstTensorView Dropped(int64_t begin, ConstTensorView p, Tensor& dropped) {
    if (!dropped) return p;
    const TensorView rows = dropped.view().Slice(0, 0, p.shape[0]);
    Convert(context_, p, rows);
    Drop(begin, rows);
    return rows;
  }

  Gemm& gemm_;
  Context& context_;
  const RingAttentionOptions& options_;
  const DType dtype_;
  const int64_t q_len_, kv_len_;
  const int64_t batch_, head_;
  const float scale_;
  const std::vector<RowBlock> keys_;
  const Tensor query_;  // [q_len, head_dim]
  Tensor wide_;         // [a block of rows, kv_len] f32: scores, or dP
};

// [q_len, kv_len] of one sequence and head.
template <class View>
View PlaneOf(const View& probabilities, int64_t batch, int64_t head) {
  View view = probabilities.Slice(0, batch, 1).Slice(1, head, 1);
  view.shape = {probabilities.shape[2], probabilities.shape[3]};
  view.strides = {probabilities.shape[3], 1};
  return view;
}

}  // namespace

void VanillaAttentionForward(Gemm& gemm, const RingAttentionOptions& options,
                             const AttentionInputs& inputs, TensorView probabilities,
                             TensorView output) {
  const int64_t heads = inputs.query.shape[2];
  const int64_t share = heads / inputs.key.shape[2];
  for (int64_t batch = 0; batch < inputs.query.shape[0]; ++batch) {
    for (int64_t head = 0; head < heads; ++head) {
      Head(gemm, options, inputs, batch, head)
          .Forward(HeadOf(inputs.key, batch, head / share),
                   HeadOf(inputs.value, batch, head / share), PlaneOf(probabilities, batch, head),
                   HeadOf(output, batch, head));
    }
  }
}

void VanillaAttentionBackward(Gemm& gemm, const RingAttentionOptions& options,
                              const AttentionInputs& inputs, ConstTensorView probabilities,
                              ConstTensorView output_gradient,
                              const AttentionGradients& gradients) {
  Context& context = gemm.context();
  const int64_t kv_heads = inputs.key.shape[2];
  const int64_t share = inputs.query.shape[2] / kv_heads;
  const auto sum = [&](const ConstTensorView& rows) {
    return Tensor(context.meter, MemoryCategory::kWorkspace, DType::kF32,
                  {rows.shape[1], rows.shape[3]});
  };
  Tensor key_sum = sum(inputs.key);
  Tensor value_sum = sum(inputs.value);
  for (int64_t batch = 0; batch < inputs.query.shape[0]; ++batch) {
    for (int64_t kv_head = 0; kv_head < kv_heads; ++kv_head) {
      key_sum.Zero();
      value_sum.Zero();
      for (int64_t head = kv_head * share; head < (kv_head + 1) * share; ++head) {
        Head(gemm, options, inputs, batch, head)
            .Backward(HeadOf(inputs.key, batch, kv_head), HeadOf(inputs.value, batch, kv_head),
                      PlaneOf(probabilities, batch, head), HeadOf(output_gradient, batch, head),
                      HeadOf(gradients.query, batch, head), key_sum.view(), value_sum.view());
      }
      CopyRows(context, std::as_const(key_sum).view(), HeadOf(gradients.key, batch, kv_head));
      CopyRows(context, std::as_const(value_sum).view(), HeadOf(gradients.value, batch, kv_head));
    }
  }
}

}  // namespace ringwise
