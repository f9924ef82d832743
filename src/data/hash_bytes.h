#pragma once

#include <cstdint>
#include <string_view>

namespace ringwise {

inline constexpr uint64_t kEmptyHash = 0xCBF29CE484222325;

// FNV-1a of `bytes`, after what `hash` is of.
inline uint64_t HashBytes(std::string_view bytes, uint64_t hash) {
  for (const char c : bytes) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  }
  return hash;
}

}  // namespace ringwise
