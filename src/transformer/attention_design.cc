#include "ringwise/attention_design.h"

#include <fmt/format.h>

#include "ringwise/error.h"

namespace ringwise {

std::string_view Name(AttentionDesign design) {
  switch (design) {
    case AttentionDesign::kVanilla:
      return "vanilla";
    case AttentionDesign::kMemoryEfficient:
      return "memory_efficient";
    case AttentionDesign::kBlockwise:
      return "blockwise";
    case AttentionDesign::kRing:
      return "ring";
  }
  return "";
}

std::vector<AttentionDesign> AttentionDesigns() {
  return {AttentionDesign::kVanilla, AttentionDesign::kMemoryEfficient, AttentionDesign::kBlockwise,
          AttentionDesign::kRing};
}

AttentionDesign ParseAttentionDesign(std::string_view name) {
  for (const AttentionDesign design : AttentionDesigns()) {
    if (name == Name(design)) return design;
  }
  throw UsageError(fmt::format(
      "attention must be vanilla, memory_efficient, blockwise or ring, found \"{}\"", name));
}

void CheckRingOf(AttentionDesign design, int ring_size) {
  if (design == AttentionDesign::kRing || ring_size == 1) return;
  throw UsageError(
      fmt::format("{} attention holds whole sequences and needs a ring of 1, found a ring of {}: "
                  "use the ring design, or --ring 1",
                  Name(design), ring_size));
}

}  // namespace ringwise
