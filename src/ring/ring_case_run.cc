#include "ring/ring_case_run.h"

#include <array>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "attention/shard_attention_reference.h"
#include "ring/backward_choice.h"
#include "ring/ring_plan.h"
#include "ring/ring_schedule.h"
#include "ring/row_shards.h"

namespace ringwise {
namespace {

// `run(rank)` on every rank of the case's ring; what the first returns.
template <class Run>
auto OnTheRingOf(const RingCase& ring_case, const Run& run) {
  MeshOptions mesh;
  mesh.ring = ring_case.ring;
  mesh.threads = ring_case.threads;
  mesh.timeout_seconds = 60;
  decltype(run(std::declval<Rank&>())) results;
  Launch(mesh, [&](Rank& rank) {
    auto mine = run(rank);
    if (rank.world.rank() == 0) results = std::move(mine);
  });
  return results;
}

std::vector<double> SumOverRing(Communicator& ring, const std::vector<double>& mine) {
  std::vector<double> sum(mine.size());
  for (const auto& bytes : ring.AllGather(std::as_bytes(std::span(mine)))) {
    std::vector<double> theirs(mine.size());
    if (!theirs.empty()) std::memcpy(theirs.data(), bytes.data(), bytes.size());
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += theirs[i];
  }
  return sum;
}

// One rank's part of a case in the double reference.
class ReferenceOnRank {
 public:
  ReferenceOnRank(Context& context, Communicator& ring, const RingCase& c, WholeAttention whole)
      : context_(context),
        ring_(ring),
        whole_(std::move(whole)),
        options_(OptionsFor(whole_, ring.size())),
        cut_{.unit = 1 + static_cast<int64_t>(c.seed % 7),
             .parts = 1 + static_cast<int64_t>(c.seed % 4),
             .least_rows = 1},
        shape_{c.batch, c.heads, c.kv_heads, c.head_dim, c.ValueDim(), c.dtype},
        query_(CutQueries(whole_.inputs.query)),
        key_(CutKeys(whole_.inputs.key)),
        value_(CutKeys(whole_.inputs.value)) {
    if (whole_.bias && !options_.bias_has_one_row) {
      bias_.emplace(CutQueries(*whole_.bias, 2));
      options_.bias = bias_->view();
    }
  }

  AttentionResults Run() {
    const Positions& query_positions = options_.query_positions[ring_.rank()];
    const Positions& key_positions = options_.key_positions[ring_.rank()];
    const RingCall call{options_.mask, shape_.batch, shape_.heads, options_.query_positions,
                        options_.key_positions};
    ReferenceShardForward forward(shape_, options_, query_.view(), query_positions);
    const RingPlan plan(
        call, Travelling::kKeys,
        [&](int64_t rows) {
          return TravelBytes{forward.BlockBytes(rows), 0};
        },
        cut_);
    RunRingForward(context_, ring_, plan, key_.view(), value_.view(), key_positions, forward);

    const ShardRows output_gradient = CutQueries(*whole_.output_gradient);
    std::optional<ShardRows> d_logsumexp;
    std::optional<ConstTensorView> d_logsumexp_view;
    if (whole_.logsumexp_gradient) {
      d_logsumexp.emplace(CutQueries(*whole_.logsumexp_gradient, 2));
      d_logsumexp_view = d_logsumexp->view();
    }
    const BackwardChoice choice = ChooseBackward(call, shape_, options_.bias.has_value(), cut_);
    ReferenceShardBackward backward({shape_,
                                     options_,
                                     {query_.view(), key_.view(), value_.view()},
                                     output_gradient.view(),
                                     d_logsumexp_view,
                                     forward.Output(),
                                     forward.LogSumExp(),
                                     query_positions,
                                     key_positions},
                                    choice.travelling);
    RunRingBackward(context_, ring_, choice.plan, backward);

    const int64_t kv_heads = shape_.kv_heads;
    AttentionResults results;
    results.output = JoinQueries(forward.Output(), shape_.batch, shape_.heads * shape_.value_dim);
    results.logsumexp = JoinQueries(forward.LogSumExp(), shape_.batch * shape_.heads, 1);
    results.dq =
        JoinQueries(backward.QueryGradient(), shape_.batch, shape_.heads * shape_.head_dim);
    results.dk = JoinKeys(backward.KeyGradient(), kv_heads * shape_.head_dim);
    results.dv = JoinKeys(backward.ValueGradient(), kv_heads * shape_.value_dim);
    if (options_.bias) results.dbias = JoinBias(backward.BiasGradient());
    results.dsinks = SumOverRing(ring_, backward.SinkGradient());
    return results;
  }

 private:
  ShardRows CutQueries(const ConstTensorView& tensor, int axis = 1) const {
    return CutRows(context_, tensor, options_.query_positions[ring_.rank()], whole_.query_offset,
                   axis);
  }
  ShardRows CutKeys(const ConstTensorView& tensor) const {
    return CutRows(context_, tensor, options_.key_positions[ring_.rank()], 0);
  }
  std::vector<double> JoinQueries(const std::vector<double>& mine, int64_t batch,
                                  int64_t row_elements) const {
    return JoinRows<double>(ring_, mine, batch, row_elements, options_.query_positions,
                            whole_.query_offset);
  }
  std::vector<double> JoinKeys(const std::vector<double>& mine, int64_t row_elements) const {
    return JoinRows<double>(ring_, mine, shape_.batch, row_elements, options_.key_positions, 0);
  }
  std::vector<double> JoinBias(const std::vector<double>& mine) const {
    if (options_.bias_has_one_row) return SumOverRing(ring_, mine);
    const Shape& shape = options_.bias->shape;
    return JoinQueries(mine, shape[0] * shape[1], shape[3]);
  }

  Context& context_;
  Communicator& ring_;
  const WholeAttention whole_;
  RingAttentionOptions options_;
  const BlockCut cut_;  // into many short blocks
  const AttentionShape shape_;
  const ShardRows query_, key_, value_;
  std::optional<ShardRows> bias_;
};

}  // namespace

WholeResults RunCaseOn(Context& context, Communicator& ring, const RingCaseData& data) {
  return AttendWhole(context, ring, data.whole());
}

WholeResults RunCase(const RingCase& ring_case, const RingCaseData& data) {
  return OnTheRingOf(ring_case,
                     [&](Rank& rank) { return RunCaseOn(rank.context, rank.ring, data); });
}

AttentionResults RunReferenceCaseOn(Context& context, Communicator& ring, const RingCase& ring_case,
                                    const RingCaseData& data) {
  return ReferenceOnRank(context, ring, ring_case, data.whole()).Run();
}

AttentionResults RunReferenceCase(const RingCase& ring_case, const RingCaseData& data) {
  return OnTheRingOf(ring_case, [&](Rank& rank) {
    return RunReferenceCaseOn(rank.context, rank.ring, ring_case, data);
  });
}

bool SameBits(const WholeResults& a, const WholeResults& b) {
  using Member = std::vector<float> WholeResults::*;
  constexpr std::array<Member, 7> kTensors = {
      &WholeResults::output, &WholeResults::logsumexp, &WholeResults::dq,    &WholeResults::dk,
      &WholeResults::dv,     &WholeResults::dbias,     &WholeResults::dsinks};
  for (const Member tensor : kTensors) {
    const std::vector<float>& left = a.*tensor;
    const std::vector<float>& right = b.*tensor;
    if (left.size() != right.size()) return false;
    if (left.empty()) continue;
    if (std::memcmp(left.data(), right.data(), left.size() * sizeof(float)) != 0) return false;
  }
  return true;
}

AttentionResults ToResults(const WholeResults& results) {
  const auto widen = [](const std::vector<float>& values) {
    return std::vector<double>(values.begin(), values.end());
  };
  return {widen(results.output), widen(results.logsumexp), widen(results.dq),    widen(results.dk),
          widen(results.dv),     widen(results.dbias),     widen(results.dsinks)};
}

}  // namespace ringwise
