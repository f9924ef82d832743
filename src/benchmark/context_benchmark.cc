#include "ringwise/context_benchmark.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <map>
#include <new>
#include <utility>

#include "benchmark/case_progress.h"
#include "benchmark/context_step.h"
#include "benchmark/timing.h"
#include "core/out_of_memory.h"
#include "ring/attention_work.h"
#include "ringwise/error.h"
#include "training/mesh_memory.h"
#include "training/metrics.h"
#include "transformer/model_mask.h"

namespace ringwise {
namespace {

constexpr int64_t kBalanceContext = 65536;
constexpr int kMostRanks = 4096;
constexpr int64_t kLongestContext = int64_t{1} << 28;
// Of memory that a step may need to be shown, and to be timed: beyond it the square of the context
// has made the point.
constexpr int64_t kShownBudgets = 64;
constexpr int64_t kTimedBudgets = 16;

struct PaperBytes {
  int64_t bytes = 0;
  std::string formula;
};

// Of a layer, as the papers count, with e bytes an element (they have 2): b = 1 sequence of s
// tokens, c of them a rank, hidden h, n heads.
PaperBytes PaperBytesOf(const ContextOptions& options, const ContextDesign& design, int ranks,
                        int64_t context) {
  const auto element = static_cast<int64_t>(SizeOf(options.dtype));
  const int64_t row = element * options.model.hidden;
  switch (design.attention) {
    case AttentionDesign::kVanilla:
      return {element * options.model.heads * context * context, "e n s^2"};
    case AttentionDesign::kMemoryEfficient:
      return {4 * row * context, "4 e s h"};
    case AttentionDesign::kBlockwise:
      return {row * context, "e s h"};
    case AttentionDesign::kRing:
      return {3 * row * ((context + ranks - 1) / ranks), "3 e c h"};
  }
  return {};
}

// Of a step with the attention that the mask leaves, as the MFU counts, and once more the forward.
double CostOf(const ContextOptions& options, const ContextDesign& design, int64_t context) {
  const double keys = MeanKeys(options.model, context) *
                      (design.sparse ? 1 / static_cast<double>(options.model.heads) : 1);
  // An exponential takes as long as this many operations of the products of a head.
  constexpr double kOfExponential = 4;
  return TrainFlopsPerToken(options.model, kOfExponential * keys) * static_cast<double>(context);
}

ContextMemory MemoryOf(const ContextOptions& options, const ContextDesign& design, int ranks,
                       int64_t context) {
  ContextOptions deeper = options;
  deeper.model.layers *= 2;
  ContextMemory memory;
  memory.ranks = ranks;
  memory.context = context;
  memory.working = RehearseContext(options, design, ranks, context);
  memory.kept =
      (RehearseContext(deeper, design, ranks, context) - memory.working) / options.model.layers;
  memory.at_work = memory.working - options.model.layers * memory.kept;
  const PaperBytes paper = PaperBytesOf(options, design, ranks, context);
  memory.paper = paper.bytes;
  memory.paper_formula = paper.formula;
  return memory;
}

// The largest context whose step holds no more than the budget, to a token a rank: doubled, then
// sought around where the budget lies on a straight line, then bisected.
ContextLargest LargestOf(const ContextOptions& options, const ContextDesign& design, int ranks) {
  const auto held = [&](int64_t context) {
    return RehearseContext(options, design, ranks, context);
  };
  ContextLargest largest;
  largest.ranks = ranks;
  largest.context = ranks;
  largest.predicted = held(ranks);
  if (largest.predicted > options.budget) {
    throw UsageError(fmt::format(
        "{} on {} ranks needs {:.2f} MiB a rank for a token each, which is more than the budget of "
        "{:.2f} MiB: raise --budget",
        design.name, ranks, static_cast<double>(largest.predicted) / (1 << 20),
        static_cast<double>(options.budget) / (1 << 20)));
  }
  int64_t beyond = 0;  // a context that does not fit, and what it holds
  int64_t beyond_bytes = 0;
  const auto fits = [&](int64_t context) {
    const int64_t bytes = held(context);
    const bool fit = bytes <= options.budget;
    (fit ? largest.context : beyond) = context;
    (fit ? largest.predicted : beyond_bytes) = bytes;
    return fit;
  };
  while (fits(2 * largest.context)) {
  }
  const double share = static_cast<double>(options.budget - largest.predicted) /
                       static_cast<double>(beyond_bytes - largest.predicted);
  const auto between = [&](int64_t context) {
    return std::clamp(context, largest.context + 1, beyond - 1);
  };
  const auto line =
      largest.context + static_cast<int64_t>(share * static_cast<double>(beyond - largest.context));
  const auto open = [&] { return beyond - largest.context > ranks; };
  if (open()) {
    const bool below = fits(between(line));
    for (int64_t step = ranks; open(); step *= 4) {
      const int64_t next = below ? largest.context + step : beyond - step;
      if (fits(between(next)) != below) break;
    }
  }
  while (open()) fits(largest.context + (beyond - largest.context) / 2);
  return largest;
}

// Whether so many bytes would do; not if there is no room even for a dry run.
bool HoldsWithin(const ContextOptions& options, const ContextDesign& design, int ranks,
                 int64_t context, int64_t bytes) {
  try {
    return RehearseContext(options, design, ranks, context) <= bytes;
  } catch (const std::bad_alloc&) {
    return false;
  }
}

double Tolerance(DType dtype) { return dtype == DType::kF32 ? 1e-5 : 1e-2; }

ContextTime TimeOf(const ContextOptions& options, const ContextDesign& design, int ranks,
                   int64_t context, CaseProgress& progress) {
  ContextTime result;
  Launch(ContextMesh(ranks), [&](Rank& rank) {
    const bool leads = rank.world.rank() == 0;
    ContextStep step(rank, rank.context, options, design, context);
    const double loss = step.ForwardBackward();  // the warm-up
    step.Update();
    CallTimes times;
    for (bool more = true; more;) {
      times.Time([&] {
        step.ForwardBackward();
        step.Update();
      });
      std::array<std::byte, 1> go_on = {std::byte{!times.Enough(options.min_seconds)}};
      rank.world.Broadcast(go_on, 0);
      more = go_on[0] != std::byte{0};
      if (leads) progress.Update(times.Share(options.min_seconds));
    }
    if (!leads) return;
    result.ring = ranks;
    result.threads = rank.context.team.size();
    result.context = context;
    result.loss = loss;
    times.Summarize(result);
  });
  return result;
}

ContextBalance BalanceOf(const ContextOptions& options, const ContextDesign& design, int ranks) {
  Mask mask = ModelMask(options.model);
  mask.slices = SlicesOf(design, options.model.heads, kBalanceContext);
  std::vector<double> pairs;
  for (int rank = 0; rank < ranks; ++rank) {
    const Positions mine = ShardPositions(design.layout, kBalanceContext, ranks, rank);
    pairs.push_back(static_cast<double>(
        VisiblePairs(mask, 1, options.model.heads, mine, {{0, kBalanceContext, 1}})));
  }
  return {ranks, kBalanceContext, LargestOverMean(pairs)};
}

void Check(const ContextOptions& options) {
  if (UnderMpi()) {
    throw UsageError("bench context starts its ranks as threads: run it without mpirun");
  }
  Validate(options.model);
  const auto require = [](const char* what, int64_t value, int64_t most) {
    if (value >= 1 && value <= most) return;
    throw UsageError(fmt::format("{} must be from 1 to {}, found {}", what, most, value));
  };
  int64_t largest_ring = 1;
  for (const int ranks : options.ranks) {
    require("ranks", ranks, kMostRanks);
    largest_ring = std::max<int64_t>(largest_ring, ranks);
  }
  const auto check_contexts = [&](ContextTable table, const std::vector<int64_t>& contexts) {
    for (const int64_t context : contexts) {
      require("a context", context, kLongestContext);
      if (context >= largest_ring || std::ranges::count(options.tables, table) == 0) continue;
      throw UsageError(fmt::format("a context of {} leaves some of {} ranks without a token",
                                   context, largest_ring));
    }
  };
  check_contexts(ContextTable::kMemory, options.memory_contexts);
  check_contexts(ContextTable::kTime, options.time_contexts);
}

[[noreturn]] void ThrowNothingFits(const char* what, int64_t budgets) {
  throw UsageError(fmt::format(
      "every design needs more than {} budgets at the contexts whose {} is asked for: raise "
      "--budget, or give shorter ones",
      budgets, what));
}

// The most ranks that have a core each, or the fewest of several: what designs are timed on.
int TimedRanks(const ContextOptions& options, const ContextDesign& design) {
  if (design.attention != AttentionDesign::kRing) return 1;
  int chosen = 0;
  for (const int ranks : options.ranks) {
    if (ranks < 2) continue;
    const bool has_cores = ranks <= AvailableCores();
    if (chosen == 0 || (has_cores ? ranks > chosen : ranks < chosen)) chosen = ranks;
  }
  return std::max(1, chosen);
}

// One run of all tables.
class Comparison {
 public:
  Comparison(const ContextOptions& options, const OnContextResult& on_result)
      : options_(options), on_result_(on_result) {}

  void Run() {
    if (Makes(ContextTable::kLargest)) Search();
    if (Makes(ContextTable::kBalance)) Balance();
    if (Makes(ContextTable::kMemory)) Memory();
    if (Makes(ContextTable::kTime)) ChooseTimed();
    CaseProgress progress(options_.progress, Costs());
    Time(progress);
    Train(progress);
  }

 private:
  struct Found {
    const ContextDesign* design;
    ContextLargest largest;
  };
  struct Timed {
    const ContextDesign* design;
    int ranks;
    int64_t context;
  };

  bool Makes(ContextTable table) const {
    return std::ranges::find(options_.tables, table) != options_.tables.end();
  }

  // Calls visit(design, ranks) for all that can be.
  template <class Visit>
  void ForEachRing(const Visit& visit) const {
    for (const ContextDesign& design : options_.designs) {
      for (const int ranks : options_.ranks) {
        if (design.runs_on(ranks)) visit(design, ranks);
      }
    }
  }

  void Balance() {
    ForEachRing([&](const ContextDesign& design, int ranks) {
      if (ranks > 1) on_result_.balance(design, BalanceOf(options_, design, ranks));
    });
  }

  void Memory() {
    bool any = false;
    ForEachRing([&](const ContextDesign& design, int ranks) {
      for (const int64_t context : options_.memory_contexts) {
        if (!HoldsWithin(options_, design, ranks, context, kShownBudgets * options_.budget)) break;
        on_result_.memory(design, MemoryOf(options_, design, ranks, context));
        any = true;
      }
    });
    if (!any) ThrowNothingFits("memory", kShownBudgets);
  }

  void Search() {
    std::vector<double> costs;
    ForEachRing([&](const ContextDesign&, int ranks) { costs.push_back(ranks); });
    CaseProgress progress(options_.progress, costs);
    ForEachRing([&](const ContextDesign& design, int ranks) {
      progress.Begin(fmt::format("largest context of {} on {} ranks", design.name, ranks));
      found_.push_back({&design, LargestOf(options_, design, ranks)});
    });
  }

  void ChooseTimed() {
    for (const ContextDesign& design : options_.designs) {
      const int ranks = TimedRanks(options_, design);
      for (const int64_t context : options_.time_contexts) {
        if (!HoldsWithin(options_, design, ranks, context, kTimedBudgets * options_.budget)) break;
        timed_.push_back({&design, ranks, context});
      }
    }
    if (timed_.empty()) ThrowNothingFits("time", kTimedBudgets);
  }

  std::vector<double> Costs() const {
    std::vector<double> costs;
    for (const Timed& timed : timed_) {
      costs.push_back(4 * CostOf(options_, *timed.design, timed.context));
    }
    for (const Found& found : found_) {
      if (!options_.trains) break;
      costs.push_back(CostOf(options_, *found.design, found.largest.context));
    }
    return costs;
  }

  void Time(CaseProgress& progress) {
    std::map<int64_t, std::pair<std::string, double>> losses;  // of each context, the first one
    for (const Timed& timed : timed_) {
      progress.Begin(fmt::format("time of {} at context {}", timed.design->name, timed.context));
      const ContextTime result =
          TimeOf(options_, *timed.design, timed.ranks, timed.context, progress);
      if (!timed.design->sparse) {
        const auto& [name, loss] =
            losses.try_emplace(timed.context, timed.design->name, result.loss).first->second;
        if (!(std::abs(result.loss / loss - 1) <= Tolerance(options_.dtype))) {
          throw Error(
              fmt::format("designs disagree at context {}: the loss is {} by {} and {} by {}",
                          timed.context, loss, name, result.loss, timed.design->name));
        }
      }
      on_result_.time(*timed.design, result);
    }
  }

  void Train(CaseProgress& progress) {
    for (const Found& found : found_) {
      const ContextLargest& largest = found.largest;
      if (!options_.trains) {
        on_result_.largest(*found.design, largest);
        continue;
      }
      progress.Begin(fmt::format("a step of {} on {} ranks at context {}", found.design->name,
                                 largest.ranks, largest.context));
      ContextLargest trained =
          TrainContext(options_, *found.design, largest.ranks, largest.context);
      trained.predicted = largest.predicted;
      if (trained.measured != trained.predicted) {
        throw Error(
            fmt::format("{} on {} ranks at context {}: a dry run holds {} bytes and a real "
                        "step {}",
                        found.design->name, trained.ranks, trained.context, trained.predicted,
                        trained.measured));
      }
      on_result_.largest(*found.design, trained);
    }
  }

  const ContextOptions& options_;
  const OnContextResult& on_result_;
  std::vector<Found> found_;
  std::vector<Timed> timed_;
};

}  // namespace

std::string_view Name(ContextTable table) {
  switch (table) {
    case ContextTable::kBalance:
      return "balance";
    case ContextTable::kMemory:
      return "memory";
    case ContextTable::kTime:
      return "time";
    case ContextTable::kLargest:
      return "largest";
  }
  return "";
}

std::vector<ContextDesign> ContextDesigns() {
  return {{"vanilla", AttentionDesign::kVanilla},
          {"memory_efficient", AttentionDesign::kMemoryEfficient},
          {"blockwise", AttentionDesign::kBlockwise},
          {"ring", AttentionDesign::kRing, Layout::kContiguous},
          {"striped", AttentionDesign::kRing, Layout::kStriped},
          {"zigzag", AttentionDesign::kRing, Layout::kZigzag},
          {"sparse", AttentionDesign::kRing, Layout::kZigzag, true}};
}

int64_t RehearseContext(const ContextOptions& options, const ContextDesign& design, int ranks,
                        int64_t context) {
  int64_t working = 0;
  Launch(ContextMesh(ranks), [&](Rank& rank) {
    ThreadTeam team = ThreadTeam::Rehearsal(rank.context.team.size());
    Context rehearsal{team, rank.context.meter};
    ContextStep step(rank, rehearsal, options, design, context);
    rank.context.meter.ResetPeak();
    step.ForwardBackward();
    const int64_t most = LargestWorking(rank);
    if (rank.world.rank() == 0) working = most;
  });
  return working;
}

ContextLargest TrainContext(const ContextOptions& options, const ContextDesign& design, int ranks,
                            int64_t context) {
  ContextLargest result;
  result.ranks = ranks;
  result.context = context;
  Launch(ContextMesh(ranks), [&](Rank& rank) {
    ExplainOutOfMemory("lower --budget", [&] {
      ContextStep step(rank, rank.context, options, design, context);
      rank.context.meter.ResetPeak();
      const auto begin = std::chrono::steady_clock::now();
      const double loss = step.ForwardBackward();
      step.Update();
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
      const int64_t most = LargestWorking(rank);
      if (!std::isfinite(loss)) throw Error("the loss of a step is not finite");
      if (rank.world.rank() != 0) return;
      result.measured = most;
      result.loss = loss;
      result.seconds = elapsed.count();
    });
  });
  return result;
}

void BenchmarkContext(const ContextOptions& options, const OnContextResult& on_result) {
  Check(options);
  Comparison(options, on_result).Run();
}

}  // namespace ringwise
