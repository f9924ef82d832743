#include "comm/check_message.h"

#include <fmt/format.h>

#include "ringwise/error.h"

namespace ringwise {

void CheckMessage(std::string_view what, int rank, int tag, int size) {
  if (rank < 0 || rank >= size) {
    throw UsageError(fmt::format("{} must be a rank from 0 to {}, found {}", what, size - 1, rank));
  }
  if (tag < 0 || tag >= 1 << 15) {
    throw UsageError(fmt::format("a tag must be from 0 to {}, found {}", (1 << 15) - 1, tag));
  }
}

void CheckReceivedSize(size_t expected, size_t found, int source, int tag) {
  if (expected == found) return;
  throw ShapeError(
      fmt::format("expected {} bytes from rank {} with tag {}, found {}: the ranks do not agree on "
                  "shapes",
                  expected, source, tag, found));
}

}  // namespace ringwise
