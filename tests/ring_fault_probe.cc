// Ring attention in whose middle one rank fails: see ring_fault_test.py.
//
//   ring_fault_probe forward|backward throw|stall|stop|kill RANKS [TIMEOUT_SECONDS]
//
// Rank 1 fails when it attends to its own block, with a transfer under way on every side and
// another that only it can start.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "attention/shard_attention.h"
#include "ring/ring_plan.h"
#include "ring/ring_schedule.h"
#include "ringwise/error.h"
#include "ringwise/launch.h"
#include "ringwise/layout.h"

namespace ringwise {
namespace {

constexpr int64_t kRows = 64;  // of each rank
const AttentionShape kShape{
    .batch = 1, .heads = 2, .kv_heads = 1, .head_dim = 16, .value_dim = 16, .dtype = DType::kF32};

void Fail(const std::string& how) {
  if (how == "throw") throw FileError("the first block is bad");
  if (how == "kill") raise(SIGKILL);
  if (how == "stop") raise(SIGSTOP);
  // Long enough that only a time-out can end the job in time; a thread has to come back by itself.
  std::this_thread::sleep_for(std::chrono::seconds(UnderMpi() ? 60 : 5));
}

// A shard's attention that fails at its first block. `Base` is either direction.
template <class Base>
class Faulty : public Base {
 public:
  Faulty(std::unique_ptr<Base> shard, bool fails, std::string how)
      : shard_(std::move(shard)), fails_(fails), how_(std::move(how)) {}

  int64_t BlockBytes(int64_t kv_len) const override { return shard_->BlockBytes(kv_len); }
  void Pack(ConstTensorView key, ConstTensorView value, const Positions& positions,
            std::span<std::byte> block) override {
    shard_->Pack(key, value, positions, block);
  }
  AttentionStats stats() const override { return shard_->stats(); }

 protected:
  void MaybeFail() {
    if (fails_) Fail(how_);
  }
  std::unique_ptr<Base> shard_;

 private:
  bool fails_;
  std::string how_;
};

class FaultyForward final : public Faulty<ShardAttentionForward> {
 public:
  using Faulty::Faulty;
  void Attend(std::span<const std::byte> block, const Positions& keys,
              const ProgressHook& progress) override {
    MaybeFail();
    shard_->Attend(block, keys, progress);
  }
  void Finish(const AttentionOutputs& outputs) override { shard_->Finish(outputs); }
};

class FaultyBackward final : public Faulty<ShardAttentionBackward> {
 public:
  using Faulty::Faulty;
  int64_t GradientBytes(int64_t kv_len) const override { return shard_->GradientBytes(kv_len); }
  void Attend(std::span<const std::byte> block, const Positions& keys,
              std::span<std::byte> gradient, const ProgressHook& progress) override {
    MaybeFail();
    shard_->Attend(block, keys, gradient, progress);
  }
  void AddGradient(std::span<std::byte> sum, std::span<const std::byte> gradient) override {
    shard_->AddGradient(sum, gradient);
  }
  void UnpackGradient(std::span<const std::byte> gradient, TensorView key,
                      TensorView value) override {
    shard_->UnpackGradient(gradient, key, value);
  }
  void Finish(const AttentionGradients& gradients) override { shard_->Finish(gradients); }
};

void Attend(Rank& rank, const std::string& direction, const std::string& how) {
  const int ranks = rank.ring.size();
  const bool fails = rank.ring.rank() == 1;
  std::vector<Positions> positions;
  positions.reserve(ranks);
  for (int r = 0; r < ranks; ++r) {
    positions.push_back(ShardPositions(Layout::kContiguous, kRows * ranks, ranks, r));
  }
  const auto make = [&](const Shape& shape) {
    Tensor tensor(rank.context.meter, MemoryCategory::kActivations, DType::kF32, shape);
    std::fill_n(tensor.data<float>(), tensor.elements(), 0.5f);
    return tensor;
  };
  Tensor query = make({1, kRows, 2, 16});
  Tensor key = make({1, kRows, 1, 16});
  Tensor logsumexp = make({1, 2, kRows});
  const Tensor& input = key;
  const RingPlan plan({}, 1, 2, positions, positions);
  const RingBlocks blocks{plan, positions, input.view(), input.view()};
  const Positions& mine = positions[rank.ring.rank()];
  if (direction == "forward") {
    FaultyForward shard(
        MakeShardAttentionForward(rank.context, kShape, {}, std::as_const(query).view(), mine),
        fails, how);
    RunRingForward(rank.context, rank.ring, blocks, shard);
  } else {
    const ConstTensorView rows = std::as_const(query).view();
    FaultyBackward shard(
        MakeShardAttentionBackward(rank.context, kShape, {}, rows,
                                   {rows, std::as_const(logsumexp).view(), rows}, mine),
        fails, how);
    Tensor dk = make(key.shape());
    Tensor dv = make(key.shape());
    RunRingBackward(rank.context, rank.ring, blocks, shard, dk.view(), dv.view());
  }
}

int Main(const std::string& direction, const std::string& how, int ranks, double timeout_seconds) {
  MeshOptions mesh;
  mesh.ring = ranks;
  mesh.threads = 1;
  mesh.timeout_seconds = timeout_seconds;
  Launch(mesh, [&](Rank& rank) { Attend(rank, direction, how); });
  return 0;
}

}  // namespace
}  // namespace ringwise

int main(int argc, char** argv) {
  try {
    return ringwise::Main(argv[1], argv[2], std::atoi(argv[3]), argc > 4 ? std::atof(argv[4]) : 60);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ringwise: %s\n", error.what());
    return 1;
  }
}
