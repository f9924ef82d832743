#include "inference/prefill.h"

#include <algorithm>

#include "kernels/convert.h"
#include "kernels/gemm.h"
#include "kernels/rms_norm.h"
#include "kernels/rotary.h"
#include "kernels/swiglu.h"
#include "ringwise/ring_attention.h"
#include "transformer/model_mask.h"

namespace ringwise {
namespace {

// Legend
//   rows    of this rank's shard          width     heads * head_dim
//   block   rows taken at once            kv_width  kv_heads * head_dim

// Rows at once: enough for fast products, and the widest activations stay small.
constexpr int64_t kBlock = 512;

class PromptPass {
 public:
  PromptPass(Context& context, Communicator& ring, const ModelConfig& config, DType compute,
             std::vector<Positions> positions)
      : context_(context),
        ring_(ring),
        config_(config),
        compute_(compute),
        positions_(std::move(positions)),
        rows_(Count(positions_[static_cast<size_t>(ring.rank())])),
        width_(config.heads * config.head_dim),
        kv_width_(config.kv_heads * config.head_dim),
        gemm_(context),
        rotary_(context, positions_[static_cast<size_t>(ring.rank())], config.head_dim,
                config.rope_theta),
        hidden_(Make(DType::kF32, {rows_, config.hidden})),
        query_(Make(compute, {rows_, config.heads, config.head_dim})),
        attended_(Make(compute, {rows_, config.heads, config.head_dim})),
        logsumexp_(Make(DType::kF32, {1, config.heads, rows_})),
        normed_(Make(DType::kF32, {block(), config.hidden})),
        rounded_(Make(compute, {compute == DType::kF32 ? 0 : block(), config.hidden})),
        projected_(Make(compute, {block(), width_ + 2 * kv_width_})),
        gate_up_(Make(compute, {block(), 2 * config.ffn})),
        inner_(Make(compute, {block(), config.ffn})),
        inverse_rms_(static_cast<size_t>(block())) {}

  void Embed(ConstTensorView embedding, std::span<const int32_t> prompt) {
    const Positions& mine = positions_[static_cast<size_t>(ring_.rank())];
    for (int64_t row = 0; row < rows_; ++row) {
      const int32_t token = prompt[static_cast<size_t>(At(mine, row))];
      std::copy_n(embedding.at<float>(token), config_.hidden, hidden_.view().at<float>(row));
    }
  }

  // hidden += attention(norm(hidden)), whose keys and values stay in the cache
  void Attention(const LayerWeights& layer, TensorView key, TensorView value) {
    const ConstTensorView parts[] = {layer.query, layer.key, layer.value};
    const PackedMatrix qkv = gemm_.Pack(parts, Gemm::Orientation::kTransposed, compute_);
    ForEachBlock([&](int64_t begin, int64_t count) {
      const TensorView projected = projected_.view().Slice(0, 0, count);
      gemm_.Multiply(Normed(begin, count, layer.attention_norm), qkv, projected);
      const auto heads = [&](int64_t first, int64_t number) {
        TensorView view = projected.Slice(1, first, number * config_.head_dim);
        view.shape = {count, number, config_.head_dim};
        view.strides = {projected.strides[0], config_.head_dim, 1, 0};
        return view;
      };
      const TensorView queries = heads(0, config_.heads);
      const TensorView keys = heads(width_, config_.kv_heads);
      ApplyRotary(context_, rotary_, begin, queries);
      ApplyRotary(context_, rotary_, begin, keys);
      CopyRows(queries, query_.view(), begin);
      CopyRows(keys, key, begin);
      CopyRows(heads(width_ + kv_width_, config_.kv_heads), value, begin);
    });
    RingAttentionOptions options;
    options.mask = ModelMask(config_);
    options.query_positions = positions_;
    options.key_positions = positions_;
    RingAttentionForward(context_, ring_, options,
                         {Batched(query_.view()), Batched(key), Batched(value)},
                         {Batched(attended_.view()), logsumexp_.view()});
    const PackedMatrix output =
        gemm_.Pack({&layer.output, 1}, Gemm::Orientation::kTransposed, compute_);
    ForEachBlock([&](int64_t begin, int64_t count) {
      TensorView attended = attended_.view().Slice(0, begin, count);
      attended = TensorView(attended.memory, compute_, {count, width_});
      gemm_.Multiply(attended, output, hidden_.view().Slice(0, begin, count), true);
    });
  }

  // hidden += feed_forward(norm(hidden))
  void FeedForward(const LayerWeights& layer) {
    const ConstTensorView parts[] = {layer.gate, layer.up};
    const PackedMatrix gate_up = gemm_.Pack(parts, Gemm::Orientation::kTransposed, compute_);
    const PackedMatrix down =
        gemm_.Pack({&layer.down, 1}, Gemm::Orientation::kTransposed, compute_);
    ForEachBlock([&](int64_t begin, int64_t count) {
      const TensorView wide = gate_up_.view().Slice(0, 0, count);
      const TensorView inner = inner_.view().Slice(0, 0, count);
      gemm_.Multiply(Normed(begin, count, layer.ffn_norm), gate_up, wide);
      SwiGluForward(context_, wide, inner);
      gemm_.Multiply(inner, down, hidden_.view().Slice(0, begin, count), true);
    });
  }

  // The hidden row of the last position, from the rank that holds it to all.
  std::vector<float> LastRow(int64_t length) {
    std::vector<float> row(static_cast<size_t>(config_.hidden));
    int owner = 0;
    for (int rank = 0; rank < ring_.size(); ++rank) {
      for (const PositionRun& run : positions_[static_cast<size_t>(rank)]) {
        if (run.count > 0 && run.last() == length - 1) owner = rank;
      }
    }
    // Runs ascend, so the last position is its rank's last row.
    if (owner == ring_.rank()) {
      std::copy_n(hidden_.view().at<float>(rows_ - 1), config_.hidden, row.data());
    }
    ring_.Broadcast(std::as_writable_bytes(std::span(row)), owner);
    return row;
  }

 private:
  int64_t block() const { return std::min(kBlock, rows_); }
  Tensor Make(DType dtype, const Shape& shape) const {
    return {context_.meter, MemoryCategory::kActivations, dtype, shape};
  }
  static TensorView Batched(const TensorView& rows) {
    return {rows.memory, rows.dtype, {1, rows.shape[0], rows.shape[1], rows.shape[2]}};
  }

  template <class Body>
  void ForEachBlock(const Body& body) const {
    for (int64_t begin = 0; begin < rows_; begin += kBlock) {
      body(begin, std::min(kBlock, rows_ - begin));
    }
  }

  ConstTensorView Normed(int64_t begin, int64_t count, std::span<const float> weight) {
    const TensorView normed = normed_.view().Slice(0, 0, count);
    RmsNormForward(context_, hidden_.view().Slice(0, begin, count), weight,
                   static_cast<float>(config_.rms_norm_eps), normed,
                   std::span(inverse_rms_).first(static_cast<size_t>(count)));
    if (compute_ == DType::kF32) return normed;
    const TensorView rounded = rounded_.view().Slice(0, 0, count);
    Convert(context_, normed, rounded);
    return rounded;
  }

  // from [count, heads, head_dim], rows strided, to the same rows of `to` from `begin` on.
  static void CopyRows(const TensorView& from, const TensorView& to, int64_t begin) {
    DispatchDType(from.dtype, [&]<class Element>(Element) {
      for (int64_t row = 0; row < from.shape[0]; ++row) {
        std::copy_n(from.at<Element>(row), from.shape[1] * from.shape[2],
                    to.at<Element>(begin + row));
      }
    });
  }

  Context& context_;
  Communicator& ring_;
  const ModelConfig& config_;
  DType compute_;
  std::vector<Positions> positions_;  // of every rank
  int64_t rows_;
  int64_t width_;
  int64_t kv_width_;
  Gemm gemm_;
  RotaryTable rotary_;
  Tensor hidden_;                   // [rows, hidden]
  Tensor query_, attended_;         // [rows, heads, head_dim]
  Tensor logsumexp_;                // [1, heads, rows]
  Tensor normed_, rounded_;         // [block, hidden]
  Tensor projected_;                // [block, width + 2 kv_width]
  Tensor gate_up_, inner_;          // [block, 2 ffn], [block, ffn]
  std::vector<float> inverse_rms_;  // [block]
};

}  // namespace

std::vector<float> Prefill(Context& context, Communicator& ring, const ModelConfig& config,
                           const LlamaWeights& weights, DType compute, Layout layout,
                           std::span<const int32_t> prompt, KeyValueCache& cache) {
  const auto length = static_cast<int64_t>(prompt.size());
  std::vector<Positions> positions;
  positions.reserve(static_cast<size_t>(ring.size()));
  for (int rank = 0; rank < ring.size(); ++rank) {
    positions.push_back(ShardPositions(layout, length, ring.size(), rank));
  }
  cache.Reset(positions[static_cast<size_t>(ring.rank())]);
  PromptPass pass(context, ring, config, compute, std::move(positions));
  pass.Embed(weights.embedding, prompt);
  for (int64_t index = 0; index < config.layers; ++index) {
    const LayerWeights& layer = weights.layers[static_cast<size_t>(index)];
    pass.Attention(layer, cache.key(index), cache.value(index));
    pass.FeedForward(layer);
  }
  return pass.LastRow(length);
}

}  // namespace ringwise
