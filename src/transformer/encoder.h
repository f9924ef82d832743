#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "kernels/gemm.h"
#include "ringwise/classifier.h"
#include "transformer/class_head.h"
#include "transformer/encoder_layer.h"

namespace ringwise {

// The network kEncoder of Classifier.
class Encoder : public Classifier {
 public:
  Encoder(Context& context, const ClassifierConfig& config, DType compute);

  const ClassifierConfig& config() const override { return config_; }
  std::vector<Parameter>& parameters() override { return parameters_; }
  void Initialize(uint64_t seed) override;
  void ParametersChanged() override;
  void Logits(Communicator& ring, const DocumentBatch& batch, TensorView logits) override;
  ClassSum ForwardBackward(Communicator& ring, const DocumentBatch& batch,
                           float gradient_scale) override;

 private:
  struct Saved {
    std::vector<EncoderLayerSaved> layers;
    Activation output;  // of the last layer, where a norm follows
    NormSaved last;
    Tensor pooled;  // [documents, hidden] f32, what the head reads
  };

  Parameter& At(const std::string& name);
  void CheckInput(const DocumentBatch& batch, int64_t rows) const;
  Activation EmbedInput(const PackedShard& shard, ActivationMemory& memory,
                        const DocumentBatch& batch);
  void BackwardInput(const PackedShard& shard, const DocumentBatch& batch, Activation& gradient);
  // Drops of the input or of the pooled rows.
  void DropInput(const PackedShard& shard, Activation& x) const;
  void DropPooled(const PackedShard& shard, Tensor& pooled) const;
  void Forward(const PackedShard& shard, EncoderWorkspace& work, const DocumentBatch& batch,
               Saved& saved);

  Context& context_;
  const ClassifierConfig config_;
  const DType compute_;
  Gemm gemm_;
  ActivationMemory training_memory_;
  std::vector<Parameter> parameters_;
  std::optional<BiasedLinear> projection_;  // of features that are not hidden wide
  std::deque<EncoderLayer> layers_;
  std::optional<LayerNorm> last_norm_;  // where norms stand before sublayers
  ClassHead head_;
};

}  // namespace ringwise
