#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ringwise/attention_design.h"
#include "ringwise/classifier.h"
#include "ringwise/classify.h"
#include "ringwise/dtype.h"
#include "ringwise/launch.h"
#include "ringwise/layout.h"
#include "ringwise/llama.h"
#include "ringwise/model_config.h"

namespace ringwise {

// A part of a run at one context length. Its length is either `steps`, or `share` of the run's time
// (TrainOptions::max_seconds); the phases of a schedule all use the same one.
struct ContextPhase {
  int64_t context = 0;  // tokens a sequence
  int64_t batch = 0;  // sequences a step and data-parallel rank; 0: about the first phase's tokens
  int64_t steps = 0;
  double share = 0;  // of the time, in (0, 1]

  bool operator==(const ContextPhase&) const = default;
};

// "256x8:2000,2048:300,8192:60": contexts of 256 tokens in batches of 8 for 2000 steps, then 2048
// for 300, ... "256:60%,2048:25%,8192:15%": shares of --max-seconds instead of steps. Throws
// UsageError.
std::vector<ContextPhase> ParseContextSchedule(const std::string& text);
std::string FormatContextSchedule(const std::vector<ContextPhase>& schedule);

// What a run learns: to predict the next byte of text, or the class of documents.
enum class Task { kLanguage, kImdb, kReuters, kSynthetic };

// The names in files and flags: "language", "imdb", "reuters", "synthetic". Parsing throws
// UsageError with the names there are.
std::string_view Name(Task task);
Task ParseTask(std::string_view name);

// What classifiers have beside the other options; every field is a flag too, see docs/classify.md.
// Of those, hidden, layers, heads, ffn, vocab (words), and dropout (attention's) are theirs as
// well; `context` and `features` are the rows and the width of a synthetic sample; the held-out
// fraction of the training documents is for validation.
struct ClassifyOptions {
  Network network = Network::kEncoder;
  NormPlace norm_place = NormPlace::kAfter;
  NormOver norm_over = NormOver::kWidth;
  bool positions = false;       // rotary embedding
  int64_t word_pairs = 0;       // see ClassifierConfig
  double sublayer_dropout = 0;  // of what attention and feed-forward add
  double input_dropout = 0;     // of the embedded words
  double head_dropout = 0;      // of the mean over a document
  TextRule rule;                // which words of a document are read
  bool pad = false;             // every document to the longest, computed all the same
  double epochs = 5;            // where no steps are given
  int64_t samples = 1000;       // synthetic: of an epoch; none comes twice
  int64_t features = 512;       // synthetic
  bool test = false;            // at the end, accuracy on the test documents

  bool operator==(const ClassifyOptions&) const = default;
};

// What a run is; every field is a flag of `ringwise train` by the same name, in docs/training.md.
struct TrainOptions {
  Task task = Task::kLanguage;
  ClassifyOptions classify;       // of the other tasks
  std::vector<std::string> data;  // files and folders
  std::string out;                // the run folder; must not hold a run yet
  std::string resume;             // a run folder to continue instead; `out` is then empty
  std::string init;               // a model folder to start from; its shapes are then used

  MeshOptions mesh;
  Layout layout = Layout::kZigzag;
  DType compute = DType::kF32;
  AttentionDesign attention = AttentionDesign::kRing;
  Recompute recompute = Recompute::kAttention;

  int64_t steps = 0;  // 0: the schedule's sum, or 1000 without one; of classifiers the epochs'
  int64_t context = 1024;
  int64_t batch = 8;
  int64_t accumulate = 1;                      // passes of `batch` sequences summed into one step
  std::vector<ContextPhase> context_schedule;  // empty: `context` throughout

  // Packed documents do not see each other, in training and in the held-out loss.
  bool document_mask = false;

  // Shapes of a new model; 0 in kv_heads, head_dim, ffn, vocab and max_positions: see WithDefaults.
  // rope_theta is the rotary base of the first phase's context, see
  // RopeTheta.
  ModelConfig model = {.hidden = 128, .layers = 4, .heads = 4, .kv_heads = 0, .vocab = 0};

  double learning_rate = 1e-3;
  double learning_rate_floor = 0.1;  // of the peak, at the end of the cosine
  int64_t warmup = 100;              // steps
  double weight_decay = 0.1;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double dropout = 0;  // of attention's probabilities, in training alone: [0, 1)
  double clip = 1.0;   // largest global norm of the gradient; 0: not clipped

  uint64_t seed = 0;
  double heldout_fraction = 0.05;
  int64_t eval_every = 0;           // steps; 0: at the end alone
  int64_t eval_tokens = 64 * 1024;  // held-out tokens of an evaluation at most
  bool order_two = false;  // also reports OrderTwoBitsPerByte on the last evaluation's tokens
  int64_t save_every = 0;  // steps; 0: at the end alone
  int64_t keep = 2;        // checkpoints
  int64_t log_every = 1;   // steps a record of metrics.jsonl
  double max_seconds = 0;  // 0: no limit
};

// The options with what follows from others filled in: kv_heads = heads, head_dim = hidden / heads,
// ffn = 8/3 hidden rounded up to a multiple of 32, vocab = the bytes and the separator, or 10,000
// words, max_positions = the longest context.
TrainOptions WithDefaults(TrainOptions options);

// Of options with their defaults filled in. Throws UsageError naming the flag: out of range, a
// contradiction, something missing.
void Validate(const TrainOptions& options);

// The schedule as it will run: one phase where none is given, every batch filled in, --steps
// applied to the last phase.
std::vector<ContextPhase> EffectiveSchedule(const TrainOptions& options);

// The options as TOML with the flags' names; what `--config` and `--resume` read. `out`, `resume`
// are left out, paths are made absolute.
std::string ToToml(const TrainOptions& options);

// Rotary base for a context, given the base of a reference context: base (context / reference)^(d /
// (d - 2)), d = head_dim, so that the slowest pair turns as far over the context as it did over the
// reference while the fastest keeps its pace. Shorter contexts keep the reference's base.
double RopeTheta(double base, int64_t reference, int64_t context, int64_t head_dim);

// Throws if `folder` cannot be resumed: UsageError if it is one of a run's checkpoints and not the
// run, FileError if it is no folder.
void CheckResume(const std::string& folder);

// Why a run ended.
enum class StopReason { kFinished, kMaxSeconds, kInterrupt, kTerminate, kUser1 };

struct TrainResult {
  StopReason reason = StopReason::kFinished;
  int64_t step = 0;  // steps done, those before a resume included
  std::string checkpoint;
};

// Trains on the mesh and writes the run folder: metrics.jsonl, config.toml, checkpoints/. While it
// runs, SIGINT, SIGTERM and SIGUSR1 make it finish the step, save and return; a second one has the
// system's effect. Progress goes to stderr. Throws UsageError, FileError, PeerError; Error if the
// loss or the gradient is not finite, before any parameter is touched. Under MPI every process
// calls it.
TrainResult Train(const TrainOptions& options);

}  // namespace ringwise
