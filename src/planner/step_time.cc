#include "planner/step_time.h"

#include <algorithm>
#include <numeric>

#include "planner/attention_time.h"
#include "planner/model_shape.h"
#include "ringwise/ring_simulation.h"

namespace ringwise {
namespace {

double MeanCompute(const RingTimeline& timeline) {
  const auto& seconds = timeline.compute_seconds;
  return std::accumulate(seconds.begin(), seconds.end(), 0.0) / static_cast<double>(seconds.size());
}

// Seconds of a device's part in moving `bytes` of every parameter around once: to sum them, or to
// gather them.
double AroundOnce(const PlanOptions& options, double bytes) {
  const auto devices = static_cast<double>(options.devices);
  return bytes * ParameterCount(options.model) * (devices - 1) / devices /
         options.hardware.link_bytes_per_second;
}

}  // namespace

AttentionTimes TimeAttention(const PlanOptions& options, double rows) {
  const RingTimeline forward = SimulateRing(AttentionRing(options, Pass::kForward, rows));
  const RingTimeline backward = SimulateRing(AttentionRing(options, Pass::kBackward, rows));
  const double extra = options.ring > 1 ? options.hardware.call_seconds : 0;
  const auto efficiency = [extra](const RingTimeline& timeline) {
    return timeline.Efficiency() * timeline.seconds / (timeline.seconds + extra);
  };
  return {
      .call = {.forward = forward.seconds + extra,
               .backward = backward.seconds + extra,
               .forward_efficiency = efficiency(forward),
               .backward_efficiency = efficiency(backward)},
      .forward_compute = forward.LongestCompute(),
      .backward_compute = backward.LongestCompute(),
      .compute_balance = (forward.LongestCompute() + backward.LongestCompute()) /
                         (MeanCompute(forward) + MeanCompute(backward)),
  };
}

StepTime TimeStep(const PlanOptions& options, bool sharded, double rows,
                  const AttentionTimes& attention) {
  const ModelShape shape(options.model);
  const double rate = options.hardware.rate(options.dtype).products * options.efficiency;
  // Backward takes twice forward's products, and runs again what was not kept: all of the layers'
  // but down's, or with every layer's input alone also attention's forward.
  const double down = shape.hidden * shape.ffn;
  const double again =
      options.recompute == Recompute::kNone ? 0 : shape.layers * (shape.layer_parameters - down);
  const double forwards = options.recompute == Recompute::kBlock ? 2 : 1;

  StepTime step;
  step.products = rows * (6 * shape.matrix_parameters + 2 * again) / rate / options.slowest;
  step.attention_compute =
      shape.layers * (forwards * attention.forward_compute + attention.backward_compute);
  step.attention_wait =
      shape.layers * (forwards * attention.call.forward + attention.call.backward) -
      step.attention_compute;
  const auto size = static_cast<double>(SizeOf(options.dtype));
  if (sharded) {
    // Weights are gathered for forward and for backward, gradients summed into parts, meanwhile.
    step.parameter_traffic = std::max(0.0, AroundOnce(options, 2 * size + 4) - step.products);
  } else {
    step.parameter_traffic = AroundOnce(options, 2 * 4);  // sums in f32, to every device
  }
  return step;
}

double ModelFlops(const PlanOptions& options, int64_t context) {
  const ModelShape shape(options.model);
  const double keys = static_cast<double>(context) * (options.causal ? 0.5 : 1);
  return 6 * shape.matrix_parameters + 12 * shape.layers * shape.query * keys;
}

}  // namespace ringwise
