#include "transformer/rotate_heads.h"

#include "kernels/rotary.h"
#include "transformer/row_blocks.h"

namespace ringwise {

void RotateHeads(Context& context, const SequenceShard& shard, int64_t begin, TensorView rows,
                 int64_t heads, int64_t head_dim, bool back) {
  ForEachRowBlock(rows.shape[0], kBlockRows, [&](int64_t first, int64_t count) {
    const RotaryTable table(context, shard.PositionsOfRows(begin + first, count), head_dim,
                            shard.rope_theta);
    TensorView view = rows.Slice(0, first, count);
    view.shape = {count, heads, head_dim};
    view.strides = {rows.strides[0], head_dim, 1};
    if (back) {
      ApplyRotaryInverse(context, table, 0, view);
    } else {
      ApplyRotary(context, table, 0, view);
    }
  });
}

}  // namespace ringwise
