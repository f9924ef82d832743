#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace ringwise {

// The types of storage and of the operands of matrix products. Sums are always f32.
enum class DType { kF32, kBF16 };

// A bfloat16: the upper half of an f32. Arithmetic is done in f32; this type only stores.
struct bf16 {
  uint16_t bits = 0;

  bf16() = default;
  // Rounds to nearest, ties to even; overflow gives infinity; a NaN stays a (quiet) NaN.
  explicit bf16(float value) {
    const uint32_t word = std::bit_cast<uint32_t>(value);
    const bool is_nan = (word & 0x7fffffffu) > 0x7f800000u;
    bits = is_nan ? static_cast<uint16_t>((word >> 16) | 0x40u)
                  : static_cast<uint16_t>((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
  }
  explicit operator float() const {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
};

constexpr size_t SizeOf(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }
constexpr std::string_view Name(DType dtype) { return dtype == DType::kF32 ? "f32" : "bf16"; }

template <class T>
struct DTypeOfImpl;
template <>
struct DTypeOfImpl<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct DTypeOfImpl<bf16> {
  static constexpr DType value = DType::kBF16;
};
template <class T>
inline constexpr DType kDTypeOf = DTypeOfImpl<T>::value;

// Calls `function` with a value of the C++ type that stores `dtype`:
//   DispatchDType(view.dtype, [&]<class T>(T) { Fill(view.data<T>(), n); });
template <class Function>
decltype(auto) DispatchDType(DType dtype, Function&& function) {
  return dtype == DType::kF32 ? function(float{}) : function(bf16{});
}

}  // namespace ringwise
