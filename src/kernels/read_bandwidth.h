#pragma once

#include <cstdint>
#include <span>

namespace ringwise {

// Reads every word once, as fast as one thread can; the value only keeps that from being optimised
// away. The number of words is a multiple of 1024.
uint32_t ReadWords(std::span<const uint32_t> words);

}  // namespace ringwise
