#include "data/words.h"

#include <algorithm>

#include "ringwise/documents.h"

namespace ringwise {
namespace {

constexpr std::string_view kCurlyApostrophe = "\xe2\x80\x99";  // U+2019

unsigned char Byte(char c) { return static_cast<unsigned char>(c); }

// Of a UTF-8 sequence with this first byte; 1 for bytes that start none.
size_t SequenceBytes(unsigned char first) {
  if (first < 0xc0) return 1;
  return first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

// Amounts as their shape; see the rule.
void HideAmount(std::string& number) {
  size_t run = 0;
  bool amount = false;
  for (const char c : number) {
    run = c >= '0' && c <= '9' ? run + 1 : 0;
    amount |= c == ',' || c == '.' || run > 2;
  }
  if (!amount) return;
  std::replace_if(
      number.begin(), number.end(), [](char c) { return c >= '0' && c <= '9'; }, '0');
}

}  // namespace

size_t WordReader::LetterBytes(size_t at) const {
  if (at >= text_.size()) return 0;
  const unsigned char c = Byte(text_[at]);
  if (c < 0x80) return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || Digit(at) ? 1 : 0;
  if (c == 0xc2) return 0;                   // U+0080 to U+00BF
  if (c == 0xe2 && at + 1 < text_.size()) {  // U+2000 to U+207F
    const unsigned char second = Byte(text_[at + 1]);
    if (second == 0x80 || second == 0x81) return 0;
  }
  return std::min(SequenceBytes(c), text_.size() - at);
}

size_t WordReader::ApostropheBytes(size_t at) const {
  if (at >= text_.size()) return 0;
  if (text_[at] == '\'') return 1;
  return text_.substr(at).starts_with(kCurlyApostrophe) ? kCurlyApostrophe.size() : 0;
}

size_t WordReader::TagBytes(size_t at) const {
  constexpr size_t kLongest = 100;
  if (text_[at] != '<') return 0;
  const size_t name = at + 1 + (text_.substr(at + 1).starts_with('/') ? 1 : 0);
  if (name >= text_.size() || text_[name] < 'a' || text_[name] > 'z') return 0;
  const size_t end = text_.substr(name, kLongest).find_first_of("<>");
  if (end == std::string_view::npos || text_[name + end] == '<') return 0;
  return name + end + 1 - at;
}

void WordReader::AppendLower(size_t bytes) {
  const unsigned char first = Byte(text_[position_]);
  if (bytes == 1 && first >= 'A' && first <= 'Z') {
    word_ += static_cast<char>(first | 0x20);
  } else {
    word_ += text_.substr(position_, bytes);
    if (bytes == 2 && first == 0xc3) {  // U+00C0 to U+00FF
      const unsigned char second = Byte(word_.back());
      const bool upper = second >= 0x80 && second <= 0x9e && second != 0x97;  // not the times sign
      if (upper) word_.back() = static_cast<char>(second + 0x20);
    }
  }
  position_ += bytes;
}

void WordReader::TakeWord() {
  bool number = true;
  size_t bytes = LetterBytes(position_);
  while (true) {
    number = number && Digit(position_);
    const bool digit = Digit(position_);
    AppendLower(bytes);
    bytes = LetterBytes(position_);
    if (bytes > 0) continue;
    const size_t apostrophe = ApostropheBytes(position_);
    if (apostrophe > 0 && LetterBytes(position_ + apostrophe) > 0) {
      word_ += '\'';
      position_ += apostrophe;
      number = false;
    } else if (digit && Digit(position_ + 1) &&
               (text_[position_] == ',' || text_[position_] == '.' || text_[position_] == '/')) {
      word_ += text_[position_++];
    } else {
      break;
    }
    bytes = LetterBytes(position_);
  }
  if (number) HideAmount(word_);
}

bool WordReader::Next() {
  word_.clear();
  while (position_ < text_.size()) {
    const char c = text_[position_];
    if (LetterBytes(position_) > 0) {
      TakeWord();
      return true;
    }
    if (c == '!' || c == '?') {
      position_ = std::min(text_.find_first_not_of(c, position_), text_.size());
      word_ = c;
      return true;
    }
    const size_t tag = TagBytes(position_);
    // Punctuation of several bytes goes as a whole: what follows its first byte is no letter.
    position_ += tag > 0 ? tag : SequenceBytes(Byte(c));
  }
  return false;
}

std::vector<std::string> SplitWords(std::string_view text) {
  std::vector<std::string> words;
  for (WordReader reader(text); reader.Next();) words.emplace_back(reader.word());
  return words;
}

}  // namespace ringwise
