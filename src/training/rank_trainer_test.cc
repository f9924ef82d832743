#include "training/rank_trainer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <limits>
#include <utility>

#include "core/temporary_folder.h"
#include "formats/file_io.h"
#include "ringwise/error.h"
#include "training/run_folder.h"

namespace ringwise {
namespace {

constexpr int64_t kWidth = 5;

// What a task's ranks share here: where tests look, and what they change.
struct Observed {
  uint64_t fingerprint = 7;
  double evaluation = 0.5;
  std::vector<std::string> calls;  // of rank 0
  std::vector<double> weights;     // of rank 0, last seen
};

// Fits a vector to a target: loss |weights - target|^2 / 2, each rank adding its share of the
// gradient. Nothing of it is language: no tokens predicted, no context.
class VectorTask final : public TrainTask {
 public:
  VectorTask(Rank& rank, Observed& observed) : rank_(rank), observed_(observed) {}

  std::vector<ContextPhase> Schedule() const override {
    return {{.context = 1, .batch = 1, .steps = 3}, {.context = 2, .batch = 1, .steps = 3}};
  }
  double StepCost(const ContextPhase& /*phase*/) const override { return 1; }

  void Begin(TrainState& state) override {
    Call("begin");
    state.data_fingerprint = observed_.fingerprint;
    Make();
    std::fill_n(parameters_[0].value.data<float>(), kWidth, 0.25F);
  }
  void Resume(const TrainState& state, const std::string& /*checkpoint*/) override {
    Call("resume");
    if (state.data_fingerprint != observed_.fingerprint) throw UsageError("the data changed");
    Make();
  }
  std::vector<std::string> Describe() override { return {}; }

  std::vector<Parameter>& parameters() override { return parameters_; }
  void ParametersChanged() override {
    if (rank_.world.rank() != 0) return;
    const float* weights = parameters_[0].value.data<float>();
    observed_.weights.assign(weights, weights + kWidth);
  }
  void ZeroGradients() override { parameters_[0].gradient.Zero(); }

  void BeginPhase(const ContextPhase& phase, const TrainState& state) override {
    Call("phase " + std::to_string(phase.context) + " after " + std::to_string(state.step));
  }
  TaskSums ForwardBackward(TrainState& state) override {
    const float* weights = parameters_[0].value.data<float>();
    float* gradient = parameters_[0].gradient.data<float>();
    const auto ranks = static_cast<float>(rank_.world.size());
    TaskSums sums = {.targets = 1, .tokens = 10, .bytes = 0, .correct = 1, .pairs = 1};
    for (int64_t i = 0; i < kWidth; ++i) {
      const float off = weights[i] - static_cast<float>(i);
      gradient[i] += off / ranks;
      sums.nats += 0.5 * off * off;
    }
    state.phase_sequences += rank_.world.size();
    return sums;
  }
  double StepFlops(const TaskSums& sums) const override { return 1e3 * sums.pairs; }
  Figures Report(const TaskSums& sums, double /*seconds*/) const override {
    const auto targets = static_cast<double>(sums.targets);
    return {.values = {{"accuracy", static_cast<double>(sums.correct) / targets},
                       {"documents", sums.targets}},
            .text = ""};
  }

  Figures Evaluate(const TrainState& state, Progress& /*progress*/) override {
    Call("evaluate after " + std::to_string(state.step));
    return {.values = {{"validation_loss", observed_.evaluation}}, .text = ""};
  }
  Figures Conclude(const TrainState& state, Progress& /*progress*/) override {
    Call("conclude after " + std::to_string(state.step));
    return {.values = {{"test_accuracy", 0.75}}, .text = ""};
  }

  void SaveModel(const std::string& folder) override {
    std::filesystem::create_directories(folder);
    const auto* bytes = reinterpret_cast<const char*>(parameters_[0].value.data<float>());
    WriteTextFile(folder + "/vector", {bytes, kWidth * sizeof(float)});
  }
  void LoadWeights(const std::string& folder) override {
    const std::string text = ReadTextFile(folder + "/vector");
    std::copy_n(text.data(), text.size(),
                reinterpret_cast<char*>(parameters_[0].value.data<float>()));
  }

 private:
  void Make() {
    MemoryMeter& meter = rank_.context.meter;
    const Shape shape{kWidth};
    parameters_.push_back(
        {.name = "vector",
         .value = Tensor(meter, MemoryCategory::kParameters, DType::kF32, shape),
         .gradient = Tensor(meter, MemoryCategory::kGradients, DType::kF32, shape)});
  }
  void Call(const std::string& what) {
    if (rank_.world.rank() == 0) observed_.calls.push_back(what);
  }

  Rank& rank_;
  Observed& observed_;
  std::vector<Parameter> parameters_;
};

class RankTrainerTest : public testing::Test {
 protected:
  // Trains on a ring of two in two groups.
  void Train(const std::function<void(TrainOptions& options)>& change) {
    TrainOptions options;
    options.mesh = {.ring = 2, .data_parallel = 2, .threads = 1};
    options.learning_rate = 0.1;
    options.warmup = 0;
    options.weight_decay = 0;
    change(options);
    observed_.calls.clear();
    Launch(options.mesh, [&](Rank& rank) {
      RankTrainer(rank, options, std::make_unique<VectorTask>(rank, observed_)).Run();
    });
  }
  std::string Folder(const char* name) const { return folder_.path() + "/" + name; }
  static std::vector<std::string> Records(const std::string& run) {
    std::vector<std::string> lines;
    std::string text = ReadTextFile(run_folder::Metrics(run));
    for (size_t end = 0; (end = text.find('\n')) != std::string::npos; text.erase(0, end + 1)) {
      lines.push_back(text.substr(0, end));
    }
    return lines;
  }
  static bool Has(const std::string& record, const std::string& part) {
    return record.find(part) != std::string::npos;
  }

  TemporaryFolder folder_;
  Observed observed_;
};

TEST_F(RankTrainerTest, AsksTheTaskInOrderAndRecordsWhatItSays) {
  const std::string run = Folder("run");
  Train([&](TrainOptions& options) {
    options.out = run;
    options.eval_every = 4;
  });
  EXPECT_EQ(observed_.calls,
            (std::vector<std::string>{"begin", "phase 1 after 0", "phase 2 after 3",
                                      "evaluate after 4", "evaluate after 6", "conclude after 6"}));
  const std::vector<std::string> records = Records(run);
  ASSERT_EQ(records.size(), 6U);
  for (size_t i = 0; i < records.size(); ++i) {
    EXPECT_TRUE(Has(records[i], R"("accuracy":1.0,"documents":4,"tokens":40,)")) << records[i];
    EXPECT_EQ(Has(records[i], R"("validation_loss":0.5)"), i == 3 || i == 5) << records[i];
    EXPECT_EQ(Has(records[i], R"("test_accuracy":0.75)"), i == 5) << records[i];
    EXPECT_FALSE(Has(records[i], "bits_per_byte") || Has(records[i], "rope")) << records[i];
  }
  // (0.0625 + 0.5625 + 3.0625 + 7.5625 + 14.0625) / 2, each rank's the same, over their targets.
  EXPECT_TRUE(Has(records[0], R"("loss":12.65625,)")) << records[0];
  // The gradient of the mean loss, whatever the number of ranks: the root of twice that.
  EXPECT_TRUE(Has(records[0], R"("gradient_norm":5.0311)")) << records[0];
}

TEST_F(RankTrainerTest, ContinuesToTheSameBits) {
  Train([&](TrainOptions& options) { options.out = Folder("whole"); });
  const std::vector<double> whole = observed_.weights;
  const std::string run = Folder("parts");
  Train([&](TrainOptions& options) {
    options.out = run;
    options.save_every = 2;
    options.keep = 3;
  });
  ReplaceLink("step-2", run_folder::Latest(run));
  Train([&](TrainOptions& options) { options.resume = run; });
  EXPECT_EQ(observed_.calls,
            (std::vector<std::string>{"resume", "phase 1 after 2", "phase 2 after 3",
                                      "evaluate after 6", "conclude after 6"}));
  EXPECT_EQ(observed_.weights, whole);
  EXPECT_EQ(Records(run).size(), 6U);
}

TEST_F(RankTrainerTest, RefusesWhatTheTaskRefuses) {
  const std::string run = Folder("run");
  Train([&](TrainOptions& options) { options.out = run; });
  const auto resume = [&] { Train([&](TrainOptions& options) { options.resume = run; }); };
  observed_.fingerprint = 8;
  EXPECT_THROW(resume(), UsageError);
  observed_.fingerprint = 7;
  EXPECT_NO_THROW(resume());
}

TEST_F(RankTrainerTest, SavesNothingThatEvaluatesToNaN) {
  const std::string run = Folder("run");
  observed_.evaluation = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW(Train([&](TrainOptions& options) { options.out = run; }), Error);
  EXPECT_THROW(run_folder::NewestCheckpoint(run), FileError);
}

}  // namespace
}  // namespace ringwise
