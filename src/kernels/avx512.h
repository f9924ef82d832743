#pragma once

namespace ringwise {

// Whether this CPU has AVX-512 (F, BW, CD, DQ, VL) and LimitToAvx2 has not forbidden it. For code
// that is dispatched by hand.
bool MayUseAvx512();

}  // namespace ringwise
