#include "planner/attention_time.h"

#include <algorithm>
#include <cmath>

#include "planner/model_shape.h"
#include "planner/traffic.h"

namespace ringwise {
namespace {

// Seconds that attention takes at the device's speed: of a (query, key) pair in all heads of all
// sequences, and of a query row in all of them for a shard that it meets.
struct AttentionSeconds {
  double pair = 0;
  double row = 0;
};

AttentionSeconds SecondsOf(const PlanOptions& options, Pass pass) {
  const ModelShape shape(options.model);
  const ComputeRate& rate = options.hardware.rate(options.dtype);
  const auto batch = static_cast<double>(options.batch);
  constexpr double kForwardFlops = 4;  // a pair and head_dim: two products
  constexpr double kBackwardFlops = 10;
  const double seconds_a_flop =
      pass == Pass::kForward ? 1 / rate.attention_forward : 1 / rate.attention_backward;
  const double flops = pass == Pass::kForward ? kForwardFlops : kBackwardFlops;
  return {
      .pair = batch * flops * shape.query * seconds_a_flop / options.efficiency,
      .row = batch * shape.heads * rate.row_seconds / options.efficiency,
  };
}

RowTraffic TrafficOf(const PlanOptions& options, Pass pass) {
  return pass == Pass::kForward ? ForwardTraffic(options.model, options.dtype)
                                : BackwardTraffic(options.model, options.dtype);
}

}  // namespace

RingProblem AttentionRing(const PlanOptions& options, Pass pass, double rows) {
  const AttentionSeconds seconds = SecondsOf(options, pass);
  const RowTraffic traffic = TrafficOf(options, pass);
  const double batch_rows = static_cast<double>(options.batch) * rows;
  const auto ranks = static_cast<size_t>(options.ring);
  RingProblem problem{
      .layout = options.layout,
      .causal = options.causal,
      .queries_travel = traffic.queries,
      .block_bytes = batch_rows * traffic.block,
      .gradient_bytes = batch_rows * traffic.gradient,
      .square_seconds = std::vector<double>(ranks, seconds.pair * rows * rows),
      .visit_seconds = std::vector<double>(ranks, seconds.row * rows),
      .links = std::vector<RingLink>(
          ranks, {options.hardware.link_bytes_per_second, options.hardware.link_delay}),
  };
  problem.square_seconds.back() /= options.slowest;
  problem.visit_seconds.back() /= options.slowest;
  return problem;
}

double BlockSize(const PlanOptions& options, Pass pass) {
  const bool halved = options.causal && options.layout != Layout::kContiguous;
  const AttentionSeconds seconds = SecondsOf(options, pass);
  const RowTraffic traffic = TrafficOf(options, pass);
  // square c^2 + row c >= bytes c + delay
  const double square = seconds.pair * (halved ? 0.5 : 1);
  const double bytes = static_cast<double>(options.batch) * (traffic.block + traffic.gradient) /
                       options.hardware.link_bytes_per_second;
  const double linear = bytes - seconds.row;
  // With zigzag a step may have a quarter of the square to hide half a shard, and the delay whole.
  const double delay =
      options.hardware.link_delay * (halved && options.layout == Layout::kZigzag ? 2 : 1);
  const double root = std::sqrt(linear * linear + 4 * square * delay);
  return std::max(1.0, (linear + root) / (2 * square));
}

}  // namespace ringwise
