#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include "core/temporary_folder.h"
#include "data/file_list.h"
#include "data/file_stream.h"
#include "ringwise/corpus.h"
#include "ringwise/error.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class DataTest : public ::testing::Test {
 protected:
  void Write(const std::string& name, const std::string& text) const {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name, std::ios::binary) << text;
  }
  std::string Path(const std::string& name = "") const { return (root_ / name).string(); }
  std::vector<std::string> Names(const std::vector<std::string>& paths) const {
    std::vector<std::string> names;
    for (const TextFile& file : ListTextFiles(paths).files) names.push_back(file.name);
    return names;
  }

  TemporaryFolder temporary_;
  const fs::path root_ = temporary_.path();
};

std::string Text(const TokenStream& stream) {
  std::vector<int32_t> tokens(static_cast<size_t>(stream.tokens()));
  stream.Read(0, 1, tokens);
  std::string text;
  for (const int32_t token : tokens) {
    text += token == kSeparatorToken ? '|' : static_cast<char>(token);
  }
  return text;
}

// A stream of tokens in memory.
class VectorStream : public TokenStream {
 public:
  explicit VectorStream(const std::string& text) {
    for (const char c : text) {
      tokens_.push_back(c == '|' ? kSeparatorToken : static_cast<unsigned char>(c));
    }
  }
  int64_t tokens() const override { return static_cast<int64_t>(tokens_.size()); }
  int64_t documents() const override { return 1; }
  void Read(int64_t begin, int64_t stride, std::span<int32_t> out) const override {
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] = tokens_.at(static_cast<size_t>(begin + static_cast<int64_t>(i) * stride));
    }
  }
  int64_t DocumentBegin(int64_t index) const override { return index == 0 ? 0 : tokens(); }

 private:
  std::vector<int32_t> tokens_;
};

TEST_F(DataTest, ListsRecursivelyInNameOrder) {
  Write("b/z.txt", "z");
  Write("b/a/deep.txt", "deep");
  Write("a.txt", "a");
  Write("empty", "");
  Write("binary", std::string("ab\0c", 4));
  Write("late_zero", std::string(8192, 'x') + std::string(1, '\0'));
  fs::create_symlink("a.txt", root_ / "link_to_a");
  fs::create_symlink("..", root_ / "b" / "loop");
  fs::create_symlink("nowhere", root_ / "broken");
  fs::create_symlink("self", root_ / "self");
  fs::create_hard_link(root_ / "a.txt", root_ / "same_as_a");
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);
  EXPECT_THAT(Names({Path()}), ElementsAre("a.txt", "b/a/deep.txt", "b/z.txt", "late_zero"));
  EXPECT_EQ(ListTextFiles({Path()}).binary_skipped, 1);
  EXPECT_THAT(Names({Path(), Path("b"), Path("a.txt")}),
              ElementsAre("a.txt", "b/a/deep.txt", "b/z.txt", "late_zero"));
  EXPECT_THAT(Names({Path("b"), Path("link_to_a")}),
              ElementsAre("a/deep.txt", "loop/a.txt", "loop/late_zero", "z.txt"))
      << "the loop leads to the folder above";
}

TEST_F(DataTest, ClearErrors) {
  const auto error_of = [](const std::vector<std::string>& paths) -> std::string {
    try {
      Corpus corpus({.paths = paths});
    } catch (const FileError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(error_of({Path("absent")}), HasSubstr("absent: cannot read: No such file"));
  EXPECT_THAT(error_of({Path()}), HasSubstr("no text in " + Path()));
  Write("binary", std::string(3, '\0'));
  EXPECT_THAT(error_of({Path()}), HasSubstr("1 binary"));
  EXPECT_THAT(error_of({}), HasSubstr("no paths"));
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);
  EXPECT_THAT(error_of({Path("pipe")}), HasSubstr("neither a file nor a folder"));
  EXPECT_THROW(Corpus({.paths = {Path()}, .heldout_fraction = 1.0}), UsageError);
}

TEST_F(DataTest, StreamSeparatesDocumentsAndReadsWithStride) {
  Write("a", "abc");
  Write("b", "\xff");
  const FileTokenStream stream({{Path("a"), 0, 3}, {Path("b"), 0, 1}, {Path("a"), 1, 2}},
                               std::make_shared<MapCache>(1));
  EXPECT_EQ(Text(stream), "abc|\xff|bc|");
  EXPECT_EQ(stream.tokens(), 9);
  EXPECT_EQ(stream.documents(), 3);
  EXPECT_EQ(stream.DocumentBegin(1), 4);
  EXPECT_EQ(stream.DocumentBegin(3), 9);
  for (int64_t begin = 0; begin < 9; ++begin) {
    for (int64_t stride = 1; stride < 12; ++stride) {
      std::vector<int32_t> out(static_cast<size_t>((8 - begin) / stride + 1));
      stream.Read(begin, stride, out);
      for (size_t i = 0; i < out.size(); ++i) {
        int32_t one = -1;
        stream.Read(begin + static_cast<int64_t>(i) * stride, 1, {&one, 1});
        EXPECT_EQ(out[i], one);
      }
    }
  }
}

TEST_F(DataTest, MoreFilesThanMayBeOpen) {
  constexpr int kFiles = 3000;
  for (int i = 0; i < kFiles; ++i) Write(std::to_string(i), fmt::format("<{}>", i));
  const Corpus corpus({.paths = {Path()}, .heldout_fraction = 0.1});
  EXPECT_EQ(corpus.files(), kFiles);
  EXPECT_EQ(corpus.heldout().documents(), kFiles / 10);
  EXPECT_EQ(corpus.train().documents(), kFiles - kFiles / 10);
  EXPECT_EQ(corpus.train().tokens() + corpus.heldout().tokens(), corpus.bytes() + kFiles);
  // Several threads at once: the cache is thread-safe.
  const std::string expected = Text(corpus.train());
  std::vector<std::string> texts(4);
  std::vector<std::thread> threads;
  threads.reserve(texts.size());
  for (std::string& text : texts) threads.emplace_back([&] { text = Text(corpus.train()); });
  for (std::thread& thread : threads) thread.join();
  for (const std::string& text : texts) EXPECT_EQ(text, expected);

  // Every document is on one side, once.
  std::set<std::string> seen;
  for (const std::string& text : {expected, Text(corpus.heldout())}) {
    size_t begin = 0;
    for (size_t end = 0; (end = text.find('|', begin)) != std::string::npos; begin = end + 1) {
      EXPECT_TRUE(seen.insert(text.substr(begin, end - begin)).second);
    }
  }
  EXPECT_EQ(seen.size(), static_cast<size_t>(kFiles));
}

TEST_F(DataTest, SplitDependsOnSeedAndNamesAlone) {
  for (int i = 0; i < 40; ++i) Write("one/" + std::to_string(i), std::to_string(i));
  fs::copy(root_ / "one", root_ / "elsewhere", fs::copy_options::recursive);
  const auto heldout = [&](const std::string& folder, uint64_t seed) {
    return Text(
        Corpus({.paths = {Path(folder)}, .heldout_fraction = 0.25, .seed = seed}).heldout());
  };
  EXPECT_EQ(heldout("one", 1), heldout("elsewhere", 1));
  EXPECT_NE(heldout("one", 1), heldout("one", 2));
  // Adding a file leaves the others in their order.
  const std::string before = Text(Corpus({.paths = {Path("one")}, .heldout_fraction = 0}).train());
  Write("one/new", "new");
  std::string after = Text(Corpus({.paths = {Path("one")}, .heldout_fraction = 0}).train());
  const size_t added = after.find("new|");
  ASSERT_NE(added, std::string::npos);
  EXPECT_EQ(after.erase(added, 4), before);
}

TEST_F(DataTest, TheFingerprintSeesOtherNamesSizesBytesAndSplits) {
  for (int i = 0; i < 20; ++i) Write(fmt::format("text/{}", i), std::string(100 + i, 'a'));
  Write("text/long", std::string(100000, 'a'));
  const auto fingerprint = [&](const char* folder, double heldout = 0.1, uint64_t seed = 1) {
    return Corpus({.paths = {Path(folder)}, .heldout_fraction = heldout, .seed = seed})
        .fingerprint();
  };
  const uint64_t first = fingerprint("text");
  EXPECT_EQ(fingerprint("text"), first);
  fs::copy(Path("text"), Path("moved"), fs::copy_options::recursive);
  EXPECT_EQ(fingerprint("moved"), first);
  EXPECT_NE(fingerprint("text", 0.2), first);
  EXPECT_NE(fingerprint("text", 0.1, 2), first);
  for (const int64_t at : {0, 8000, 50000, 99999}) {
    std::string changed(100000, 'a');
    changed[static_cast<size_t>(at)] = 'b';
    Write("moved/long", changed);
    EXPECT_NE(fingerprint("moved"), first) << at;
  }
  Write("moved/long", std::string(100000, 'a'));
  EXPECT_EQ(fingerprint("moved"), first);
  fs::rename(Path("moved/3"), Path("moved/33"));
  EXPECT_NE(fingerprint("moved"), first);
}

TEST_F(DataTest, FewDocuments) {
  Write("a", "0123456789");
  const Corpus one({.paths = {Path()}, .heldout_fraction = 0.2});
  EXPECT_EQ(Text(one.train()), "01234567|");
  EXPECT_EQ(Text(one.heldout()), "89|");
  EXPECT_EQ(one.files(), 1);
  EXPECT_EQ(Corpus({.paths = {Path()}, .heldout_fraction = 0.01}).heldout().tokens(), 0);
  Write("b", "b");
  const Corpus two({.paths = {Path()}, .heldout_fraction = 0.01});
  EXPECT_EQ(two.train().documents(), 1);
  EXPECT_EQ(two.heldout().documents(), 1);
  const Corpus all({.paths = {Path()}, .heldout_fraction = 0});
  EXPECT_EQ(all.train().documents(), 2);
  EXPECT_EQ(all.heldout().documents(), 0);
  EXPECT_EQ(all.heldout().tokens(), 0);
}

TEST_F(DataTest, AFileThatShrinks) {
  Write("a", std::string(100'000, 'a'));
  const Corpus before({.paths = {Path()}, .heldout_fraction = 0});
  const Corpus during({.paths = {Path()}, .heldout_fraction = 0});
  int32_t token = 0;
  during.train().Read(99'999, 1, {&token, 1});
  EXPECT_EQ(token, 'a');
  fs::resize_file(root_ / "a", 10);
  EXPECT_THROW(before.train().Read(99'999, 1, {&token, 1}), FileError);
  EXPECT_THROW(during.train().Read(99'999, 1, {&token, 1}), FileError);
}

TEST_F(DataTest, LargerThanMemory) {
  Write("a", std::string(8192, 'a'));
  constexpr int64_t kBytes = int64_t{1} << 42;  // a hole: it takes no room on the disk
  std::error_code error;
  fs::resize_file(root_ / "a", static_cast<uintmax_t>(kBytes), error);
  if (error) GTEST_SKIP() << "no file of 4 TB here: " << error.message();
  const Corpus corpus({.paths = {Path()}, .heldout_fraction = 0});
  EXPECT_EQ(corpus.train().tokens(), kBytes + 1);
  std::vector<int32_t> out(3, -1);
  corpus.train().Read(kBytes - 2, 1, out);
  EXPECT_THAT(out, ElementsAre(0, 0, kSeparatorToken));
}

TEST(ContextSampler, EachEpochShufflesAllWindowsAndShifts) {
  for (const int64_t context : {1, 7, 100}) {
    for (const int64_t tokens : {context + 1, context + 2, 2 * context + 1, 2 * context + 2,
                                 10 * context + 5, 5000 * context + 3}) {
      const ContextSampler sampler(tokens, context, 3);
      const int64_t windows = std::max<int64_t>(1, (tokens - 1) / context - 1);
      std::set<int64_t> shifts;
      std::vector<int64_t> first_epoch;
      for (int64_t epoch = 0; epoch < 3; ++epoch) {
        std::vector<int64_t> begins;
        for (int64_t i = 0; i < windows; ++i) {
          begins.push_back(sampler.Begin(epoch * windows + i));
          EXPECT_GE(begins.back(), 0);
          EXPECT_LE(begins.back() + context + 1, tokens);
        }
        if (windows > 100) {
          EXPECT_FALSE(std::is_sorted(begins.begin(), begins.end()));
          EXPECT_NE(begins, first_epoch);
        }
        first_epoch = begins;
        std::sort(begins.begin(), begins.end());
        shifts.insert(begins[0]);
        for (size_t i = 1; i < begins.size(); ++i) EXPECT_EQ(begins[i], begins[i - 1] + context);
      }
      if (context == 100 && windows > 1) {
        EXPECT_GT(shifts.size(), 1u);
      }
    }
  }
  EXPECT_EQ(ContextSampler(1000, 10, 5).Begin(77), ContextSampler(1000, 10, 5).Begin(77));
  EXPECT_NE(ContextSampler(100'000, 10, 5).Begin(77), ContextSampler(100'000, 10, 6).Begin(77));
}

TEST(ContextSampler, TooLittleText) {
  try {
    ContextSampler(100, 100, 0);
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), HasSubstr("100 tokens"));
    EXPECT_THAT(error.what(), HasSubstr("101"));
  }
  EXPECT_THROW(ContextSampler(100, 0, 0), UsageError);
}

// By hand. Training text "aab|": counts by context (| before the start)
//   none: a 2, b 1, | 1          -> 4 tokens, 3 kinds
//   |: a;  a: a, b;  b: |
//   ||: a;  |a: a;  aa: b;  ab: |
// Held out "aab|": a is given; predicted are a after |a, b after aa, | after ab.
TEST(OrderTwo, HandComputed) {
  const VectorStream text("aab|");
  const double uniform = 1.0 / 257;
  const double a0 = (2 + 3 * uniform) / 7;
  const double b0 = (1 + 3 * uniform) / 7;
  const double s0 = b0;
  const double a_after_a = (1 + 2 * a0) / 4;
  const double b_after_a = (1 + 2 * b0) / 4;
  const double s_after_b = (1 + 1 * s0) / 2;
  const double a2 = (1 + a_after_a) / 2;
  const double b2 = (1 + b_after_a) / 2;
  const double s2 = (1 + s_after_b) / 2;
  const double bits = -std::log2(a2) - std::log2(b2) - std::log2(s2);
  EXPECT_NEAR(OrderTwoBitsPerByte(text, text, 1000, 1000), bits / 2, 1e-12);
  EXPECT_NEAR(OrderTwoBitsPerByte(text, text, 1000, 2), (-std::log2(a2) - std::log2(b2)) / 2,
              1e-12);
  // Nothing known: every token costs log2 257, the separator too.
  EXPECT_NEAR(OrderTwoBitsPerByte(text, text, 0, 1000), 1.5 * std::log2(257.0), 1e-12);
  // A context never seen falls back to the shorter one: after xa, a is as after a.
  EXPECT_NEAR(OrderTwoBitsPerByte(text, VectorStream("xaa"), 1000, 1000),
              (-std::log2(a0) - std::log2(a_after_a)) / 2, 1e-12);
  EXPECT_THROW(OrderTwoBitsPerByte(text, VectorStream("a"), 10, 10), UsageError);
}

}  // namespace
}  // namespace ringwise
