#include "inference/row_product.h"

#include <algorithm>
#include <array>

#include "kernels/convert.h"
#include "kernels/row_kernels.h"

namespace ringwise {
namespace {

// Rows whose products are made at once, so that accumulating needs only a small buffer.
constexpr int64_t kRows = 64;

template <class Element>
void MultiplyRows(ConstTensorView weight, const Range& rows, const float* x, float* output,
                  bool accumulate) {
  const int64_t width = weight.shape[1];
  std::array<float, kRows> dots;
  for (int64_t row = rows.begin; row < rows.end; row += kRows) {
    const int64_t count = std::min(kRows, rows.end - row);
    RowKernelsOf<Element>().dot(weight.at<Element>(row), width, count, x, width, dots.data());
    for (int64_t i = 0; i < count; ++i) {
      const float dot = dots[static_cast<size_t>(i)];
      output[row + i] = accumulate ? output[row + i] + dot : dot;
    }
  }
}

}  // namespace

RowProduct::RowProduct(Context& context, std::span<const ConstTensorView> weights, DType compute)
    : context_(context), compute_(compute) {
  for (const ConstTensorView& weight : weights) {
    ConstTensorView view = weight;
    if (compute == DType::kBF16) {
      copies_.emplace_back(context.meter, MemoryCategory::kParameters, compute, weight.shape);
      Convert(context, weight, copies_.back().view());
      view = copies_.back().view();
    }
    parts_.push_back({view, rows_});
    rows_ += weight.shape[0];
  }
}

void RowProduct::Multiply(const float* x, float* output, bool accumulate) const {
  context_.team.Run([&](int thread) {
    // Shares are of all rows together, so that small parts do not leave threads idle.
    const Range share = SplitRange(rows_, context_.team.size(), thread, 16);
    for (const Part& part : parts_) {
      const Range rows{std::max(share.begin - part.first, int64_t{0}),
                       std::min(share.end - part.first, part.weight.shape[0])};
      if (rows.begin >= rows.end) continue;
      DispatchDType(compute_, [&]<class Element>(Element) {
        MultiplyRows<Element>(part.weight, rows, x, output + part.first, accumulate);
      });
    }
  });
}

}  // namespace ringwise
