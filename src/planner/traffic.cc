#include "planner/traffic.h"

#include "planner/model_shape.h"

namespace ringwise {

RowTraffic ForwardTraffic(const ModelConfig& model, DType dtype) {
  const ModelShape shape(model);
  return {.block = 2 * shape.key * static_cast<double>(SizeOf(dtype))};
}

RowTraffic BackwardTraffic(const ModelConfig& model, DType dtype) {
  const ModelShape shape(model);
  const auto size = static_cast<double>(SizeOf(dtype));
  const RowTraffic keys{.block = 2 * shape.key * size, .gradient = 2 * shape.key * 4};
  const RowTraffic queries{.queries = true,
                           .block = 2 * shape.query * size + 8 * shape.heads,
                           .gradient = 4 * shape.query};
  return queries.block + queries.gradient < keys.block + keys.gradient ? queries : keys;
}

}  // namespace ringwise
