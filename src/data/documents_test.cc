#include "ringwise/documents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "core/temporary_folder.h"
#include "data/documents_case.h"
#include "data/newswires.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class DocumentsTest : public ::testing::Test {
 protected:
  std::string Path(const std::string& name) const {
    return (fs::path(temporary_.path()) / name).string();
  }
  // Of what `files` give as a folder.
  std::string ErrorOf(const FileTree& files, LabelledTexts (*read)(const std::string&)) const {
    const std::string folder = Path("broken");
    fs::remove_all(folder);
    fs::create_directory(folder);
    WriteFolder(files, folder);
    try {
      read(folder);
    } catch (const FileError& error) {
      EXPECT_EQ(std::string_view(error.what()).find('\n'), std::string_view::npos);
      return error.what();
    }
    return "no error";
  }

  TemporaryFolder temporary_;
};

LabelledTexts ReadReutersOfSeed7(const std::string& path) { return ReadReuters(path, 7); }

FileTree Without(FileTree files, const std::string& prefix) {
  std::erase_if(files, [&](const auto& file) { return file.first.starts_with(prefix); });
  return files;
}

std::vector<std::string> Names(std::span<const LabelledText> texts) {
  std::vector<std::string> names;
  for (const LabelledText& text : texts) names.push_back(text.name);
  return names;
}

TEST_F(DocumentsTest, ImdbIsTheFourFoldersInNameOrder) {
  WriteFolder(SmallImdb(11), Path("aclImdb"));
  const LabelledTexts texts = ReadImdb(Path("aclImdb"));
  EXPECT_THAT(texts.classes, ElementsAre("neg", "pos"));
  ASSERT_EQ(texts.train.size(), 22u);
  ASSERT_EQ(texts.test.size(), 22u);
  const std::vector<std::string> names = Names(texts.test);
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
  EXPECT_EQ(names[2], "test/neg/1_2.txt");  // after 10_2
  EXPECT_EQ(texts.train[10].label, 0);
  EXPECT_EQ(texts.train[11].label, 1);
  EXPECT_EQ(texts.train[11].text, "train pos number 0<br /><br />The end.");
}

TEST_F(DocumentsTest, FolderAndArchiveGiveTheSame) {
  const FileTree imdb = SmallImdb(12);
  WriteFolder(imdb, Path("aclImdb"));
  WriteArchive(imdb, Path("imdb.tar.gz"), "aclImdb/");
  WriteArchive(imdb, Path("imdb.tar.xz"), "./");
  const uint64_t imdb_print = Fingerprint(ReadImdb(Path("aclImdb")));
  for (const std::string path : {"", "imdb.tar.gz", "imdb.tar.xz"}) {
    EXPECT_EQ(Fingerprint(ReadImdb(Path(path))), imdb_print) << path;
  }
  const FileTree reuters = SmallReuters(60, 20);
  WriteFolder(reuters, Path("reuters21578"));
  WriteArchive(reuters, Path("reuters.tar.gz"), "");
  WriteArchive(reuters, Path("reuters.tar.xz"), "reuters21578/");
  const uint64_t reuters_print = Fingerprint(ReadReuters(Path("reuters21578"), 3));
  for (const std::string path : {"", "reuters.tar.gz", "reuters.tar.xz"}) {
    EXPECT_EQ(Fingerprint(ReadReuters(Path(path), 3)), reuters_print) << path;
  }
  EXPECT_NE(Fingerprint(ReadReuters(Path(""), 4)), reuters_print);
}

TEST_F(DocumentsTest, ReutersKeepsTopicsThatAreFirstOftenEnough) {
  WriteFolder(SmallReuters(60, 15), Path("r"));
  const LabelledTexts texts = ReadReuters(Path("r"), 0);
  EXPECT_THAT(texts.classes, ElementsAre("gold", "tin"));  // silver is first once
  EXPECT_EQ(texts.train.size(), 60u);
  EXPECT_EQ(texts.test.size(), 15u);
  std::vector<std::string> names = Names(texts.train);
  EXPECT_FALSE(std::is_sorted(names.begin(), names.end()));
  int tin = 0;
  std::set<std::string> different;
  for (const auto* part : {&texts.train, &texts.test}) {
    for (const LabelledText& text : *part) {
      different.insert(text.name);
      tin += text.label;
      const std::string id = text.name.substr(text.name.find(' '));
      EXPECT_EQ(text.text, (text.label == 1 ? "Tin" : "Gold") + id + "\nBody.");
    }
  }
  EXPECT_EQ(different.size(), 75u);
  EXPECT_EQ(tin, 15);
  WriteFolder(SmallReuters(60, 14), Path("r"));
  EXPECT_THAT(ReadReuters(Path("r"), 0).classes, ElementsAre("gold"));
}

TEST_F(DocumentsTest, NewswiresAreReadWhateverTheirForm) {
  const std::string sgml =
      "<!DOCTYPE lewis>\n"
      "<REUTERS NEWID=\"1\"><TOPICS><D>a</D><D>b</D></TOPICS><TEXT>&#2;\n<TITLE>UP 5 PCT\n</TITLE>"
      "<DATELINE> ROME - </DATELINE><BODY>M&amp;A of &lt;IBM>.\n    More \xfc.\n &#3;</BODY></TEXT>"
      "</REUTERS>\n"
      "<REUTERS NEWID=\"2\"><TOPICS></TOPICS><TEXT TYPE=\"BRIEF\">\n***<TITLE>SHORT</TITLE>Blah."
      "</TEXT></REUTERS>\n"
      "<REUTERS NEWID=\"3\"><TOPICS><D>c</D></TOPICS><TEXT TYPE=\"UNPROC\">&#2;\nA TABLE\n 1  2 "
      "&bogus; &#127;&#3;\n</TEXT></REUTERS>\n";
  const std::vector<Newswire> newswires = ParseNewswires(sgml, "x.sgm");
  ASSERT_EQ(newswires.size(), 3u);
  EXPECT_EQ(newswires[0].id, "1");
  EXPECT_EQ(newswires[0].topic, "a");
  EXPECT_EQ(newswires[0].text, "UP 5 PCT\nM&A of <IBM>.\n    More \u00fc.");
  EXPECT_EQ(newswires[1].topic, "");
  EXPECT_EQ(newswires[1].text, "SHORT");
  EXPECT_EQ(newswires[2].text, "A TABLE\n 1  2 &bogus;");
}

TEST_F(DocumentsTest, RefusesHalfAnImdb) {
  const FileTree whole = SmallImdb(5);
  EXPECT_EQ(ErrorOf(whole, ReadImdb), "no error");
  EXPECT_THAT(ErrorOf(Without(whole, "train/neg/"), ReadImdb),
              HasSubstr("no reviews in train/neg"));
  EXPECT_THAT(ErrorOf(Without(whole, "test/pos/"), ReadImdb), HasSubstr("no reviews in test/pos"));
  EXPECT_THAT(ErrorOf(Without(whole, "test/"), ReadImdb), HasSubstr("no reviews in test/neg"));
  EXPECT_THAT(ErrorOf(Without(whole, "train/"), ReadImdb), HasSubstr("no train in it; expected"));
  EXPECT_THAT(ErrorOf({}, ReadImdb), HasSubstr("no train in it; expected the Large Movie Review"));
  EXPECT_THAT(ErrorOf({{"train/x.txt", "x"}}, ReadImdb), HasSubstr("not the Large Movie Review"));
  EXPECT_THAT(ErrorOf(Without(whole, "test/pos/4"), ReadImdb),
              HasSubstr("5 reviews in test/neg but 4 in test/pos"));
  EXPECT_THAT(ErrorOf(Without(Without(whole, "test/pos/3"), "test/neg/0"), ReadImdb),
              HasSubstr("test/neg/4_2.txt is there, but only 3 reviews beside it"));
  FileTree changed = whole;
  changed["train/pos/2_9.txt"] = "";
  EXPECT_THAT(ErrorOf(changed, ReadImdb), HasSubstr("train/pos/2_9.txt is empty"));
  changed = whole;
  changed["copy/train/pos/2_9.txt"] = "x";
  EXPECT_THAT(ErrorOf(changed, ReadImdb), HasSubstr("train/pos/2_9.txt is there twice"));
}

TEST_F(DocumentsTest, RefusesHalfAReuters) {
  const FileTree whole = SmallReuters(60, 20);
  EXPECT_EQ(ErrorOf(whole, ReadReutersOfSeed7), "no error");
  EXPECT_THAT(ErrorOf(Without(whole, "reut2-013"), ReadReutersOfSeed7),
              HasSubstr("reut2-013.sgm is missing; expected Reuters-21578"));
  EXPECT_THAT(ErrorOf({}, ReadReutersOfSeed7), HasSubstr("no reut2-000.sgm in it; expected"));
  FileTree changed = whole;
  changed["reut2-005.sgm"] = "";
  EXPECT_THAT(ErrorOf(changed, ReadReutersOfSeed7), HasSubstr("reut2-005.sgm: no newswires"));
  std::string& sgml = changed["reut2-005.sgm"] = whole.at("reut2-005.sgm");
  const std::string end = sgml.substr(sgml.rfind("<REUTERS "));
  sgml.resize(sgml.size() - end.size());
  EXPECT_THAT(ErrorOf(changed, ReadReutersOfSeed7),
              HasSubstr("only 102 newswires, whose numbers go to 103"));
  sgml += end;
  sgml.resize(sgml.size() - 12);
  EXPECT_THAT(ErrorOf(changed, ReadReutersOfSeed7), HasSubstr("reut2-005.sgm: ends inside"));
  changed["reut2-005.sgm"] = "<REUTERS NEWID=\"9\"><TOPICS></TOPICS></REUTERS>";
  EXPECT_THAT(ErrorOf(changed, ReadReutersOfSeed7), HasSubstr("newswire 9 has no <TEXT>"));
  EXPECT_THAT(ErrorOf(SmallReuters(14, 3), ReadReutersOfSeed7),
              HasSubstr("18 newswires have a topic, but no topic has 15"));
}

TEST_F(DocumentsTest, RefusesTheOtherSet) {
  WriteArchive(SmallReuters(60, 20), Path("r.tar.gz"), "");
  WriteArchive(SmallImdb(3), Path("i.tar.gz"), "aclImdb/");
  const auto error = [](auto&& read) -> std::string {
    try {
      read();
    } catch (const FileError& found) {
      return found.what();
    }
    return "no error";
  };
  EXPECT_THAT(error([&] { ReadImdb(Path("r.tar.gz")); }), HasSubstr("not the Large Movie Review"));
  EXPECT_THAT(error([&] { ReadReuters(Path("i.tar.gz"), 0); }), HasSubstr("not Reuters-21578"));
  EXPECT_THAT(error([&] { ReadImdb(Path("none")); }), HasSubstr("none: cannot read: No such file"));
}

TEST_F(DocumentsTest, EveryClassNeedsATrainingExample) {
  LabelledTexts texts{.classes = {"a", "b"}, .train = {{"1", "x", 0}}, .test = {{"2", "y", 1}}};
  try {
    RequireTrainingExamples(texts);
    FAIL();
  } catch (const FileError& error) {
    EXPECT_THAT(error.what(), HasSubstr("class b has no example among the 1 training texts"));
  }
  texts.train.push_back({"3", "z", 1});
  RequireTrainingExamples(texts);
}

TEST_F(DocumentsTest, FingerprintSeesEveryChange) {
  const LabelledTexts texts{
      .classes = {"a", "b"}, .train = {{"1", "x", 0}, {"2", "y", 1}}, .test = {{"3", "z", 1}}};
  const uint64_t print = Fingerprint(texts);
  EXPECT_EQ(Fingerprint(LabelledTexts(texts)), print);
  const auto changed = [&](auto&& change) {
    LabelledTexts other = texts;
    change(other);
    return Fingerprint(other) != print;
  };
  EXPECT_TRUE(changed([](LabelledTexts& t) { t.classes[1] = "c"; }));
  EXPECT_TRUE(changed([](LabelledTexts& t) { t.train[0].label = 1; }));
  EXPECT_TRUE(changed([](LabelledTexts& t) { t.train[1].text = "Y"; }));
  EXPECT_TRUE(changed([](LabelledTexts& t) { t.test[0].name = "4"; }));
  EXPECT_TRUE(changed([](LabelledTexts& t) { std::swap(t.train[0], t.train[1]); }));
  EXPECT_TRUE(changed([](LabelledTexts& t) {
    t.test.insert(t.test.begin(), t.train.back());
    t.train.pop_back();
  }));
  EXPECT_TRUE(changed([](LabelledTexts& t) {
    t.train[0].name = "1x";
    t.train[0].text = "";
  }));
}

}  // namespace
}  // namespace ringwise
