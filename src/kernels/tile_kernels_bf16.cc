#include "kernels/tile_kernels.h"

namespace ringwise {

const TileKernels<bf16>* NativeBf16TileKernels() { return nullptr; }

}  // namespace ringwise
