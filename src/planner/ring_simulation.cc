#include "ringwise/ring_simulation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <string>

#include "planner/ring_travel.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

void Check(const RingProblem& problem) {
  const size_t ranks = problem.square_seconds.size();
  if (ranks == 0) throw UsageError("a ring needs at least one rank");
  if (problem.visit_seconds.size() != ranks || problem.links.size() != ranks) {
    throw UsageError("a ring of " + std::to_string(ranks) +
                     " ranks needs as many visit_seconds and links, got " +
                     std::to_string(problem.visit_seconds.size()) + " and " +
                     std::to_string(problem.links.size()));
  }
  const auto at_least_zero = [](double value) { return std::isfinite(value) && value >= 0; };
  for (size_t r = 0; r < ranks; ++r) {
    if (!at_least_zero(problem.square_seconds[r]) || !at_least_zero(problem.visit_seconds[r]) ||
        !at_least_zero(problem.links[r].delay)) {
      throw UsageError("seconds of rank " + std::to_string(r) + " must be 0 or more");
    }
    if (!(problem.links[r].bytes_per_second > 0)) {
      throw UsageError("the link of rank " + std::to_string(r) +
                       " must carry more than 0 bytes a second");
    }
  }
  if (!at_least_zero(problem.block_bytes) || !at_least_zero(problem.gradient_bytes)) {
    throw UsageError("block_bytes and gradient_bytes must be 0 or more");
  }
}

// The clocks of all ranks, a step of the ring at a time.
class Simulation {
 public:
  explicit Simulation(const RingProblem& problem)
      : problem_(problem),
        ranks_(static_cast<int>(problem.square_seconds.size())),
        travels_(TravelsOf(problem.layout, problem.causal, problem.queries_travel, ranks_)),
        clock_(static_cast<size_t>(ranks_)),
        computed_(static_cast<size_t>(ranks_)) {}

  RingTimeline Run() {
    int steps = 0;
    for (const Travel& travel : travels_) steps = std::max(steps, travel.hops);
    const bool backward = problem_.gradient_bytes > 0 && steps > 0;
    for (int step = 0; step <= steps + (backward ? 1 : 0); ++step) Step(step);
    return {.seconds = *std::ranges::max_element(clock_), .compute_seconds = computed_};
  }

 private:
  // Where the travel is at `step`.
  int RankAt(const Travel& travel, int step) const {
    const int rank = travel.origin + travel.direction * step;
    return rank < 0 ? rank + ranks_ : rank >= ranks_ ? rank - ranks_ : rank;
  }

  void Step(int step) {
    const auto ranks = static_cast<size_t>(ranks_);
    compute_.assign(ranks, 0);
    for (auto& bytes : sent_) bytes.assign(ranks, 0);
    homecomings_.clear();
    for (const Travel& travel : travels_) Collect(travel, step);

    std::vector<double> done(ranks);
    for (size_t r = 0; r < ranks; ++r) {
      done[r] = clock_[r] + compute_[r];
      computed_[r] += compute_[r];
    }
    for (int r = 0; r < ranks_; ++r) {
      Transfer(r, (r + 1) % ranks_, problem_.links[r], sent_[0][r], done);
      const int previous = (r + ranks_ - 1) % ranks_;
      Transfer(r, previous, problem_.links[previous], sent_[1][r], done);
    }
    for (const Homecoming& way : homecomings_) {
      Transfer(way.from, way.to, problem_.links[way.from], way.bytes, done);
    }
    clock_ = std::move(done);
  }

  void Collect(const Travel& travel, int step) {
    if (step <= travel.hops) {
      const int rank = RankAt(travel, step);
      const TravelWork work =
          WorkOf(problem_.layout, problem_.causal, problem_.queries_travel, travel, rank);
      compute_[rank] +=
          work.pairs * problem_.square_seconds[rank] + work.rows * problem_.visit_seconds[rank];
      if (step < travel.hops) Sent(travel, rank) += travel.share * problem_.block_bytes;
    }
    // The gradient of what was computed a step ago.
    const int before = step - 1;
    if (problem_.gradient_bytes == 0 || before < 1 || before > travel.hops) return;
    const double bytes = travel.share * problem_.gradient_bytes;
    const int from = RankAt(travel, before);
    if (before < travel.hops) {
      Sent(travel, from) += bytes;
    } else {
      homecomings_.push_back({from, travel.origin, bytes / kBlocksOfAShard});
    }
  }

  double& Sent(const Travel& travel, int rank) { return sent_[travel.direction > 0 ? 0 : 1][rank]; }

  void Transfer(int from, int to, const RingLink& link, double bytes,
                std::vector<double>& done) const {
    if (bytes == 0 || from == to) return;
    const double end =
        std::max(clock_[from], clock_[to]) + link.delay + bytes / link.bytes_per_second;
    done[from] = std::max(done[from], end);
    done[to] = std::max(done[to], end);
  }

  struct Homecoming {
    int from = 0;
    int to = 0;
    double bytes = 0;
  };
  static constexpr double kBlocksOfAShard = 4;

  const RingProblem& problem_;
  const int ranks_;
  const std::vector<Travel> travels_;
  std::vector<double> clock_, computed_;     // by rank
  std::vector<double> compute_;              // of this step
  std::array<std::vector<double>, 2> sent_;  // bytes of this step by rank, to the next and previous
  std::vector<Homecoming> homecomings_;
};

}  // namespace

double RingTimeline::LongestCompute() const { return *std::ranges::max_element(compute_seconds); }

double RingTimeline::Efficiency() const {
  if (seconds == 0) return 1;
  const double sum = std::accumulate(compute_seconds.begin(), compute_seconds.end(), 0.0);
  return sum / (seconds * static_cast<double>(compute_seconds.size()));
}

RingTimeline SimulateRing(const RingProblem& problem) {
  Check(problem);
  return Simulation(problem).Run();
}

}  // namespace ringwise
