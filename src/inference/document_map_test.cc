#include "inference/document_map.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

namespace ringwise {
namespace {

// Documents of so many bytes, a separator after each.
class LengthsStream : public TokenStream {
 public:
  explicit LengthsStream(const std::vector<int64_t>& bytes) {
    for (const int64_t count : bytes) begins_.push_back(begins_.back() + count + 1);
  }
  int64_t tokens() const override { return begins_.back(); }
  int64_t documents() const override { return static_cast<int64_t>(begins_.size()) - 1; }
  void Read(int64_t /*begin*/, int64_t /*stride*/, std::span<int32_t> /*out*/) const override {}
  int64_t DocumentBegin(int64_t index) const override {
    return begins_[static_cast<size_t>(index)];
  }

 private:
  std::vector<int64_t> begins_ = {0};
};

TEST(DocumentMap, SeparatorsStandAlone) {
  const LengthsStream stream({3, 1, 5});  // 3 sep 1 sep 5 sep: separators at 3, 5 and 11
  const std::array<int64_t, 2> begins = {0, 5};
  const auto map = DocumentMap(stream, begins, 7);
  ASSERT_NE(map, nullptr);
  EXPECT_EQ(map->queries(0), (Segments{{0, 3, 0}, {3, 4, 1}, {4, 5, 2}, {5, 6, 3}, {6, 7, 4}}));
  EXPECT_EQ(map->queries(1), (Segments{{0, 1, 0}, {1, 6, 1}, {6, 7, 2}}));
  EXPECT_EQ(map->keys(0), map->queries(0));
  EXPECT_EQ(map->keys(1), map->queries(1));
}

TEST(DocumentMap, NothingToHideInOneDocument) {
  const LengthsStream stream({30, 40});
  for (const int64_t begin : {0, 20, 31, 60}) {
    EXPECT_EQ(DocumentMap(stream, std::array{begin}, 10), nullptr) << begin;
  }
  EXPECT_EQ(DocumentMap(stream, std::array<int64_t, 2>{0, 40}, 30), nullptr);
  const auto map = DocumentMap(stream, std::array<int64_t, 2>{0, 25}, 10);
  ASSERT_NE(map, nullptr);
  EXPECT_EQ(map->queries(0), (Segments{{0, 10, 0}}));
  EXPECT_EQ(map->queries(1), (Segments{{0, 5, 0}, {5, 6, 1}, {6, 10, 2}}));
}

}  // namespace
}  // namespace ringwise
