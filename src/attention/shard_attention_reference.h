#pragma once

#include <optional>
#include <vector>

#include "attention/shard_attention.h"

// The two interfaces of shard_attention.h in plain double arithmetic, written to be read: blocks
// and gradients are bytes of doubles, so that a ring schedule can be checked without rounding. One
// thread; for tests only.
namespace ringwise {

class ReferenceShardForward final : public ShardAttentionForward {
 public:
  ReferenceShardForward(const AttentionShape& shape, const AttentionOptions& options,
                        ConstTensorView query, const Positions& query_positions);

  int64_t BlockBytes(int64_t kv_len) const override;
  void Pack(ConstTensorView key, ConstTensorView value, const Positions& positions,
            std::span<std::byte> block) override;
  void Attend(std::span<const std::byte> block, const Positions& key_positions,
              const ProgressHook& progress) override;
  void Finish(const AttentionOutputs& outputs) override;
  AttentionStats stats() const override { return {}; }

  // What Finish writes, before rounding: with the sinks.
  std::vector<double> Output() const;
  std::vector<double> LogSumExp() const;

 private:
  AttentionShape shape_;
  AttentionOptions options_;
  Positions query_positions_;
  int64_t q_len_;
  std::vector<double> query_;
  std::vector<double> output_;     // normalised over the keys seen so far
  std::vector<double> logsumexp_;  // of the keys seen so far
};

class ReferenceShardBackward final : public ShardAttentionBackward {
 public:
  // output and logsumexp as ReferenceShardForward gives them.
  ReferenceShardBackward(const AttentionShape& shape, const AttentionOptions& options,
                         ConstTensorView query, ConstTensorView output_gradient,
                         std::optional<ConstTensorView> logsumexp_gradient,
                         const std::vector<double>& output, std::vector<double> logsumexp,
                         const Positions& query_positions);

  int64_t BlockBytes(int64_t kv_len) const override;
  void Pack(ConstTensorView key, ConstTensorView value, const Positions& positions,
            std::span<std::byte> block) override;
  int64_t GradientBytes(int64_t kv_len) const override;
  void Attend(std::span<const std::byte> block, const Positions& key_positions,
              std::span<std::byte> gradient, const ProgressHook& progress) override;
  void AddGradient(std::span<std::byte> sum, std::span<const std::byte> gradient) override;
  void UnpackGradient(std::span<const std::byte> gradient, TensorView key_gradient,
                      TensorView value_gradient) override;
  void Finish(const AttentionGradients& gradients) override;
  AttentionStats stats() const override { return {}; }

  // What Finish and UnpackGradient write, before rounding; of the keys all rows unpacked, in the
  // order they have in memory.
  const std::vector<double>& QueryGradient() const { return dq_; }
  std::vector<double> KeyGradient() const { return JoinUnpacked(&Unpacked::key); }
  std::vector<double> ValueGradient() const { return JoinUnpacked(&Unpacked::value); }
  const std::vector<double>& BiasGradient() const { return dbias_; }
  std::vector<double> SinkGradient() const;

 private:
  struct Unpacked {
    const void* where;  // the first of them, in memory
    std::vector<double> key, value;
  };
  std::vector<double> JoinUnpacked(std::vector<double> Unpacked::*part) const;

  AttentionShape shape_;
  AttentionOptions options_;
  Positions query_positions_;
  int64_t q_len_;
  std::vector<double> query_, output_gradient_, logsumexp_;
  // d_output . output - d_logsumexp of each row [batch, heads, q_len]
  std::vector<double> delta_;
  std::vector<double> dq_, dbias_;
  std::vector<Unpacked> unpacked_;  // ascending
};

}  // namespace ringwise
