#include "ringwise/tensor.h"

#include <cstring>

#include "ringwise/error.h"

namespace ringwise {

Shape::Shape(std::initializer_list<int64_t> extents) {
  if (extents.size() > kMaxRank) {
    throw ShapeError("a shape has at most 4 extents, found " + std::to_string(extents.size()));
  }
  for (const int64_t extent : extents) {
    if (extent < 0) {
      throw ShapeError("an extent must be 0 or more, found " + std::to_string(extent));
    }
    extents_[rank_++] = extent;
  }
}

int64_t Shape::elements() const {
  int64_t product = 1;
  for (int axis = 0; axis < rank_; ++axis) product *= extents_[axis];
  return product;
}

std::string Shape::ToString() const {
  std::string text = "[";
  for (int axis = 0; axis < rank_; ++axis) {
    if (axis > 0) text += ", ";
    text += std::to_string(extents_[axis]);
  }
  return text + "]";
}

template <class Void>
BasicTensorView<Void> BasicTensorView<Void>::Slice(int axis, int64_t begin, int64_t count) const {
  if (axis < 0 || axis >= shape.rank() || begin < 0 || count < 0 || begin + count > shape[axis]) {
    throw ShapeError("cannot take " + std::to_string(count) + " from " + std::to_string(begin) +
                     " along axis " + std::to_string(axis) + " of " + shape.ToString());
  }
  std::array<int64_t, Shape::kMaxRank> extents{};
  for (int a = 0; a < shape.rank(); ++a) extents[a] = a == axis ? count : shape[a];
  BasicTensorView view = *this;
  switch (shape.rank()) {
    case 1:
      view.shape = {extents[0]};
      break;
    case 2:
      view.shape = {extents[0], extents[1]};
      break;
    case 3:
      view.shape = {extents[0], extents[1], extents[2]};
      break;
    default:
      view.shape = {extents[0], extents[1], extents[2], extents[3]};
      break;
  }
  const auto distance = begin * strides[axis] * static_cast<int64_t>(SizeOf(dtype));
  view.memory = static_cast<Byte*>(memory) + distance;
  return view;
}

template struct BasicTensorView<void>;
template struct BasicTensorView<const void>;

void Tensor::Zero() {
  if (buffer_.size() > 0) std::memset(buffer_.data(), 0, buffer_.size());
}

}  // namespace ringwise
