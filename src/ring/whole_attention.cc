#include "ringwise/whole_attention.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <span>
#include <utility>

#include "ring/ring_agreement.h"
#include "ring/row_shards.h"
#include "ring/whole_checks.h"
#include "ringwise/ring_attention.h"

namespace ringwise {
namespace {

// Tiles of all ranks. Collective.
AttentionStats SumOverRing(Communicator& ring, const AttentionStats& mine) {
  AttentionStats sum;
  for (const auto& bytes : ring.AllGather(std::as_bytes(std::span(&mine, 1)))) {
    AttentionStats theirs;
    std::memcpy(&theirs, bytes.data(), sizeof(theirs));
    sum.tiles += theirs.tiles;
    sum.tile_queries = std::max(sum.tile_queries, theirs.tile_queries);
    sum.tile_keys = std::max(sum.tile_keys, theirs.tile_keys);
  }
  return sum;
}

// One rank's part of the call: its rows of the whole tensors, and what ring attention makes of
// them.
class WholeOnRank {
 public:
  WholeOnRank(Context& context, Communicator& ring, const WholeAttention& whole)
      : context_(context),
        ring_(ring),
        whole_(whole),
        options_(OptionsFor(whole, ring.size())),
        query_(CutQueries(whole.inputs.query)),
        key_(CutKeys(whole.inputs.key)),
        value_(CutKeys(whole.inputs.value)),
        inputs_{query_.view(), key_.view(), value_.view()},
        batch_(query_.shape()[0]),
        heads_(query_.shape()[2]),
        output_(Make({batch_, query_.shape()[1], heads_, value_.shape()[3]})),
        logsumexp_(Make({batch_, heads_, query_.shape()[1]})) {
    if (whole.bias && !options_.bias_has_one_row) {
      bias_.emplace(CutQueries(*whole.bias, 2));
      options_.bias = bias_->view();
    }
  }

  void Forward(WholeResults& results) {
    results.forward = SumOverRing(ring_, RingAttentionForward(context_, ring_, options_, inputs_,
                                                              {output_.view(), logsumexp_.view()}));
    results.output = JoinQueries(output_, batch_, heads_ * value_.shape()[3]);
    results.logsumexp = JoinQueries(logsumexp_, batch_ * heads_, 1);
  }

  void Backward(WholeResults& results) {
    const ShardRows output_gradient = CutQueries(*whole_.output_gradient);
    AttentionSaved saved{std::as_const(output_).view(), std::as_const(logsumexp_).view(),
                         output_gradient.view()};
    std::optional<ShardRows> logsumexp_gradient;
    if (whole_.logsumexp_gradient) {
      logsumexp_gradient.emplace(CutQueries(*whole_.logsumexp_gradient, 2));
      saved.logsumexp_gradient = logsumexp_gradient->view();
    }
    Tensor dq = Make(query_.shape());
    Tensor dk = Make(key_.shape());
    Tensor dv = Make(value_.shape());
    AttentionGradients gradients{dq.view(), dk.view(), dv.view()};
    Tensor dbias, dsinks;
    if (options_.bias) {
      dbias = Make(options_.bias->shape);
      gradients.bias = dbias.view();
    }
    if (options_.sinks) {
      dsinks = Make(options_.sinks->shape);
      gradients.sinks = dsinks.view();
    }
    results.backward = SumOverRing(
        ring_, RingAttentionBackward(context_, ring_, options_, inputs_, saved, gradients));
    results.dq = JoinQueries(dq, batch_, heads_ * query_.shape()[3]);
    results.dk = JoinKeys(dk, key_.shape()[2] * key_.shape()[3]);
    results.dv = JoinKeys(dv, value_.shape()[2] * value_.shape()[3]);
    if (options_.bias) {
      const Shape& shape = dbias.shape();
      results.dbias = options_.bias_has_one_row ? All(dbias)
                                                : JoinQueries(dbias, shape[0] * shape[1], shape[3]);
    }
    if (options_.sinks) results.dsinks = All(dsinks);
  }

 private:
  const Positions& QueryPositions() const { return options_.query_positions[ring_.rank()]; }

  ShardRows CutQueries(const ConstTensorView& tensor, int axis = 1) const {
    return CutRows(context_, tensor, QueryPositions(), whole_.query_offset, axis);
  }
  ShardRows CutKeys(const ConstTensorView& tensor) const {
    return CutRows(context_, tensor, options_.key_positions[ring_.rank()], 0);
  }
  Tensor Make(const Shape& shape) const {
    return {context_.meter, MemoryCategory::kActivations, DType::kF32, shape};
  }

  static std::span<const float> Elements(const Tensor& tensor) {
    return {tensor.data<float>(), static_cast<size_t>(tensor.elements())};
  }
  static std::vector<float> All(const Tensor& tensor) {
    const auto elements = Elements(tensor);
    return {elements.begin(), elements.end()};
  }
  std::vector<float> JoinQueries(const Tensor& tensor, int64_t batch, int64_t row_elements) const {
    return JoinRows(ring_, Elements(tensor), batch, row_elements, options_.query_positions,
                    whole_.query_offset);
  }
  std::vector<float> JoinKeys(const Tensor& tensor, int64_t row_elements) const {
    return JoinRows(ring_, Elements(tensor), batch_, row_elements, options_.key_positions, 0);
  }

  Context& context_;
  Communicator& ring_;
  const WholeAttention& whole_;
  RingAttentionOptions options_;
  const ShardRows query_, key_, value_;
  std::optional<ShardRows> bias_;
  const AttentionInputs inputs_;
  const int64_t batch_, heads_;
  Tensor output_, logsumexp_;
};

}  // namespace

WholeResults AttendWhole(Context& context, Communicator& ring, const WholeAttention& whole) {
  CheckOnEveryRank(ring, [&] { CheckWhole(whole); });
  WholeOnRank call(context, ring, whole);
  WholeResults results;
  call.Forward(results);
  if (whole.output_gradient) call.Backward(results);
  return results;
}

}  // namespace ringwise
