#include "inference/document_map.h"

#include <algorithm>
#include <ranges>
#include <utility>
#include <vector>

namespace ringwise {
namespace {

// Of the sequence [begin, begin + length), by position in it.
Segments DocumentsOf(const TokenStream& stream, int64_t begin, int64_t length) {
  Segments segments;
  const auto add = [&](int64_t from, int64_t to) {
    from = std::max<int64_t>(0, from - begin);
    to = std::min(length, to - begin);
    if (from < to) segments.push_back({from, to, static_cast<int32_t>(segments.size())});
  };
  const auto ends = std::views::iota(int64_t{0}, stream.documents());
  const auto first = std::ranges::upper_bound(
      ends, begin, {}, [&](int64_t document) { return stream.DocumentBegin(document + 1); });
  for (int64_t document = *first; document < stream.documents(); ++document) {
    const int64_t from = stream.DocumentBegin(document);
    const int64_t separator = stream.DocumentBegin(document + 1) - 1;
    if (from >= begin + length) break;
    add(from, separator);
    add(separator, separator + 1);
  }
  return segments;
}

}  // namespace

std::shared_ptr<const SegmentMap> DocumentMap(const TokenStream& stream,
                                              std::span<const int64_t> begins, int64_t length) {
  std::vector<Segments> sequences;
  sequences.reserve(begins.size());
  bool packed = false;
  for (const int64_t begin : begins) {
    sequences.push_back(DocumentsOf(stream, begin, length));
    packed = packed || sequences.back().size() > 1;
  }
  if (!packed) return nullptr;
  std::vector<Segments> keys = sequences;
  return std::make_shared<SegmentMap>(std::move(sequences), std::move(keys));
}

}  // namespace ringwise
