#pragma once

#include <cstdint>

#include "ringwise/context.h"
#include "ringwise/tensor.h"

namespace ringwise {

// One thread: to[i] = from[i], rounded to nearest even where `to` is narrower.
void Convert(const float* from, float* to, int64_t count);
void Convert(const float* from, bf16* to, int64_t count);
void Convert(const bf16* from, float* to, int64_t count);
void Convert(const bf16* from, bf16* to, int64_t count);

// The same for contiguous views of one shape, over the team.
void Convert(Context& context, ConstTensorView from, TensorView to);

// to += from, elementwise; both contiguous, of one shape, any types. Over the team.
void Add(Context& context, ConstTensorView from, TensorView to);

}  // namespace ringwise
