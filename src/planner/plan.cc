#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "planner/attention_time.h"
#include "planner/memory_model.h"
#include "planner/model_shape.h"
#include "planner/step_time.h"
#include "ringwise/error.h"
#include "ringwise/planner.h"
#include "transformer/sequence_shard.h"

namespace ringwise {
namespace {

// No plan is for longer ones: every product of sizes stays exact enough.
constexpr int64_t kLongestContext = int64_t{1} << 44;

void RequireShare(const char* what, double share) {
  constexpr double kLeast = 1e-4;
  if (share >= kLeast && share <= 1) return;
  throw UsageError(fmt::format("{} must be from {:g} to 1, got {:g}", what, kLeast, share));
}

void RequireCount(const char* what, int64_t count, int64_t most) {
  if (count >= 1 && count <= most) return;
  throw UsageError(std::string(what) + " must be from 1 to " + std::to_string(most) + ", got " +
                   std::to_string(count));
}

PlanOptions Checked(PlanOptions options) {
  Validate(options.model);
  Validate(options.hardware);
  constexpr int64_t kMost = int64_t{1} << 24;
  RequireCount("devices", options.devices, kMost);
  RequireCount("batch", options.batch, kMost);
  RequireShare("efficiency", options.efficiency);
  RequireShare("slowest", options.slowest);
  if (options.ring == 0) options.ring = options.devices;
  if (options.ring < 1 || options.devices % options.ring != 0) {
    throw UsageError("devices must be a multiple of ring, got " + std::to_string(options.devices) +
                     " and " + std::to_string(options.ring));
  }
  if (options.ring > kMostPlannedRing) {
    throw UsageError("a ring of at most " + std::to_string(kMostPlannedRing) +
                     " devices can be planned, got " + std::to_string(options.ring) +
                     ": the others may see other sequences, see ring");
  }
  if (options.hardware.rate(options.dtype).products == 0) {
    throw UsageError("hardware '" + options.hardware.name + "' has no rates for " +
                     std::string(Name(options.dtype)) + ": choose the other type");
  }
  if (options.context != 0) {
    RequireCount("context", options.context, kLongestContext);
    if (options.context < options.ring) {
      throw UsageError("a context of " + std::to_string(options.context) +
                       " tokens leaves some of " + std::to_string(options.ring) +
                       " devices without any");
    }
  }
  return options;
}

// Tokens a device of a context: the longest shard.
int64_t ShardRows(const PlanOptions& options, int64_t context) {
  return (context + options.ring - 1) / options.ring;
}

// Memory by one way to count, a function of the tokens a device.
template <class Memory>
int64_t LargestContext(const PlanOptions& options, double usable, const Memory& memory) {
  const auto fits = [&](int64_t rows) {
    return memory(static_cast<double>(rows * options.batch)).total() <= usable;
  };
  // More head groups hold less, so memory grows only between these.
  int64_t low = 0;
  int64_t high = kLongestContext / options.ring / options.batch + 1;
  for (const int64_t from : {kRowsForFourGroups, kRowsForTwoGroups, int64_t{1}}) {
    if (from < high && fits(from)) {
      low = from;
      break;
    }
    high = std::min(high, from);
  }
  if (low == 0) return 0;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return low * options.ring;
}

std::string Gigabytes(double bytes) {
  const auto tenths = static_cast<int64_t>(std::llround(bytes / 1e8));
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " GB";
}

[[noreturn]] void ThrowParametersDoNotFit(const PlanOptions& options, double usable, bool sharded) {
  const PlannedMemory least = OwnMemory(options, sharded, 1);
  throw UsageError("the parameters, their gradients and the optimizer take " +
                   Gigabytes(least.parameters + least.gradients + least.optimizer) + " a device" +
                   (sharded ? " even sharded" : "") + ", more than the " + Gigabytes(usable) +
                   " usable on one of " + options.hardware.name + ": " +
                   (sharded ? "use more devices" : "shard them, or use devices with more memory"));
}

bool ChooseSharded(const PlanOptions& options, const Plan& plan) {
  switch (options.parameters) {
    case Parameters::kReplicated:
      return false;
    case Parameters::kSharded:
      return true;
    case Parameters::kAuto:
      break;
  }
  const int64_t whole = plan.replicated.largest_context;
  const int64_t in_parts = plan.sharded_count.largest_context;
  if (options.context == 0) return whole == 0 || in_parts > whole;
  return whole < options.context && in_parts >= whole;
}

BlockLaw LawOf(const PlanOptions& options) {
  PlanOptions at_full_rate = options;
  at_full_rate.efficiency = 1;
  BlockLaw law;
  constexpr double kPaperBytes = 2;  // a number
  law.paper_block = static_cast<double>(SizeOf(options.dtype)) / kPaperBytes *
                    options.hardware.rate(options.dtype).attention_forward /
                    options.hardware.link_bytes_per_second;
  law.paper_sequence = 6 * law.paper_block;
  if (options.ring > 1) {
    law.block = BlockSize(at_full_rate, Pass::kForward);
    law.backward_block = BlockSize(at_full_rate, Pass::kBackward);
  }
  law.blocks_held = BlocksHeld(options);
  return law;
}

// The largest of what a device waits for beside compute, if it is worth naming.
Limit LimitOf(const Plan& plan, const AttentionTimes& attention) {
  if (!plan.fits) return Limit::kMemory;
  constexpr double kWorthNaming = 0.1;
  const StepTime& step = plan.step;
  const double worth = kWorthNaming * step.total();
  if (step.parameter_traffic > worth && step.parameter_traffic >= step.attention_wait) {
    return Limit::kParameterTraffic;
  }
  if (step.attention_wait > worth) return Limit::kLink;
  const double unbalanced = step.attention_compute * (1 - 1 / attention.compute_balance);
  return unbalanced > worth ? Limit::kBalance : Limit::kCompute;
}

}  // namespace

std::string_view Name(Parameters parameters) {
  switch (parameters) {
    case Parameters::kAuto:
      return "auto";
    case Parameters::kReplicated:
      return "replicated";
    case Parameters::kSharded:
      return "sharded";
  }
  return "";
}

std::string_view Name(Limit limit) {
  switch (limit) {
    case Limit::kCompute:
      return "compute";
    case Limit::kLink:
      return "link";
    case Limit::kBalance:
      return "balance";
    case Limit::kParameterTraffic:
      return "parameter_traffic";
    case Limit::kMemory:
      return "memory";
  }
  return "";
}

double ParameterCount(const ModelConfig& model) {
  const double embedding =
      model.tied_embeddings ? 0
                            : static_cast<double>(model.vocab) * static_cast<double>(model.hidden);
  const double norms =
      static_cast<double>(model.hidden) * static_cast<double>(2 * model.layers + 1);
  return static_cast<double>(MatrixParameters(model)) + embedding + norms;
}

Plan MakePlan(const PlanOptions& given) {
  PlanOptions options = Checked(given);
  Plan plan;
  plan.ring = options.ring;
  plan.parameters = ParameterCount(options.model);
  plan.usable_memory = kUsableShare * options.hardware.memory_bytes;
  plan.law = LawOf(options);

  const auto whole = [&](double rows) { return OwnMemory(options, false, rows); };
  const auto in_parts = [&](double rows) { return OwnMemory(options, true, rows); };
  const auto paper = [&](double rows) { return PaperMemory(options, rows); };
  plan.replicated.largest_context = LargestContext(options, plan.usable_memory, whole);
  plan.sharded_count.largest_context = LargestContext(options, plan.usable_memory, in_parts);
  plan.paper.largest_context = LargestContext(options, plan.usable_memory, paper);
  plan.sharded = ChooseSharded(options, plan);
  const int64_t largest =
      plan.sharded ? plan.sharded_count.largest_context : plan.replicated.largest_context;
  if (largest == 0) ThrowParametersDoNotFit(options, plan.usable_memory, plan.sharded);

  plan.context = options.context == 0 ? largest : options.context;
  plan.block = ShardRows(options, plan.context);
  const double rows = static_cast<double>(plan.block) * static_cast<double>(options.batch);
  plan.replicated.memory = whole(rows);
  plan.sharded_count.memory = in_parts(rows);
  plan.paper.memory = paper(rows);
  plan.fits =
      (plan.sharded ? plan.sharded_count : plan.replicated).memory.total() <= plan.usable_memory;

  const int64_t rings = options.devices / options.ring;
  plan.tokens = static_cast<double>(plan.context) * static_cast<double>(options.batch) *
                static_cast<double>(rings);
  const AttentionTimes attention = TimeAttention(options, static_cast<double>(plan.block));
  plan.attention = attention.call;
  plan.step = TimeStep(options, plan.sharded, rows, attention);
  plan.mfu = ModelFlops(options, plan.context) * plan.tokens /
             (plan.step.total() * static_cast<double>(options.devices) *
              options.hardware.rate(options.dtype).products);
  plan.limit = LimitOf(plan, attention);
  return plan;
}

}  // namespace ringwise
