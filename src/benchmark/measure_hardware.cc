#include "ringwise/measure_hardware.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "benchmark/attention_call.h"
#include "benchmark/case_progress.h"
#include "benchmark/host_memory.h"
#include "benchmark/timing.h"
#include "kernels/gemm.h"
#include "ringwise/error.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

constexpr double kSecondsOfCalls = 0.4;

// Two sizes tell what grows with the rows from what grows with the pairs: one at which attention's
// blocks of rows matter, one at which products are nearly all.
constexpr int64_t kFewRows = 1024;
constexpr int64_t kManyRows = 4096;
constexpr int64_t kLeastHeads = 4;

constexpr size_t kSmallMessage = 1024;
constexpr size_t kSmallestBlock = size_t{1} << 20;
constexpr size_t kLargestBlock = size_t{1} << 26;
constexpr double kLongTransfer = 0.1;  // seconds: far more than a message's delay

// One rank's part of the measurement. Every method is collective over the ring.
class Measurement {
 public:
  Measurement(Rank& rank, const ModelConfig& model, DType dtype)
      : rank_(rank),
        ring_(rank.ring),
        model_(model),
        dtype_(dtype),
        alone_(ring_.Split(ring_.rank())) {}

  // FLOP/s of a product of a block of rows as the feed-forward has it, shortened.
  double Products() {
    constexpr int64_t kRows = 512;
    constexpr int64_t kWidest = 2048;
    const int64_t k = std::min(model_.hidden, kWidest);
    const int64_t n = std::min(2 * model_.ffn, kWidest);
    Gemm gemm(rank_.context);
    MemoryMeter& meter = rank_.context.meter;
    Tensor left(meter, MemoryCategory::kActivations, dtype_, {kRows, k});
    Tensor weight(meter, MemoryCategory::kParameters, DType::kF32, {n, k});
    Tensor output(meter, MemoryCategory::kActivations, dtype_, {kRows, n});
    Random random(1, 0);
    for (float& value : std::span(weight.data<float>(), static_cast<size_t>(n * k))) {
      value = static_cast<float>(random.Uniform() - 0.5);
    }
    FillOnes(left);
    const ConstTensorView weights[] = {weight.view()};
    const PackedMatrix right = gemm.Pack(weights, Gemm::Orientation::kTransposed, dtype_);
    const double seconds = SecondsOfCall([&] { gemm.Multiply(left.view(), right, output.view()); });
    return 2.0 * static_cast<double>(kRows * n * k) / seconds;
  }

  // Fills the rates of attention, each rank by itself on as many tokens as a shard may have.
  void Attention(ComputeRate& rate) {
    const double few = AttentionSeconds(Direction::kForward, kFewRows);
    const double many = AttentionSeconds(Direction::kForward, kManyRows);
    // few = row kFewRows + pair kFewRows^2, likewise many
    const double ratio = static_cast<double>(kManyRows) / static_cast<double>(kFewRows);
    const double rows_few = std::max(0.0, (few * ratio * ratio - many) / (ratio * ratio - ratio));
    const double rows_many = ratio * rows_few;
    const AttentionProblem problem = ProblemOf(Direction::kForward, kManyRows);
    rate.row_seconds = rows_many / static_cast<double>(kManyRows * problem.heads);
    rate.attention_forward = AttentionFlops(problem) / (many - rows_many);
    const double backward = AttentionSeconds(Direction::kBackward, kManyRows);
    rate.attention_backward = AttentionFlops(ProblemOf(Direction::kBackward, kManyRows)) /
                              std::max(backward - rows_many, 0.5 * backward);
  }

  // Seconds of a ring attention call with hardly a token.
  double Call() {
    constexpr int64_t kRows = 16;
    constexpr int kCalls = 15;
    AttentionCall call(rank_.context, ring_, ProblemOf(Direction::kForward, kRows * ring_.size()));
    CallTimes times;  // as many calls on every rank
    for (int i = 0; i <= kCalls; ++i) {
      if (i == 1) times = {};  // the first one takes memory
      ring_.Barrier();
      times.Time([&] { call.Run(); });
    }
    BenchmarkResult result;
    times.Summarize(result);
    return Slowest(result.best_seconds);
  }

  // Both directions of every link at once, as in a ring's step.
  void Link(Hardware& hardware) {
    hardware.link_delay = ExchangeSeconds(kSmallMessage);
    size_t bytes = kSmallestBlock;
    double seconds = ExchangeSeconds(bytes);
    while (seconds < kLongTransfer && bytes < kLargestBlock) {
      bytes *= 2;
      seconds = ExchangeSeconds(bytes);
    }
    hardware.link_bytes_per_second =
        static_cast<double>(bytes) / std::max(seconds - hardware.link_delay, 0.1 * seconds);
  }

 private:
  void FillOnes(Tensor& tensor) {
    DispatchDType(tensor.dtype(),
                  [&]<class T>(T) { std::fill_n(tensor.data<T>(), tensor.elements(), T(1.0F)); });
  }

  AttentionProblem ProblemOf(Direction direction, int64_t rows) const {
    const int64_t group = model_.heads / model_.kv_heads;
    const int64_t kv_heads = std::min(model_.kv_heads, (kLeastHeads + group - 1) / group);
    return WithDefaults({.seq = rows,
                         .heads = group * kv_heads,
                         .kv_heads = kv_heads,
                         .head_dim = model_.head_dim,
                         .dtype = dtype_,
                         .direction = direction});
  }

  double AttentionSeconds(Direction direction, int64_t rows) {
    AttentionCall call(rank_.context, *alone_, ProblemOf(direction, rows));
    return SecondsOfCall([&] { call.Run(); });
  }

  // Seconds of the fastest call while every rank makes such calls, the mean of the ranks: what
  // comes and goes on a shared machine is not the hardware's.
  double SecondsOfCall(const std::function<void()>& call) {
    call();  // takes memory, finds its kernels
    ring_.Barrier();
    CallTimes times;
    while (!times.Enough(kSecondsOfCalls)) times.Time(call);
    BenchmarkResult result;
    times.Summarize(result);
    std::array<double, 1> sum = {result.best_seconds};
    ring_.AllReduceSum(std::span<double>(sum));
    return sum[0] / ring_.size();
  }

  // Seconds until the last rank has sent to its next and received from its previous one; the median
  // of a few times.
  double ExchangeSeconds(size_t bytes) {
    constexpr size_t kTimes = 5;
    std::vector<std::byte> sent(bytes);
    std::vector<std::byte> received(bytes);
    std::vector<double> seconds(kTimes);
    for (double& one : seconds) {
      ring_.Barrier();
      const auto begin = std::chrono::steady_clock::now();
      Exchange(sent, received);
      one =
          Slowest(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    std::ranges::nth_element(seconds, seconds.begin() + kTimes / 2);
    return seconds[kTimes / 2];
  }

  // As the ring hands on a block: in place where ranks share memory.
  void Exchange(std::span<std::byte> sent, std::span<std::byte> received) {
    constexpr int kTag = 7;
    const int next = (ring_.rank() + 1) % ring_.size();
    const int previous = (ring_.rank() + ring_.size() - 1) % ring_.size();
    const SharedBytes mine{sent, std::make_shared<int>()};
    SharedBytes other{received, nullptr};
    auto receive = ring_.ReceiveShared(other, received.size(), previous, kTag);
    auto send = ring_.SendShared(mine, next, kTag);
    ring_.Wait(receive);
    ring_.Wait(send);
    if (ring_.shares_memory()) ring_.Barrier();  // others may still hold what is mine
  }

  double Slowest(double mine) {
    std::vector<double> all(static_cast<size_t>(ring_.size()));
    all[static_cast<size_t>(ring_.rank())] = mine;
    ring_.AllReduceSum(std::span<double>(all));
    return *std::ranges::max_element(all);
  }

  Rank& rank_;
  Communicator& ring_;
  const ModelConfig& model_;
  DType dtype_;
  std::unique_ptr<Communicator> alone_;
};

}  // namespace

std::optional<MeasuredHardware> MeasureHardware(const MeshOptions& mesh, const ModelConfig& model,
                                                DType dtype) {
  if (mesh.data_parallel > 1) throw UsageError("one ring is measured; leave out --data-parallel");
  std::optional<MeasuredHardware> result;
  CaseProgress progress(true, {1, 4, 1});
  Launch(mesh, [&](Rank& rank) {
    const bool first = rank.world.rank() == 0;
    const auto begin = [&](const char* name) {
      if (first) progress.Begin(name);
    };
    MeasuredHardware measured{
        .hardware = {}, .ranks = rank.ring.size(), .threads = rank.context.team.size()};
    Hardware& hardware = measured.hardware;
    hardware.name = "this";
    Measurement measurement(rank, model, dtype);
    ComputeRate rate;
    begin("products");
    rate.products = measurement.Products();
    begin("attention");
    measurement.Attention(rate);
    begin("link");
    measurement.Link(hardware);
    hardware.call_seconds = rank.ring.size() > 1 ? measurement.Call() : 0;
    (dtype == DType::kF32 ? hardware.f32 : hardware.bf16) = rate;
    hardware.memory_bytes = MemoryOfRank(rank.world);
    hardware.note = "measured: a rank of " + std::to_string(measured.threads) + " threads, of " +
                    std::to_string(measured.ranks) +
                    (UnderMpi() ? " processes" : " in one process");
    if (first) result = measured;
  });
  return result;
}

}  // namespace ringwise
