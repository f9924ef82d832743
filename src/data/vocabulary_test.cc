#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/temporary_folder.h"
#include "formats/file_io.h"
#include "ringwise/documents.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<LabelledText> kTexts = {{"1", "the cat and the hat", 0},
                                          {"2", "And the dog, the CAT!", 1}};

TEST(Vocabulary, OrdersByCountThenAlphabet) {
  const Vocabulary all(kTexts, 100);
  EXPECT_THAT(all.words(), ElementsAre("the", "and", "cat", "!", "dog", "hat"));
  EXPECT_EQ(all.size(), 8);
  const Vocabulary four(kTexts, 4);
  EXPECT_THAT(four.words(), ElementsAre("the", "and"));
  EXPECT_EQ(four.size(), 4);
}

TEST(Vocabulary, GivesTokensOfAText) {
  const Vocabulary vocabulary(kTexts, 5);
  EXPECT_THAT(vocabulary.Tokens("The bird and cat"), ElementsAre(2, Vocabulary::kUnknown, 3, 4));
  EXPECT_TRUE(vocabulary.Tokens("").empty());
}

TEST(Vocabulary, IsTheSameWhenReadAgain) {
  const TemporaryFolder folder;
  const Vocabulary vocabulary(kTexts, 7);
  vocabulary.Write(folder.path());
  EXPECT_EQ(ReadTextFile(folder.path() + "/vocabulary.txt"), "the\nand\ncat\n!\ndog\n");
  const Vocabulary read = Vocabulary::Read(folder.path());
  EXPECT_EQ(read.words(), vocabulary.words());
  EXPECT_EQ(read.Tokens("dog! cat"), vocabulary.Tokens("dog! cat"));
}

template <class E, class F>
std::string ErrorOf(F&& run) {
  try {
    run();
  } catch (const E& error) {
    return error.what();
  }
  return "no error";
}

TEST(Vocabulary, RefusesWhatCannotBe) {
  EXPECT_THAT(ErrorOf<UsageError>([] { Vocabulary(kTexts, 2); }), HasSubstr("3 to 2147483647"));
  EXPECT_THAT(ErrorOf<UsageError>([] { Vocabulary({}, 10); }), HasSubstr("no word in 0 texts"));
  EXPECT_THAT(ErrorOf<UsageError>([] {
                Vocabulary({"a", "b", "a"});
              }),
              HasSubstr("word 3 of the vocabulary, 'a', was there before"));
  EXPECT_THAT(ErrorOf<UsageError>([] { Vocabulary(std::vector<std::string>{}); }),
              HasSubstr("at least one word"));
}

TEST(Vocabulary, RefusesDamagedFiles) {
  const TemporaryFolder folder;
  const auto error = [&](const std::string& text) {
    WriteTextFile(folder.path() + "/vocabulary.txt", text);
    return ErrorOf<FileError>([&] { Vocabulary::Read(folder.path()); });
  };
  EXPECT_EQ(error("a\nb\n"), "no error");
  EXPECT_THAT(error("a\nb"), HasSubstr("vocabulary.txt: does not end with a newline"));
  EXPECT_THAT(error(""), HasSubstr("does not end with a newline"));
  EXPECT_THAT(error("a\n\nb\n"), HasSubstr("vocabulary.txt: word 2 of the vocabulary is ''"));
  EXPECT_THAT(error("a\nb\r\n"), HasSubstr("word 2 of the vocabulary is 'b\\x0d'"));
  EXPECT_THAT(error("a\na\n"), HasSubstr("was there before"));
  EXPECT_THAT(ErrorOf<FileError>([&] { Vocabulary::Read(folder.path() + "/none"); }),
              HasSubstr("none/vocabulary.txt: cannot open"));
}

}  // namespace
}  // namespace ringwise
