#include "ringwise/synthetic.h"

#include "kernels/normal_rows.h"
#include "ringwise/random.h"

namespace ringwise {

void SyntheticRows(Context& context, uint64_t seed, int64_t index, const Positions& positions,
                   TensorView rows) {
  // Another stream than those that the same seed gives to parameters, dropout and order.
  constexpr uint64_t kSampleStream = 0x73796e7468657430;
  NormalRows(context, DeriveSeed(seed, kSampleStream), index, positions, rows);
}

}  // namespace ringwise
