#pragma once

#include <cstdint>
#include <span>

#include "ringwise/llama.h"

namespace ringwise {

// x_i = embedding[token_i], rounded to x's type. x [rows, hidden]; tokens are in the vocabulary.
void EmbedForward(Context& context, const Parameter& embedding, std::span<const int32_t> tokens,
                  TensorView x);
// x_i += embedding[token_i], but where the token is negative.
void EmbedAdd(Context& context, const Parameter& embedding, std::span<const int32_t> tokens,
              TensorView x);
// embedding.gradient[token_i] += dx_i, in the rows' order whatever the team, but where the token is
// negative.
void EmbedBackward(Context& context, std::span<const int32_t> tokens, ConstTensorView x_gradient,
                   Parameter& embedding);

}  // namespace ringwise
