#include "inference/document_map.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace ringwise {
namespace {

// The document that holds the token, or its separator.
int64_t DocumentAt(const TokenStream& stream, int64_t token) {
  int64_t first = 0;
  int64_t last = stream.documents() - 1;
  while (first < last) {
    const int64_t middle = first + (last - first) / 2;
    if (stream.DocumentBegin(middle + 1) <= token) {
      first = middle + 1;
    } else {
      last = middle;
    }
  }
  return first;
}

// Of the sequence [begin, begin + length), by position in it.
Segments DocumentsOf(const TokenStream& stream, int64_t begin, int64_t length) {
  Segments segments;
  const auto add = [&](int64_t from, int64_t to) {
    from = std::max<int64_t>(0, from - begin);
    to = std::min(length, to - begin);
    if (from < to) segments.push_back({from, to, static_cast<int32_t>(segments.size())});
  };
  for (int64_t document = DocumentAt(stream, begin); document < stream.documents(); ++document) {
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
