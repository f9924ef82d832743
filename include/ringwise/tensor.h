#pragma once

#include <array>
#include <cassert>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <type_traits>

#include "ringwise/dtype.h"
#include "ringwise/memory.h"

namespace ringwise {

// Up to four extents, outermost first. 64-bit throughout: tensors may pass 2^31 elements.
class Shape {
 public:
  static constexpr int kMaxRank = 4;

  Shape() = default;
  Shape(std::initializer_list<int64_t> extents);  // throws ShapeError: more than four, or negative

  int rank() const { return rank_; }
  int64_t operator[](int axis) const {
    assert(axis >= 0 && axis < rank_);
    return extents_[axis];
  }
  int64_t elements() const;  // 1 for rank 0
  bool operator==(const Shape&) const = default;
  std::string ToString() const;  // "[2, 128, 4, 64]"

 private:
  std::array<int64_t, kMaxRank> extents_{};
  int rank_ = 0;
};

// A look at elements somewhere else: type, shape, and the distance in elements between neighbours
// on each axis. The innermost axis is always contiguous; the others may be strided, so that query,
// key and value can be slices of one fused projection. A copy is cheap; the memory must outlive it.
template <class Void>
struct BasicTensorView {
  using Byte = std::conditional_t<std::is_const_v<Void>, const std::byte, std::byte>;

  Void* memory = nullptr;
  DType dtype = DType::kF32;
  Shape shape;
  std::array<int64_t, Shape::kMaxRank> strides{};  // in elements; strides[rank - 1] is 1

  BasicTensorView() = default;
  // Contiguous, rows in order.
  BasicTensorView(Void* data, DType type, Shape extents)
      : memory(data), dtype(type), shape(extents) {
    int64_t stride = 1;
    for (int axis = shape.rank() - 1; axis >= 0; --axis) {
      strides[axis] = stride;
      stride *= shape[axis];
    }
  }
  // A writable view reads as a constant one.
  template <class Other>
  requires(std::is_const_v<Void> && !std::is_const_v<Other>)
      BasicTensorView(const BasicTensorView<Other>& other)  // NOLINT: meant to convert
      : memory(other.memory), dtype(other.dtype), shape(other.shape), strides(other.strides) {}

  int64_t elements() const { return shape.elements(); }
  bool contiguous() const {
    return elements() == 0 || strides == BasicTensorView(memory, dtype, shape).strides;
  }

  // First element at index (i, j, ...); missing trailing indices are 0. T must match dtype.
  template <class T, class... Index>
  auto* at(Index... index) const {
    assert(kDTypeOf<std::remove_const_t<T>> == dtype);
    using Element = std::conditional_t<std::is_const_v<Void>, const T, T>;
    return static_cast<Element*>(memory) + Offset(index...);
  }
  template <class T>
  auto* data() const {
    return at<T>();
  }
  // The same memory from index `begin` on along `axis`, `count` long.
  BasicTensorView Slice(int axis, int64_t begin, int64_t count) const;

 private:
  template <class... Index>
  int64_t Offset(Index... index) const {
    static_assert(sizeof...(Index) <= Shape::kMaxRank);
    int64_t offset = 0;
    int axis = 0;
    ((offset += static_cast<int64_t>(index) * strides[axis++]), ...);
    return offset;
  }
};

using TensorView = BasicTensorView<void>;
using ConstTensorView = BasicTensorView<const void>;

// An owned, contiguous tensor. Elements start undefined; see Zero.
class Tensor {
 public:
  Tensor() = default;
  Tensor(MemoryMeter& meter, MemoryCategory category, DType dtype, Shape shape)
      : buffer_(meter, category, static_cast<size_t>(shape.elements()) * SizeOf(dtype)),
        dtype_(dtype),
        shape_(shape) {}

  TensorView view() { return {buffer_.data(), dtype_, shape_}; }
  ConstTensorView view() const { return {buffer_.data(), dtype_, shape_}; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int64_t elements() const { return shape_.elements(); }
  template <class T>
  T* data() const {
    assert(kDTypeOf<T> == dtype_);
    return buffer_.as<T>();
  }
  void Zero();
  explicit operator bool() const { return buffer_.data() != nullptr; }

 private:
  Buffer buffer_;
  DType dtype_ = DType::kF32;
  Shape shape_;
};

}  // namespace ringwise
