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
  void Finish() override {}
  AttentionStats stats() const override { return {}; }

  // With the sinks.
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
  struct Call {
    AttentionShape shape;
    AttentionOptions options;
    AttentionInputs inputs;
    ConstTensorView output_gradient;
    std::optional<ConstTensorView> logsumexp_gradient;
    std::vector<double> output, logsumexp;  // as ReferenceShardForward gives them
    Positions query_positions, key_positions;
  };
  ReferenceShardBackward(const Call& call, Travelling travelling);

  TravelBytes BytesOf(int64_t rows) const override;
  void Pack(Range rows, std::span<std::byte> block) override;
  void AttendOwn(Range rows, const ProgressHook& progress) override;
  void Attend(std::span<const std::byte> block, const Positions& positions,
              std::span<std::byte> gradient, const ProgressHook& progress) override;
  void AddGradient(Range rows, std::span<const std::byte> gradient) override;
  void Finish() override {}
  AttentionStats stats() const override { return {}; }

  // This rank's gradients, complete when the ring is done; of sinks and bias its part.
  const std::vector<double>& QueryGradient() const { return dq_; }
  const std::vector<double>& KeyGradient() const { return dk_; }
  const std::vector<double>& ValueGradient() const { return dv_; }
  const std::vector<double>& BiasGradient() const { return dbias_; }
  std::vector<double> SinkGradient() const;

 private:
  // Some rows of [batch, rows, heads, ..] and of statistics [batch, heads, rows].
  struct Queries {
    Positions positions;
    std::vector<double> query, output_gradient, logsumexp;
    std::vector<double> delta;  // d_output . output - d_logsumexp of each row
  };
  struct Keys {
    Positions positions;
    std::vector<double> key, value;
  };
  // Adds what the pairs of these rows give.
  void AttendPairs(const Queries& queries, const Keys& keys, std::vector<double>& dq,
                   std::vector<double>& dk, std::vector<double>& dv);

  const AttentionShape shape_;
  const AttentionOptions options_;
  const Travelling travelling_;
  Queries queries_;  // of this rank
  Keys keys_;        // likewise
  std::vector<double> dq_, dk_, dv_, dbias_;
};

}  // namespace ringwise
