#include "kernels/gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "ringwise/error.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

constexpr double kRoundF32 = 6e-8;
constexpr double kRoundBf16 = 4e-3;

// A tensor of normal values, rows `stride` apart, and the same values in double.
struct Operand {
  Operand(MemoryMeter& meter, DType dtype, int64_t rows, int64_t columns, int64_t row_stride,
          uint64_t stream)
      : memory(meter, MemoryCategory::kWorkspace, dtype, {rows, row_stride}),
        view(memory.view().Slice(1, 0, columns)) {
    Random random(3, stream);
    DispatchDType(dtype, [&]<class T>(T) {
      for (int64_t i = 0; i < memory.elements(); ++i) {
        memory.data<T>()[i] = static_cast<T>(random.Normal());
      }
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < columns; ++c) {
          values.push_back(static_cast<float>(*view.at<T>(r, c)));
        }
      }
    });
  }
  Tensor memory;
  TensorView view;
  std::vector<double> values;
};

double At(ConstTensorView view, int64_t i, int64_t j) {
  return DispatchDType(view.dtype, [&]<class T>(T) {
    return static_cast<double>(static_cast<float>(*view.at<T>(i, j)));
  });
}

struct Case {
  int64_t m, n, k;
};

const Case kCases[] = {{1, 1, 1},    {1, 7, 3},      {5, 1, 9},     {17, 33, 65},
                       {64, 64, 64}, {100, 257, 31}, {3, 130, 300}, {333, 48, 129},
                       {0, 5, 4},    {5, 0, 4},      {5, 4, 0}};

class GemmTest : public testing::TestWithParam<std::tuple<DType, bool, int>> {};

TEST_P(GemmTest, MultiplyAgreesWithDouble) {
  const auto [dtype, widen, threads] = GetParam();
  MemoryMeter meter;
  ThreadTeam team(threads);
  Context context{team, meter};
  Gemm gemm(context, widen);
  for (const Case& size : kCases) {
    SCOPED_TRACE(testing::Message() << size.m << " " << size.n << " " << size.k);
    for (const auto orientation : {Gemm::Orientation::kTransposed, Gemm::Orientation::kAsStored}) {
      const bool transposed = orientation == Gemm::Orientation::kTransposed;
      Operand left(meter, dtype, size.m, size.k, size.k, 1);
      Operand weight(meter, DType::kF32, transposed ? size.n : size.k, transposed ? size.k : size.n,
                     transposed ? size.k : size.n, 2);
      const ConstTensorView whole = weight.view;
      // In two parts, as query, key and value are.
      const int64_t split = whole.shape[0] / 3;
      const ConstTensorView parts[] = {whole.Slice(0, 0, split),
                                       whole.Slice(0, split, whole.shape[0] - split)};
      const PackedMatrix packed = gemm.Pack(parts, orientation, dtype);
      for (const DType out : {DType::kF32, dtype}) {
        for (const bool accumulate : {false, true}) {
          Operand output(meter, out, size.m, size.n, size.n, 3);
          gemm.Multiply(left.view, packed, output.view, accumulate);
          for (int64_t i = 0; i < size.m; ++i) {
            for (int64_t j = 0; j < size.n; ++j) {
              double sum = accumulate ? output.values[i * size.n + j] : 0;
              double terms = std::abs(sum);
              for (int64_t x = 0; x < size.k; ++x) {
                double w = weight.values[transposed ? j * size.k + x : x * size.n + j];
                if (dtype == DType::kBF16) w = static_cast<float>(bf16(static_cast<float>(w)));
                sum += left.values[i * size.k + x] * w;
                terms += std::abs(left.values[i * size.k + x] * w);
              }
              const double bound = kRoundF32 * static_cast<double>(size.k + 2) * terms +
                                   (out == DType::kBF16 ? kRoundBf16 * std::abs(sum) : 0);
              ASSERT_NEAR(At(output.view, i, j), sum, bound) << i << " " << j;
            }
          }
        }
      }
    }
  }
}

TEST_P(GemmTest, WeightGradientsAgreeWithDouble) {
  const auto [dtype, widen, threads] = GetParam();
  MemoryMeter meter;
  ThreadTeam team(threads);
  Context context{team, meter};
  Gemm gemm(context, widen);
  for (const Case& size : kCases) {
    const int64_t rows = size.k;
    const int64_t out = size.m;
    const int64_t in = size.n;
    SCOPED_TRACE(testing::Message() << "rows " << rows << " out " << out << " in " << in);
    Operand dy(meter, dtype, rows, out, out + 5, 4);
    Operand x(meter, dtype, rows, in, in + 3, 5);
    Operand gradient(meter, DType::kF32, out, in, in, 6);
    const int64_t split = out / 3;
    const TensorView parts[] = {gradient.view.Slice(0, 0, split),
                                gradient.view.Slice(0, split, out - split)};
    gemm.AddWeightGradients(dy.view, x.view, parts);
    for (int64_t i = 0; i < out; ++i) {
      for (int64_t j = 0; j < in; ++j) {
        double sum = gradient.values[i * in + j];
        double terms = std::abs(sum);
        for (int64_t r = 0; r < rows; ++r) {
          sum += dy.values[r * out + i] * x.values[r * in + j];
          terms += std::abs(dy.values[r * out + i] * x.values[r * in + j]);
        }
        ASSERT_NEAR(At(gradient.view, i, j), sum,
                    kRoundF32 * static_cast<double>(rows + 2) * terms);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, GemmTest,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                                          testing::Bool(), testing::Values(1, 3)));

TEST(Gemm, RejectsWhatDoesNotFit) {
  MemoryMeter meter;
  ThreadTeam team(1);
  Context context{team, meter};
  Gemm gemm(context);
  Operand weight(meter, DType::kF32, 4, 6, 6, 1);
  const ConstTensorView views[] = {weight.view};
  const PackedMatrix packed = gemm.Pack(views, Gemm::Orientation::kTransposed, DType::kF32);
  Operand left(meter, DType::kF32, 3, 6, 6, 1);
  Operand padded(meter, DType::kF32, 3, 6, 8, 1);
  Operand narrow(meter, DType::kBF16, 3, 6, 6, 1);
  Operand output(meter, DType::kF32, 3, 4, 4, 1);
  EXPECT_NO_THROW(gemm.Multiply(left.view, packed, output.view));
  EXPECT_THROW(gemm.Multiply(output.view, packed, output.view), ShapeError);
  EXPECT_THROW(gemm.Multiply(padded.view, packed, output.view), ShapeError);
  EXPECT_THROW(gemm.Multiply(narrow.view, packed, output.view), ShapeError);
  const TensorView gradient[] = {output.view};
  EXPECT_THROW(gemm.AddWeightGradients(left.view, left.view, gradient), ShapeError);
}

}  // namespace
}  // namespace ringwise
