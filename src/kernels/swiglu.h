#pragma once

#include "ringwise/context.h"
#include "ringwise/tensor.h"

namespace ringwise {

// The gated unit between the two products of a feed-forward [arXiv 2002.05202]:
//   hidden_ij = silu(gate_ij) up_ij,   silu(g) = g / (1 + exp(-g))
// gate_up [rows, 2 ffn]: gate's columns, then up's, as one fused product leaves them; hidden
// [rows, ffn]; f32 or bf16 alike, rows may be strided. Throws ShapeError. Team-parallel over rows.
void SwiGluForward(Context& context, ConstTensorView gate_up, TensorView hidden);

// With s = 1 / (1 + exp(-gate)):
//   d_gate = d_hidden up (s + gate s (1 - s));   d_up = d_hidden gate s
// Overwrites gate_up with its gradient.
void SwiGluBackward(Context& context, ConstTensorView hidden_gradient, TensorView gate_up);

}  // namespace ringwise
