#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "ringwise/context.h"
#include "ringwise/tensor.h"

namespace ringwise {

// A matrix that is the right operand of many products, copied once into the layout that this
// machine's products ask for. Made by Gemm::Pack and used with the same Gemm.
class PackedMatrix {
 public:
  PackedMatrix();
  ~PackedMatrix();
  PackedMatrix(PackedMatrix&&) noexcept;
  PackedMatrix& operator=(PackedMatrix&&) noexcept;

  explicit operator bool() const { return impl_ != nullptr; }
  int64_t rows() const;     // k, the summed extent
  int64_t columns() const;  // n

 private:
  friend class Gemm;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Matrix products on a rank's team: sums in f32, rounded once to the output's type. Every extent
// may be 0, 1 or odd. The work is split by rows of the output, so the same team size gives the same
// bits. Primitives are made once a shape and thread and kept here.
//
// A rehearsing team multiplies and packs nothing, in the same workspace.
//
// Thread rules: the rank's own thread calls it, outside the team's tasks. The context must outlive
// it. Errors: ShapeError if operands disagree, or if a matrix that must be contiguous is not.
class Gemm {
 public:
  // Where the machine has no bf16 products, or with `widen_bf16`, bf16 operands are widened to f32
  // a few rows at a time: the same numbers, slower.
  explicit Gemm(Context& context, bool widen_bf16 = false);
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  Context& context() const;

  enum class Orientation {
    kTransposed,  // pack w^T, for y = x w^T
    kAsStored,    // pack w, for dx = dy w
  };
  // Packs the rows of one or more f32 weights [out_i, in] (checkpoints store them so), one below
  // the other, rounded to `dtype`. The result is metered as `category`.
  PackedMatrix Pack(std::span<const ConstTensorView> weights, Orientation orientation, DType dtype,
                    MemoryCategory category = MemoryCategory::kParameters);

  // output [m, n] (=, or += if `accumulate`) left [m, k] right [k, n]. left has the type that right
  // was packed in; output may be f32 or that type. Both contiguous.
  void Multiply(ConstTensorView left, const PackedMatrix& right, TensorView output,
                bool accumulate = false);

  // Gradients of one or more weights [out_i, in], f32, contiguous, from the gradient of the
  // products' outputs, side by side [rows, sum of out_i], and their common input [rows, in]:
  //   [gradients_0; gradients_1; ...] += output_gradient^T input
  // Rows of output_gradient and of input may be strided. Both have the same type. Uses
  // (sum of out_i + in) * rows elements of workspace: call it a block of rows at a time.
  void AddWeightGradients(ConstTensorView output_gradient, ConstTensorView input,
                          std::span<const TensorView> gradients);

  // Frees the workspace of weight gradients until the next one needs it.
  void ReleaseWorkspace();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ringwise
