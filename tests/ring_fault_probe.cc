// Ring attention in whose middle one rank fails: see ring_fault_test.py.
//
//   ring_fault_probe forward|backward|backward_queries throw|stall|stop|kill RANKS
//   [TIMEOUT_SECONDS]
//
// Rank 1 fails when it attends to its own block or, where backward's queries travel, to the first
// of another rank, with a transfer under way on every side and another that only it can start.
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
#include "ring/backward_choice.h"
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

// A shard's attention that fails at its first block.
class FaultyForward final : public ShardAttentionForward {
 public:
  FaultyForward(std::unique_ptr<ShardAttentionForward> shard, bool fails, std::string how)
      : shard_(std::move(shard)), fails_(fails), how_(std::move(how)) {}

  int64_t BlockBytes(int64_t kv_len) const override { return shard_->BlockBytes(kv_len); }
  void Pack(ConstTensorView key, ConstTensorView value, const Positions& positions,
            std::span<std::byte> block) override {
    shard_->Pack(key, value, positions, block);
  }
  void Attend(std::span<const std::byte> block, const Positions& keys,
              const ProgressHook& progress) override {
    if (fails_) Fail(how_);
    shard_->Attend(block, keys, progress);
  }
  void Finish() override { shard_->Finish(); }
  AttentionStats stats() const override { return shard_->stats(); }

 private:
  std::unique_ptr<ShardAttentionForward> shard_;
  bool fails_;
  std::string how_;
};

// The same, at its own rows or at the first block of another rank.
class FaultyBackward final : public ShardAttentionBackward {
 public:
  FaultyBackward(std::unique_ptr<ShardAttentionBackward> shard, bool fails, bool at_own,
                 std::string how)
      : shard_(std::move(shard)), fails_(fails), at_own_(at_own), how_(std::move(how)) {}

  TravelBytes BytesOf(int64_t rows) const override { return shard_->BytesOf(rows); }
  void Pack(Range rows, std::span<std::byte> block) override { shard_->Pack(rows, block); }
  void AttendOwn(Range rows, const ProgressHook& progress) override {
    if (fails_ && at_own_) Fail(how_);
    shard_->AttendOwn(rows, progress);
  }
  void Attend(std::span<const std::byte> block, const Positions& positions,
              std::span<std::byte> gradient, const ProgressHook& progress) override {
    if (fails_ && !at_own_) Fail(how_);
    shard_->Attend(block, positions, gradient, progress);
  }
  void AddGradient(Range rows, std::span<const std::byte> gradient) override {
    shard_->AddGradient(rows, gradient);
  }
  void Finish() override { shard_->Finish(); }
  AttentionStats stats() const override { return shard_->stats(); }

 private:
  std::unique_ptr<ShardAttentionBackward> shard_;
  bool fails_;
  bool at_own_;
  std::string how_;
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
  Tensor dq = make(query.shape());
  Tensor dk = make(key.shape());
  Tensor dv = make(key.shape());
  const ConstTensorView queries = std::as_const(query).view();
  const ConstTensorView keys = std::as_const(key).view();
  const Mask everything;
  const RingCall call{everything, 1, 2, positions, positions};
  const Positions& mine = positions[rank.ring.rank()];
  if (direction == "forward") {
    FaultyForward shard(MakeShardAttentionForward(rank.context, kShape, {}, queries, mine,
                                                  {dq.view(), logsumexp.view()}),
                        fails, how);
    const RingPlan plan(call, Travelling::kKeys, [&](int64_t rows) {
      return TravelBytes{shard.BlockBytes(rows), 0};
    });
    RunRingForward(rank.context, rank.ring, plan, keys, keys, mine, shard);
  } else {
    const Travelling travelling =
        direction == "backward" ? Travelling::kKeys : Travelling::kQueries;
    FaultyBackward shard(
        MakeShardAttentionBackward(rank.context,
                                   {kShape,
                                    {},
                                    {queries, keys, keys},
                                    {queries, std::as_const(logsumexp).view(), queries},
                                    {dq.view(), dk.view(), dv.view()},
                                    mine,
                                    mine},
                                   travelling),
        fails, travelling == Travelling::kKeys, how);
    RunRingBackward(rank.context, rank.ring, BackwardPlanOf(call, kShape, travelling), shard);
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
