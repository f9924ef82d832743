#include "data/words.h"

#include <algorithm>
#include <array>

#include "ringwise/documents.h"

namespace ringwise {
namespace {

constexpr std::string_view kCurlyApostrophe = "\xe2\x80\x99";  // U+2019

unsigned char Byte(char c) { return static_cast<unsigned char>(c); }

// The lower case of ASCII's letters and digits; 0: neither.
constexpr std::array<char, 256> kLower = [] {
  std::array<char, 256> lower{};
  for (unsigned char c = '0'; c <= '9'; ++c) lower[c] = static_cast<char>(c);
  for (unsigned char c = 'a'; c <= 'z'; ++c) {
    constexpr unsigned char kCase = 'a' - 'A';
    lower[c] = lower[c - kCase] = static_cast<char>(c);
  }
  return lower;
}();

// Of the UTF-8 sequence at the start of `text`: its first byte and what continues it. In text that
// is no UTF-8 too, it holds no character of ASCII but by itself.
size_t SequenceBytes(std::string_view text) {
  const unsigned char first = Byte(text[0]);
  const size_t most = first < 0xc0 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  size_t bytes = 1;
  while (bytes < std::min(most, text.size()) && (Byte(text[bytes]) & 0xc0) == 0x80) ++bytes;
  return bytes;
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
  if (c < 0x80) return kLower[c] != 0 ? 1 : 0;
  if (c == 0xc2) return 0;                   // U+0080 to U+00BF
  if (c == 0xe2 && at + 1 < text_.size()) {  // U+2000 to U+207F
    const unsigned char second = Byte(text_[at + 1]);
    if (second == 0x80 || second == 0x81) return 0;
  }
  return SequenceBytes(text_.substr(at));
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

// From position_ on; whether all are digits.
bool WordReader::TakeLetters() {
  bool digits = true;
  while (position_ < text_.size()) {
    const char lower = kLower[Byte(text_[position_])];
    if (lower != 0) {
      digits = digits && lower <= '9';
      word_ += lower;
      ++position_;
      continue;
    }
    const size_t bytes = LetterBytes(position_);
    if (bytes == 0) break;
    digits = false;
    word_ += text_.substr(position_, bytes);
    if (bytes == 2 && Byte(text_[position_]) == 0xc3) {  // U+00C0 to U+00FF
      const unsigned char second = Byte(word_.back());
      const bool upper = second >= 0x80 && second <= 0x9e && second != 0x97;  // not the times sign
      if (upper) word_.back() = static_cast<char>(second + 0x20);
    }
    position_ += bytes;
  }
  return digits;
}

void WordReader::TakeWord() {
  bool number = true;
  while (true) {
    number = TakeLetters() && number;
    if (position_ == text_.size()) break;
    const char c = text_[position_];
    const size_t apostrophe = ApostropheBytes(position_);
    if (apostrophe > 0 && LetterBytes(position_ + apostrophe) > 0) {
      word_ += '\'';
      position_ += apostrophe;
      number = false;
    } else if ((c == ',' || c == '.' || c == '/') && Digit(position_ - 1) && Digit(position_ + 1)) {
      word_ += c;
      ++position_;
    } else {
      break;
    }
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
    position_ += tag > 0 ? tag : SequenceBytes(text_.substr(position_));
  }
  return false;
}

std::vector<std::string> SplitWords(std::string_view text) {
  std::vector<std::string> words;
  for (WordReader reader(text); reader.Next();) words.emplace_back(reader.word());
  return words;
}

}  // namespace ringwise
