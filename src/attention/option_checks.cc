#include "attention/option_checks.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <utility>

#include "attention/attention_checks.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

void CheckSegments(const Segments& segments, const char* of, int64_t batch) {
  int64_t end = std::numeric_limits<int64_t>::min();
  for (const Segment& segment : segments) {
    if (segment.begin < end || segment.end < segment.begin) {
      throw UsageError(fmt::format(
          "attention: segments of {} must ascend without overlap, found [{}, {}) in sequence {}",
          of, segment.begin, segment.end, batch));
    }
    end = segment.end;
  }
}

void CheckSegmentMap(const SegmentMap& segments, int64_t batch) {
  if (segments.batch() != batch) {
    throw ShapeError(
        fmt::format("attention: segments must be of {} sequences, as the batch, found {}", batch,
                    segments.batch()));
  }
  for (int64_t b = 0; b < batch; ++b) {
    CheckSegments(segments.queries(b), "queries", b);
    CheckSegments(segments.keys(b), "keys", b);
  }
}

void CheckSlices(const std::vector<MaskSlice>& slices, int64_t heads) {
  for (size_t i = 0; i < slices.size(); ++i) {
    const MaskSlice& slice = slices[i];
    if (slice.head && (*slice.head < 0 || *slice.head >= heads)) {
      throw UsageError(fmt::format("attention: slice {}'s head must be 0 to {}, found {}", i,
                                   heads - 1, *slice.head));
    }
    for (const int64_t end : {slice.q_begin, slice.q_end, slice.k_begin, slice.k_end}) {
      constexpr int64_t kMost = int64_t{1} << 60;
      if (end < -kMost || end > kMost) {
        throw UsageError(fmt::format(
            "attention: slice {}'s ends must be within -2^60 to 2^60, found {}", i, end));
      }
    }
    if (slice.q_begin > slice.q_end || slice.k_begin > slice.k_end) {
      throw UsageError(fmt::format(
          "attention: slice {} must end at or after its begin, found queries [{}, {}) and keys "
          "[{}, {})",
          i, slice.q_begin, slice.q_end, slice.k_begin, slice.k_end));
    }
  }
}

void CheckMask(const Mask& mask, const AttentionShape& shape) {
  for (const auto& [side, reach] :
       {std::pair{"left", mask.window_left}, std::pair{"right", mask.window_right}}) {
    if (reach && *reach < 0) {
      throw UsageError(
          fmt::format("attention: the window's {} must be 0 or more, found {}", side, *reach));
    }
  }
  if (mask.causal_block < 0) {
    throw UsageError(fmt::format(
        "attention: causal_block must be 1 or more, or 0 for none, found {}", mask.causal_block));
  }
  if (mask.segments) CheckSegmentMap(*mask.segments, shape.batch);
  if (mask.slices) CheckSlices(*mask.slices, shape.heads);
}

void CheckSlopes(const std::vector<float>& slopes, int64_t heads) {
  if (slopes.empty()) return;
  if (std::ssize(slopes) != heads) {
    throw ShapeError(
        fmt::format("attention: alibi_slopes must be {} numbers, one a query head, found {}", heads,
                    slopes.size()));
  }
  for (size_t head = 0; head < slopes.size(); ++head) {
    if (std::isfinite(slopes[head])) continue;
    throw UsageError(fmt::format("attention: alibi_slopes must be finite, found {} for head {}",
                                 slopes[head], head));
  }
}

}  // namespace

void CheckOptions(const AttentionOptions& options, const AttentionShape& shape) {
  // Scores are f32.
  constexpr double kLargest = std::numeric_limits<float>::max();
  if (options.scale && !(std::abs(*options.scale) <= kLargest)) {
    throw UsageError(
        fmt::format("attention: scale must be a number that f32 holds, found {}", *options.scale));
  }
  constexpr double kLeast = std::numeric_limits<float>::min();
  if (options.softcap != 0 && !(options.softcap >= kLeast && options.softcap <= kLargest)) {
    throw UsageError(fmt::format(
        "attention: softcap must be 1.2e-38 to 3.4e38, or 0 for none, found {}", options.softcap));
  }
  const double probability = options.dropout.probability;
  if (!(probability >= 0 && probability < 1)) {
    throw UsageError(fmt::format(
        "attention: dropout's probability must be 0 or more and below 1, found {}", probability));
  }
  CheckMask(options.mask, shape);
  CheckSlopes(options.alibi_slopes, shape.heads);
}

void CheckBias(const ConstTensorView& bias, const AttentionShape& shape,
               const BiasExtents& extents) {
  const auto one_or = [](int64_t found, int64_t all) { return found == 1 || found == all; };
  if (extents.first_key < 0) {
    throw ShapeError(fmt::format(
        "attention: a bias is by key position from 0, but keys begin at {}", extents.first_key));
  }
  CheckDType("bias", bias, DType::kF32);
  const Shape& found = bias.shape;
  if (found.rank() == 4 && one_or(found[0], shape.batch) && one_or(found[1], shape.heads) &&
      found[2] == extents.rows && found[3] >= extents.keys) {
    return;
  }
  throw ShapeError(fmt::format(
      "attention: bias must be [1 or {}, 1 or {}, {}, {} or more]: sequences, heads, queries and "
      "key positions; found {}",
      shape.batch, shape.heads, extents.rows, extents.keys, found.ToString()));
}

void CheckSinks(const ConstTensorView& sinks, const AttentionShape& shape) {
  CheckShape("sinks", sinks, {shape.heads});
  CheckDType("sinks", sinks, DType::kF32);
}

void CheckOptionGradients(const AttentionGradients& gradients, const AttentionOptions& options) {
  const auto check = [](const char* name, const std::optional<TensorView>& gradient, const char* of,
                        const std::optional<ConstTensorView>& tensor) {
    if (!gradient) return;
    if (!tensor) {
      throw ShapeError(fmt::format("attention: a {} is asked for, but there is no {}", name, of));
    }
    CheckShape(name, *gradient, tensor->shape);
    CheckDType(name, *gradient, DType::kF32);
    if (!gradient->contiguous()) {
      throw ShapeError(fmt::format("attention: {} must be contiguous", name));
    }
  };
  check("bias gradient", gradients.bias, "bias", options.bias);
  check("sinks gradient", gradients.sinks, "sinks", options.sinks);
}

}  // namespace ringwise
