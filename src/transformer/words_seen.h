#pragma once

#include <vector>

#include "kernels/gemm.h"
#include "ringwise/classifier.h"
#include "transformer/biased_linear.h"
#include "transformer/class_head.h"
#include "transformer/packed_shard.h"

namespace ringwise {

// The network kWordsSeen of Classifier, in f32: its first layer's input is mostly zeros, so that
// its product is a sum of few rows.
class WordsSeen : public Classifier {
 public:
  WordsSeen(Context& context, const ClassifierConfig& config);

  const ClassifierConfig& config() const override { return config_; }
  std::vector<Parameter>& parameters() override { return parameters_; }
  void Initialize(uint64_t seed) override;
  void ParametersChanged() override;
  void Logits(Communicator& ring, const DocumentBatch& batch, TensorView logits) override;
  ClassSum ForwardBackward(Communicator& ring, const DocumentBatch& batch,
                           float gradient_scale) override;

 private:
  // The hidden layers, [documents, hidden] f32, the same on every rank.
  struct Hidden {
    Tensor first;
    Tensor second;
  };
  Hidden Forward(const PackedShard& shard, const DocumentBatch& batch);
  Tensor Layer(int64_t documents) const;

  Context& context_;
  const ClassifierConfig config_;
  Gemm gemm_;
  std::vector<Parameter> parameters_;
  Parameter& words_;
  Parameter& words_bias_;
  BiasedLinear second_;
  ClassHead head_;
};

}  // namespace ringwise
