#include "training/run_folder.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "core/temporary_folder.h"
#include "formats/file_io.h"
#include "ringwise/error.h"
#include "ringwise/trainer.h"
#include "training/checkpoint_folder.h"
#include "training/run_lock.h"
#include "training/train_state.h"

namespace ringwise {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::ThrowsMessage;

class RunFolder : public testing::Test {
 protected:
  RunFolder() {
    run_ = folder_ + "/run";
    run_folder::Create(run_);
  }

  // A checkpoint of two files that hold its step.
  static void Fill(const std::string& folder, int64_t step) {
    WriteTextFile(folder + "/a", std::to_string(step));
    WriteTextFile(folder + "/b", std::to_string(step));
  }
  void Publish(int64_t step, int64_t keep, const SaveHook& hook = {}) {
    PublishCheckpoint(
        run_, step, keep, [&](const std::string& folder) { Fill(folder, step); }, hook);
  }
  // The step of the newest checkpoint, whose files must be whole.
  int64_t Newest() {
    const std::string folder = run_folder::NewestCheckpoint(run_);
    EXPECT_EQ(ReadTextFile(folder + "/a"), ReadTextFile(folder + "/b"));
    return std::stoll(ReadTextFile(folder + "/a"));
  }
  std::set<std::string> Names() {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(run_folder::Checkpoints(run_))) {
      names.insert(entry.path().filename().string());
    }
    return names;
  }

  TemporaryFolder temporary_;
  const std::string& folder_ = temporary_.path();
  std::string run_;
};

TEST_F(RunFolder, KeepsTheNewestAndALinkToTheLast) {
  for (const int64_t step : {2, 9, 10, 100}) Publish(step, 2);
  EXPECT_EQ(Names(), (std::set<std::string>{"step-10", "step-100", "latest"}));
  EXPECT_EQ(fs::read_symlink(run_folder::Latest(run_)), "step-100");  // relative
  EXPECT_EQ(Newest(), 100);
  // Resumed from an older one: what it makes anew replaces what was there.
  Publish(10, 2);
  EXPECT_EQ(Newest(), 10);
}

TEST_F(RunFolder, ACrashAtAnyMomentLeavesAWholeCheckpoint) {
  const std::vector<std::string> stages = {"made",    "filled", "flushed", "cleared",
                                           "renamed", "linked", "pruned"};
  int64_t step = 1;
  Publish(step, 1);
  for (const std::string& stage : stages) {
    const int64_t before = Newest();
    step += 10;
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      Publish(step, 1, [&](std::string_view done) {
        if (done == stage) _exit(9);  // as if killed
      });
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_EQ(WEXITSTATUS(status), 9) << stage;  // the stage exists
    const int64_t after = Newest();
    EXPECT_TRUE(after == before || after == step) << stage;
    EXPECT_EQ(after == step, stage == "linked" || stage == "pruned") << stage;
  }
  step += 10;
  Publish(step, 1);  // leftovers are swept
  EXPECT_EQ(Names(), (std::set<std::string>{fmt::format("step-{}", step), "latest"}));
}

TEST_F(RunFolder, ACrashInTheFirstSaveLeavesNoneOrAWholeOne) {
  for (const std::string stage : {"filled", "renamed"}) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      Publish(5, 1, [&](std::string_view done) {
        if (done == stage) _exit(9);
      });
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_EQ(WEXITSTATUS(status), 9);
    if (stage == "filled") {
      EXPECT_THAT([&] { run_folder::NewestCheckpoint(run_); },
                  ThrowsMessage<FileError>(HasSubstr("holds no checkpoint yet")));
    } else {
      EXPECT_EQ(Newest(), 5);
    }
  }
}

TEST_F(RunFolder, AFailedSaveKeepsThePreviousAndRemovesItsFiles) {
  Publish(1, 1);
  EXPECT_THAT(
      [&] {
        PublishCheckpoint(run_, 2, 1, [](const std::string& folder) {
          Fill(folder, 2);
          throw FileError("No space left on device");
        });
      },
      ThrowsMessage<FileError>(AllOf(HasSubstr("step 2"), HasSubstr("No space left"))));
  EXPECT_EQ(Names(), (std::set<std::string>{"step-1", "latest"}));
  EXPECT_EQ(Newest(), 1);
}

TEST_F(RunFolder, RefusesAFolderThatIsNotEmpty) {
  WriteTextFile(run_folder::Config(run_), "steps = 1\n");
  Publish(1, 1);
  EXPECT_THAT([&] { run_folder::Create(run_); }, ThrowsMessage<UsageError>(HasSubstr("--resume")));
  EXPECT_THROW(run_folder::Create(folder_), UsageError);                   // someone's files
  EXPECT_THROW(run_folder::Create(run_folder::Config(run_)), UsageError);  // a file
}

TEST_F(RunFolder, ARunThatSavedNothingIsStartedAgain) {
  WriteTextFile(run_folder::Config(run_), "steps = 1\n");
  WriteTextFile(run_folder::Metrics(run_), "{\"step\":1}\n");
  fs::create_directories(run_folder::Checkpoints(run_) + "/.step-5.new");  // killed in its save
  run_folder::Create(run_);
  run_folder::ClearUnsaved(run_);
  EXPECT_FALSE(fs::exists(run_folder::Config(run_)));
  EXPECT_FALSE(fs::exists(run_folder::Metrics(run_)));
  WriteTextFile(run_ + "/precious", "x");
  EXPECT_THROW(run_folder::Create(run_), UsageError);
  fs::remove(run_ + "/precious");
  Publish(1, 1);
  EXPECT_THROW(run_folder::ClearUnsaved(run_), UsageError);
  // A folder with someone's own config.toml is no run.
  const std::string own = folder_ + "/own";
  fs::create_directory(own);
  WriteTextFile(run_folder::Config(own), "steps = 1\n");
  EXPECT_THROW(run_folder::Create(own), UsageError);
}

TEST_F(RunFolder, IsLockedByOneProcess) {
  {
    const RunLock lock(run_);
    EXPECT_THAT([&] { RunLock second(run_); },
                ThrowsMessage<UsageError>(HasSubstr("is being trained by another process")));
  }
  const RunLock again(run_);
}

TEST_F(RunFolder, NamesWhatIsNewerThanLatest) {
  for (const int64_t step : {2, 9, 10}) Publish(step, 5);
  EXPECT_EQ(run_folder::NewerCheckpoints(run_, 2), (std::vector<int64_t>{9, 10}));
  EXPECT_TRUE(run_folder::NewerCheckpoints(run_, 10).empty());
}

TEST_F(RunFolder, ARunAndACheckpointAreToldApart) {
  CheckResume(run_);
  WriteTextFile(run_folder::Config(run_), "steps = 1\n");
  EXPECT_THAT([&] { run_folder::RefuseRun(run_); },
              ThrowsMessage<UsageError>(HasSubstr(run_folder::Latest(run_))));
  Publish(3, 1);
  run_folder::RefuseRun(run_folder::Latest(run_));
  WriteTrainState(run_folder::Checkpoint(run_, 3), TrainState{}, "abc");
  for (const std::string& folder : {run_folder::Latest(run_), run_folder::Checkpoint(run_, 3)}) {
    EXPECT_THAT([&] { CheckResume(folder); }, ThrowsMessage<UsageError>(HasSubstr(run_)));
  }
  EXPECT_THROW(CheckResume(folder_ + "/none"), FileError);
}

TEST_F(RunFolder, NamesWhatIsMissing) {
  EXPECT_THAT([&] { run_folder::NewestCheckpoint(folder_ + "/none"); },
              ThrowsMessage<FileError>(HasSubstr("no such run folder")));
}

TEST_F(RunFolder, CutsMetricsAfterTheStep) {
  const std::string path = run_folder::Metrics(run_);
  CutMetrics(path, 3);  // nothing there: nothing made
  EXPECT_FALSE(fs::exists(path));
  WriteTextFile(path,
                "{\"step\":1,\"loss\":0.1}\n{\"step\":2,\"loss\":0.2,\"final\":true}\n"
                "{\"step\":3,\"loss\":0.3}\n{\"step\":4,\"lo");
  CutMetrics(path, 5);  // the torn record goes, and what was final is no longer
  EXPECT_EQ(ReadTextFile(path),
            "{\"step\":1,\"loss\":0.1}\n{\"step\":2,\"loss\":0.2}\n{\"step\":3,\"loss\":0.3}\n");
  CutMetrics(path, 2);
  EXPECT_EQ(ReadTextFile(path), "{\"step\":1,\"loss\":0.1}\n{\"step\":2,\"loss\":0.2}\n");
}

TEST_F(RunFolder, TheStateComesBackExactly) {
  const TrainState state = {.step = 12,
                            .tokens = 1LL << 50,
                            .phase = 2,
                            .phase_step = 3,
                            .phase_sequences = 77,
                            .seconds = 0.1 + 0.2,
                            .rope_base = 12345.678,
                            .rope_reference = 256,
                            .seed = UINT64_MAX,
                            .train_tokens = 99,
                            .data_fingerprint = UINT64_MAX - 1};
  WriteTrainState(run_, state, "abc");
  EXPECT_EQ(ReadTrainState(run_), state);
  EXPECT_EQ(ReadChecksum(run_), "abc");
}

TEST_F(RunFolder, RefusesAForeignOrCorruptState) {
  const auto error = [&] {
    try {
      ReadTrainState(run_);
    } catch (const FileError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_THAT(error(), HasSubstr("--init"));
  for (const std::string text : {"", "{", "[]", "{\"format\":2}", "{\"format\":\"1\"}",
                                 "{\"format\":1,\"step\":\"x\"}", "{\"format\":1}"}) {
    WriteTextFile(run_ + "/state.json", text);
    EXPECT_THAT(error(), HasSubstr("state.json")) << text;
    EXPECT_THAT(error(), Not(HasSubstr("\n"))) << text;
  }
}

}  // namespace
}  // namespace ringwise
