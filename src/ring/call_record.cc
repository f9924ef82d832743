#include "ring/call_record.h"

#include <fmt/format.h>

#include <bit>
#include <cassert>
#include <optional>
#include <string_view>

namespace ringwise {
namespace {

using Kind = CallField::Kind;

constexpr int64_t kNone = -1;  // of an optional number, all of which are 0 or more

// FNV-1a: different values give different numbers, as good as always.
class Fingerprint {
 public:
  void Mix(int64_t value) { hash_ = (hash_ ^ static_cast<uint64_t>(value)) * 0x100000001b3u; }
  void Mix(float value) { Mix(int64_t{std::bit_cast<int32_t>(value)}); }
  void Mix(const PositionRun& run) {
    Mix(run.start);
    Mix(run.count);
    Mix(run.stride);
  }
  void Mix(const Segment& segment) {
    Mix(segment.begin);
    Mix(segment.end);
    Mix(int64_t{segment.id});
  }
  void Mix(const MaskSlice& slice) {
    Mix(slice.head.value_or(kNone));
    Mix(slice.q_begin);
    Mix(slice.q_end);
    Mix(slice.k_begin);
    Mix(slice.k_end);
    Mix(static_cast<int64_t>(slice.kind));
  }
  template <class T>
  void Mix(const std::vector<T>& list) {
    Mix(std::ssize(list));
    for (const T& item : list) Mix(item);
  }
  int64_t value() const { return static_cast<int64_t>(hash_); }

 private:
  uint64_t hash_ = 0xcbf29ce484222325u;
};

template <class T>
CallField FingerprintOf(const char* name, const T& value) {
  Fingerprint fingerprint;
  fingerprint.Mix(value);
  return {name, fingerprint.value(), Kind::kFingerprint};
}

CallField SegmentsField(const SegmentMap* segments) {
  Fingerprint fingerprint;
  for (int64_t batch = 0; segments != nullptr && batch < segments->batch(); ++batch) {
    fingerprint.Mix(segments->queries(batch));
    fingerprint.Mix(segments->keys(batch));
  }
  return {"mask.segments", segments == nullptr ? 0 : fingerprint.value(), Kind::kFingerprint};
}

CallField SinksField(const std::optional<ConstTensorView>& sinks) {
  Fingerprint fingerprint;
  for (int64_t head = 0; sinks && head < sinks->shape[0]; ++head) {
    fingerprint.Mix(*sinks->at<float>(head));
  }
  return {"sinks", sinks ? fingerprint.value() : 0, Kind::kFingerprint};
}

CallField Optional(const char* name, const std::optional<int64_t>& value) {
  return {name, value.value_or(kNone), Kind::kOptional};
}
CallField Real(const char* name, double value) {
  return {name, std::bit_cast<int64_t>(value), Kind::kReal};
}
CallField YesOrNo(const char* name, bool value) { return {name, value ? 1 : 0, Kind::kYesOrNo}; }

std::string Shown(const CallField& field) {
  switch (field.kind) {
    case Kind::kOptional:
      if (field.value == kNone) return "none";
      break;
    case Kind::kReal:
      return fmt::format("{}", std::bit_cast<double>(field.value));
    case Kind::kYesOrNo:
      return field.value != 0 ? "yes" : "no";
    case Kind::kNumber:
    case Kind::kFingerprint:
      break;
  }
  return std::to_string(field.value);
}

}  // namespace

CallRecord RecordOf(const AttentionShape& shape, const RingAttentionOptions& options,
                    const AttentionGradients* gradients) {
  const Mask& mask = options.mask;
  const auto bias_extent = [&](int axis) { return options.bias ? options.bias->shape[axis] : 0; };
  return {
      YesOrNo("the call (whether it is backward)", gradients != nullptr),
      {"batch", shape.batch},
      {"heads", shape.heads},
      {"kv_heads", shape.kv_heads},
      {"head_dim", shape.head_dim},
      {"value_dim", shape.value_dim},
      YesOrNo("dtype (whether it is bf16)", shape.dtype == DType::kBF16),
      YesOrNo("scale (whether it is given)", options.scale.has_value()),
      Real("scale", options.scale.value_or(0)),
      YesOrNo("mask.causal", mask.causal),
      Optional("mask.window_left", mask.window_left),
      Optional("mask.window_right", mask.window_right),
      {"mask.causal_block", mask.causal_block},
      YesOrNo("mask.segments (whether they are given)", mask.segments != nullptr),
      SegmentsField(mask.segments.get()),
      YesOrNo("mask.slices (whether they are given)", mask.slices != nullptr),
      FingerprintOf("mask.slices", mask.slices ? *mask.slices : std::vector<MaskSlice>()),
      Real("softcap", options.softcap),
      FingerprintOf("alibi_slopes", options.alibi_slopes),
      Real("dropout.probability", options.dropout.probability),
      {"dropout.seed", static_cast<int64_t>(options.dropout.seed)},
      {"dropout.first_batch", options.dropout.first_batch},
      {"dropout.first_head", options.dropout.first_head},
      YesOrNo("bias (whether it is given)", options.bias.has_value()),
      {"bias's sequences", bias_extent(0)},
      {"bias's heads", bias_extent(1)},
      {"bias's keys", bias_extent(3)},
      YesOrNo("bias_has_one_row", options.bias_has_one_row),
      YesOrNo("sinks (whether they are given)", options.sinks.has_value()),
      SinksField(options.sinks),
      YesOrNo("the bias gradient (whether it is asked for)", gradients && gradients->bias),
      YesOrNo("the sinks gradient (whether it is asked for)", gradients && gradients->sinks),
      FingerprintOf("query_positions", options.query_positions),
      FingerprintOf("key_positions", options.key_positions),
  };
}

std::string Difference(const CallField& first, const CallField& other, int other_rank) {
  if (first.kind == Kind::kFingerprint) {
    return fmt::format("found others on rank {} than on rank 0", other_rank);
  }
  return fmt::format("found {} on rank 0 and {} on rank {}", Shown(first), Shown(other),
                     other_rank);
}

}  // namespace ringwise
