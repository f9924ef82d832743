#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace ringwise {

// Finds the words of a text one after another; the rule is at SplitWords, ringwise/documents.h.
//
//   WordReader words(text);
//   while (words.Next()) Use(words.word());
class WordReader {
 public:
  explicit WordReader(std::string_view text) : text_(text) {}

  bool Next();
  std::string_view word() const { return word_; }  // valid until Next

 private:
  bool Digit(size_t at) const { return at < text_.size() && text_[at] >= '0' && text_[at] <= '9'; }
  size_t LetterBytes(size_t at) const;      // of the letter or digit there; 0: none
  size_t ApostropheBytes(size_t at) const;  // of the apostrophe there; 0: none
  size_t TagBytes(size_t at) const;         // of the tag that begins there; 0: none
  void TakeWord();                          // from position_ on, where a letter or digit is
  bool TakeLetters();

  std::string_view text_;
  size_t position_ = 0;
  std::string word_;
};

}  // namespace ringwise
