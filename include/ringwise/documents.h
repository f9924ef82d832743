#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace ringwise {

// A text and its class, an index into LabelledTexts::classes.
struct LabelledText {
  std::string name;  // where it comes from: "test/pos/12_7.txt", "reut2-003.sgm 4711"
  std::string text;  // UTF-8
  int32_t label = 0;
};

// A data set for classification with its usual split.
struct LabelledTexts {
  std::vector<std::string> classes;
  std::vector<LabelledText> train;
  std::vector<LabelledText> test;
};

// The Large Movie Review Dataset [Maas et al. 2011]: classes neg, pos. `path` is the archive
// (aclImdb_v1.tar.gz, whatever its compression), the unpacked folder aclImdb, or the folder that
// holds it: all give the same. Reviews are those of {train,test}/{neg,pos}/*.txt, in the order of
// their names. Throws FileError: no such path, something else, a folder missing or empty, an empty
// review, or not as many pos as neg in a split (the set is balanced: it was not unpacked whole).
LabelledTexts ReadImdb(const std::string& path);

// The 46 topics of Reuters-21578, Distribution 1.0: of the newswires with at least one topic, the
// first topic is the class; topics that then have at least 15 newswires stay, in alphabetical order
// (11,228 newswires). Text is title, newline and body; of newswires without either, all there is.
// They are shuffled by `seed`; the first 80 % (rounded down) train, the others test. `path` is the
// archive (reuters21578.tar.gz), the folder of reut2-000.sgm to reut2-021.sgm, or the folder that
// holds folder reuters21578. Throws FileError: no such path, something else, a file missing,
// truncated or without newswires, no topic with 15 newswires, a class without a training example.
LabelledTexts ReadReuters(const std::string& path, uint64_t seed);

// Throws FileError, naming it, if a class has no training example: nothing could learn it. The
// readers call it; call it again after taking texts away, for validation say.
void RequireTrainingExamples(const LabelledTexts& texts);

// Of the classes, and of every text's name, label and content, in their order: where it differs,
// training would go on with other data.
uint64_t Fingerprint(const LabelledTexts& texts);

// The words of a text, in order. Models on disk depend on this rule:
// - A word is a run of letters and digits, in lower case. Letters are a-z and every UTF-8 sequence
//   but the punctuation of Latin-1 (U+0080 to U+00BF) and of U+2000 to U+207F, which separate.
//   A-Z and U+00C0 to U+00DE turn to lower case.
// - An apostrophe (' or U+2019, written ') between two letters or digits belongs to the word; so
//   do ',', '.' and '/' between two digits: don't, 1,234, 7/10.
// - In a number (no letter, no apostrophe) that has a ',' or '.', or more than two digits in a row,
//   every digit becomes 0: 1,234 is 0,000, and 1987 is 0000. Amounts are too many to learn each;
//   small whole numbers and fractions, often marks given, keep their value.
// - A run of one of '!' and '?' is a word, "!" or "?".
// - A tag separates: '<', perhaps '/', a small letter, and all up to the next '>', with no other
//   '<' and at most 100 bytes between. (<IBM>, a company in newswires, is a word.)
std::vector<std::string> SplitWords(std::string_view text);

// The words a model knows, most frequent first; equal counts in alphabetical order. Token 0 is
// padding (never in a text), token 1 any other word, token 2 + i the word i.
//
//   const Vocabulary vocabulary(texts.train, 10000);
//   vocabulary.Tokens("A film, a FILM!");  // for example {4, 21, 4, 21, 37}
class Vocabulary {
 public:
  static constexpr int32_t kPadding = 0;
  static constexpr int32_t kUnknown = 1;
  static constexpr int32_t kFirstWord = 2;

  // The `size` - 2 most frequent words of the texts, fewer if there are no more. Throws UsageError:
  // size below 3 or above 2^31 - 1, or texts without a word.
  Vocabulary(std::span<const LabelledText> texts, int64_t size);
  // Throws UsageError: none, or a word that is empty, has white space, or is there twice.
  explicit Vocabulary(std::vector<std::string> words);

  int64_t size() const { return kFirstWord + static_cast<int64_t>(words_.size()); }
  const std::vector<std::string>& words() const { return words_; }
  std::vector<int32_t> Tokens(std::string_view text) const;

  // vocabulary.txt in a model's folder, a word a line. Throw FileError.
  static Vocabulary Read(const std::string& folder);
  void Write(const std::string& folder) const;

 private:
  struct Hash {
    using is_transparent = void;  // looks up views without making strings of them
    size_t operator()(std::string_view word) const { return std::hash<std::string_view>()(word); }
  };

  std::vector<std::string> words_;
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> tokens_;
};

// The regular files of an archive (tar or zip, with any usual compression), in its order, or those
// below a folder, in the order of their paths; links to folders are not followed. `wants(path)`
// chooses by the path inside ("train/pos/0_9.txt", no "./" before it); `take(path, bytes)` gets
// each of those. Throws FileError: no such path, no archive, a truncated or corrupt one.
void ReadFiles(const std::string& path, const std::function<bool(std::string_view)>& wants,
               const std::function<void(std::string_view, std::string&&)>& take);

}  // namespace ringwise
