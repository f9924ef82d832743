#include "cli/plan_report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

namespace ringwise {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kSecondsADay = 86400;

// 1234567 -> "1,234,567"
std::string Grouped(double value) {
  const std::string digits = fmt::format("{:.0f}", value);
  std::string grouped;
  for (size_t place = 0; place < digits.size(); ++place) {
    if (place > 0 && (digits.size() - place) % 3 == 0) grouped += ',';
    grouped += digits[place];
  }
  return grouped;
}

std::string Thousands(double tokens) {
  if (tokens == 0) return "-";  // nothing is sent
  return tokens >= 100 ? fmt::format("{:.1f}", tokens / 1e3) : fmt::format("{:.3f}", tokens / 1e3);
}

std::string Rate(double flops) {
  return flops >= 1e12 ? fmt::format("{:.4g} TFLOP/s", flops / 1e12)
                       : fmt::format("{:.4g} GFLOP/s", flops / 1e9);
}

void PrintHead(const PlanReport& report) {
  const PlanOptions& options = report.options;
  const Plan& plan = report.plan;
  const Hardware& hardware = options.hardware;
  const ComputeRate& rate = hardware.rate(options.dtype);
  fmt::print("{} ({:.4g} parameters) on {} x {}\n", report.model, plan.parameters, options.devices,
             hardware.name);
  fmt::print("a device: {} in {}, {:.4g} GB/s to the next one", Rate(rate.products),
             Name(options.dtype), hardware.link_bytes_per_second / 1e9);
  if (hardware.link_delay > 0) fmt::print(" after {:.3g} us", hardware.link_delay * 1e6);
  fmt::print(", {:.4g} GB{}{}\n", hardware.memory_bytes / 1e9, hardware.note.empty() ? "" : "; ",
             hardware.note);
  fmt::print("{}, layout {}, {} of {} ring{} of {}, batch {}, parameters {}\n",
             options.causal ? "causal" : "full mask", Name(options.layout),
             options.context == 0 ? "the longest context" : "context", options.devices / plan.ring,
             options.devices == plan.ring ? "" : "s", plan.ring, options.batch,
             plan.sharded ? "sharded" : "replicated");
  fmt::print("context {}: {} tokens a device\n", Grouped(static_cast<double>(plan.context)),
             Grouped(static_cast<double>(plan.block)));
  if (options.model.window > 0) {
    fmt::print("the model's window of {} is not counted: attention is as if all were seen\n",
               options.model.window);
  }
}

void PrintLaw(const BlockLaw& law) {
  fmt::print("\n{:44} {:>10} {:>18}\n", "transfers hide from: thousands of tokens", "block",
             "sequence a device");
  const auto row = [](const char* name, double block, double sequence) {
    fmt::print("{:44} {:>10} {:>18}\n", name, Thousands(block), Thousands(sequence));
  };
  row("the paper's counting: F / B, six blocks", law.paper_block, law.paper_sequence);
  row("this model, mask and type: forward", law.block, law.block);
  row("backward, with gradients", law.backward_block, law.backward_block);
  fmt::print("attention's forward holds {:.1f} blocks of a shard; the paper counts 6\n",
             law.blocks_held);
}

void PrintMemory(const Plan& plan) {
  fmt::print("\n{:24} {:>14} {:>14} {:>20}\n", "GB a device", "replicated", "sharded",
             "the paper's counting");
  const auto row = [&](const char* name, double PlannedMemory::*category) {
    fmt::print("{:24} {:>14.2f} {:>14.2f} {:>20.2f}\n", name,
               plan.replicated.memory.*category / 1e9, plan.sharded_count.memory.*category / 1e9,
               plan.paper.memory.*category / 1e9);
  };
  row("parameters", &PlannedMemory::parameters);
  row("gradients", &PlannedMemory::gradients);
  row("optimizer", &PlannedMemory::optimizer);
  row("activations", &PlannedMemory::activations);
  row("ring buffers", &PlannedMemory::ring_buffers);
  row("workspace", &PlannedMemory::workspace);
  fmt::print("{:24} {:>14.2f} {:>14.2f} {:>20.2f}\n", "total", plan.replicated.memory.total() / 1e9,
             plan.sharded_count.memory.total() / 1e9, plan.paper.memory.total() / 1e9);
  const auto context = [](const MemoryCount& count) {
    return count.largest_context == 0 ? std::string("none fits")
                                      : Grouped(static_cast<double>(count.largest_context));
  };
  fmt::print("{:24} {:>14} {:>14} {:>20}\n",
             fmt::format("longest in {:.4g} GB", plan.usable_memory / 1e9),
             context(plan.replicated), context(plan.sharded_count), context(plan.paper));
}

void PrintTime(const PlanReport& report) {
  const Plan& plan = report.plan;
  fmt::print("\nseconds a step of {} tokens, at {:.3g} of the rates\n", Grouped(plan.tokens),
             report.options.efficiency);
  const auto row = [&](const char* name, double seconds) {
    fmt::print("{:34} {:>12.4g} {:>6.1f} %\n", name, seconds, 100 * seconds / plan.step.total());
  };
  row("products", plan.step.products);
  row("attention", plan.step.attention_compute);
  row("waiting in the ring", plan.step.attention_wait);
  row("sums of gradients, weights", plan.step.parameter_traffic);
  fmt::print("{:34} {:>12.4g}\n", "together", plan.step.total());
  fmt::print("{:.4g} tokens/s, model FLOPs at {:.1f} % of the rates\n", plan.tokens_per_second(),
             100 * plan.mfu);
  if (report.token_budget > 0) {
    fmt::print("{:.4g} tokens take {:.4g} days\n", report.token_budget,
               report.token_budget / plan.tokens_per_second() / kSecondsADay);
  }
}

std::string LimitInWords(const Plan& plan) {
  const MemoryCount& count = plan.sharded ? plan.sharded_count : plan.replicated;
  switch (plan.limit) {
    case Limit::kCompute:
      return "compute: transfers hide under it";
    case Limit::kLink:
      return fmt::format(
          "the link: a ring step's transfers take longer than its compute; {} tokens a device hide "
          "forward's",
          Grouped(plan.law.block));
    case Limit::kBalance:
      return "balance: other devices wait for the one that has most to do, or is slowest";
    case Limit::kParameterTraffic:
      return "the traffic of parameters and gradients: a larger batch a step hides it";
    case Limit::kMemory:
      return fmt::format(
          "memory: {:.4g} GB are needed and {:.4g} usable; the longest context is {}",
          count.memory.total() / 1e9, plan.usable_memory / 1e9,
          Grouped(static_cast<double>(count.largest_context)));
  }
  return "";
}

// A ring of one sends nothing.
Json BlockToJson(double block) { return block == 0 ? Json() : Json(block); }

Json MemoryToJson(const MemoryCount& count) {
  const PlannedMemory& memory = count.memory;
  return {{"parameters", memory.parameters},
          {"gradients", memory.gradients},
          {"optimizer", memory.optimizer},
          {"activations", memory.activations},
          {"ring_buffers", memory.ring_buffers},
          {"workspace", memory.workspace},
          {"total", memory.total()},
          {"largest_context", count.largest_context}};
}

}  // namespace

void PrintPlanTable(const PlanReport& report) {
  PrintHead(report);
  PrintLaw(report.plan.law);
  PrintMemory(report.plan);
  PrintTime(report);
  fmt::print("limit: {}\n", LimitInWords(report.plan));
}

void PrintPlanJson(const PlanReport& report) {
  const PlanOptions& options = report.options;
  const Plan& plan = report.plan;
  Json json = {{"model", report.model},
               {"parameters", plan.parameters},
               {"hardware", Json::parse(FormatHardware(options.hardware))},
               {"devices", options.devices},
               {"ring", plan.ring},
               {"dtype", Name(options.dtype)},
               {"causal", options.causal},
               {"layout", Name(options.layout)},
               {"recompute", Name(options.recompute)},
               {"batch", options.batch},
               {"efficiency", options.efficiency},
               {"slowest", options.slowest},
               {"context", plan.context},
               {"block", plan.block},
               {"sharded", plan.sharded},
               {"fits", plan.fits},
               {"limit", Name(plan.limit)}};
  json["law"] = {{"paper_block", plan.law.paper_block},
                 {"paper_sequence", plan.law.paper_sequence},
                 {"block", BlockToJson(plan.law.block)},
                 {"backward_block", BlockToJson(plan.law.backward_block)},
                 {"blocks_held", plan.law.blocks_held}};
  json["usable_memory"] = plan.usable_memory;
  json["memory"] = {{"replicated", MemoryToJson(plan.replicated)},
                    {"sharded", MemoryToJson(plan.sharded_count)},
                    {"paper", MemoryToJson(plan.paper)}};
  json["attention_call"] = {{"forward_seconds", plan.attention.forward},
                            {"backward_seconds", plan.attention.backward},
                            {"forward_efficiency", plan.attention.forward_efficiency},
                            {"backward_efficiency", plan.attention.backward_efficiency}};
  json["step_seconds"] = {{"products", plan.step.products},
                          {"attention", plan.step.attention_compute},
                          {"ring_wait", plan.step.attention_wait},
                          {"parameter_traffic", plan.step.parameter_traffic},
                          {"total", plan.step.total()}};
  json["tokens_a_step"] = plan.tokens;
  json["tokens_per_second"] = plan.tokens_per_second();
  json["mfu"] = plan.mfu;
  if (report.token_budget > 0) {
    json["tokens"] = report.token_budget;
    json["days"] = report.token_budget / plan.tokens_per_second() / kSecondsADay;
  }
  fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace));
}

}  // namespace ringwise
