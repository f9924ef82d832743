#include "data/words.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "ringwise/documents.h"

namespace ringwise {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(Words, AreLowerCaseRunsOfLettersAndDigits) {
  EXPECT_THAT(SplitWords("A film, the FILM of 3D-glasses (b2b)."),
              ElementsAre("a", "film", "the", "film", "of", "3d", "glasses", "b2b"));
  EXPECT_THAT(SplitWords(""), IsEmpty());
  EXPECT_THAT(SplitWords(" .,-\n\t\"'&;:"), IsEmpty());
}

TEST(Words, KeepInnerApostrophes) {
  EXPECT_THAT(SplitWords("don't 'quoted' dogs' rock'n'roll 80's ''"),
              ElementsAre("don't", "quoted", "dogs", "rock'n'roll", "80's"));
  EXPECT_THAT(SplitWords("don\u2019t \u2019tis it\u2019"), ElementsAre("don't", "tis", "it"));
}

TEST(Words, HaveLettersOfEveryScript) {
  EXPECT_THAT(SplitWords("Caf\u00e9 \u00c9T\u00c9 \u00dcber 3\u00d74 na\u00efve"),
              ElementsAre("caf\u00e9", "\u00e9t\u00e9", "\u00fcber", "3\u00d74", "na\u00efve"));
  EXPECT_THAT(SplitWords("\u6620\u753b \U0001f600 \u043c"),
              ElementsAre("\u6620\u753b", "\U0001f600", "\u043c"));
}

TEST(Words, AreSeparatedByPunctuationOfUnicode) {
  EXPECT_THAT(SplitWords("\u201cyes\u201d\u2014no\u2026\u00abwell\u00bb\u00a0so\u0085then"),
              ElementsAre("yes", "no", "well", "so", "then"));
}

TEST(Words, SurviveBytesThatAreNoUtf8) {
  EXPECT_THAT(SplitWords("ab\xe2"), ElementsAre("ab\xe2"));  // cut in a sequence
  EXPECT_THAT(SplitWords("\xe2\x80"), IsEmpty());
  EXPECT_THAT(SplitWords("\xc2"), IsEmpty());
  EXPECT_THAT(SplitWords("caf\xe9 OK \xc2OK"), ElementsAre("caf\xe9", "ok", "ok"));  // Latin-1
  EXPECT_THAT(SplitWords("\xff\xf0"), ElementsAre("\xff\xf0"));
  EXPECT_THAT(SplitWords(std::string("a\0b", 3)), ElementsAre("a", "b"));
}

TEST(Words, ShowTheShapeOfAmounts) {
  EXPECT_THAT(SplitWords("1,234,567 12.5 0.75 1987 100"),
              ElementsAre("0,000,000", "00.0", "0.00", "0000", "000"));
  EXPECT_THAT(SplitWords("1. 5, 3.x .5 644 vs.....733,"),
              ElementsAre("1", "5", "3", "x", "5", "000", "vs", "000"));
}

TEST(Words, KeepSmallNumbersAndFractions) {
  EXPECT_THAT(SplitWords("7/10 10 3-1/2 99 8.5/10 1/1000"),
              ElementsAre("7/10", "10", "3", "1/2", "99", "0.0/00", "0/0000"));
  EXPECT_THAT(SplitWords("1980s 1987's"), ElementsAre("1980s", "1987's"));  // have letters
}

TEST(Words, AreMarksOfExclamationAndQuestion) {
  EXPECT_THAT(SplitWords("Why?! No!!!"), ElementsAre("why", "?", "!", "no", "!"));
}

TEST(Words, AreSeparatedByTags) {
  EXPECT_THAT(SplitWords("good.<br /><br />The<i>best</i>!"),
              ElementsAre("good", "the", "best", "!"));
  EXPECT_THAT(SplitWords("Apple Computer Inc <AAPL> said <br"),
              ElementsAre("apple", "computer", "inc", "aapl", "said", "br"));
  EXPECT_THAT(SplitWords("a <b <c> d"), ElementsAre("a", "b", "d"));
  EXPECT_THAT(SplitWords("<a" + std::string(100, ' ') + ">b"), ElementsAre("a", "b"));
  EXPECT_THAT(SplitWords("< 3 </> <3 <"), ElementsAre("3", "3"));
}

}  // namespace
}  // namespace ringwise
