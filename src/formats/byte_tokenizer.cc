#include <nlohmann/json.hpp>
#include <string>

#include "formats/file_io.h"
#include "ringwise/corpus.h"

namespace ringwise {
namespace {

using Json = nlohmann::ordered_json;

const char* const kSeparatorText = "<|separator|>";

// The character that stands for each byte in "byte-level" tokenizers: printable bytes of Latin-1
// stand for themselves, the others are moved to U+0100 and on, in order. As UTF-8.
std::string ByteLevelCharacter(int byte) {
  const auto printable = [](int value) {
    return (value >= 0x21 && value <= 0x7e) || (value >= 0xa1 && value <= 0xff && value != 0xad);
  };
  int code_point = byte;
  if (!printable(byte)) {
    code_point = 0x100;
    for (int earlier = 0; earlier < byte; ++earlier) code_point += printable(earlier) ? 0 : 1;
  }
  if (code_point < 0x80) return {static_cast<char>(code_point)};
  return {static_cast<char>(0xc0 | (code_point >> 6)),
          static_cast<char>(0x80 | (code_point & 0x3f))};
}

Json ByteLevel() {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", false},
          {"use_regex", true}};
}

}  // namespace

std::vector<int32_t> ByteTokens(std::string_view text) {
  std::vector<int32_t> tokens;
  tokens.reserve(text.size());
  for (const char byte : text) tokens.push_back(static_cast<unsigned char>(byte));
  return tokens;
}

std::vector<int32_t> ReadByteTokens(const std::string& path) {
  return ByteTokens(ReadTextFile(path));
}

// Byte-pair encoding without any merges leaves single bytes.
void WriteByteTokenizer(const std::string& folder) {
  Json vocabulary = Json::object();
  for (int byte = 0; byte < 256; ++byte) vocabulary[ByteLevelCharacter(byte)] = byte;
  vocabulary[kSeparatorText] = kSeparatorToken;
  const Json separator = {{"id", kSeparatorToken}, {"content", kSeparatorText},
                          {"single_word", false},  {"lstrip", false},
                          {"rstrip", false},       {"normalized", false},
                          {"special", true}};
  const Json tokenizer = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", Json::array({separator})},
      {"normalizer", nullptr},
      {"pre_tokenizer", ByteLevel()},
      {"post_processor", nullptr},
      {"decoder", ByteLevel()},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", false},
        {"byte_fallback", false},
        {"ignore_merges", false},
        {"vocab", vocabulary},
        {"merges", Json::array()}}},
  };
  Json added = separator;
  added.erase("id");
  // split_special_tokens: text that happens to contain the separator's name is bytes like any
  // other; the separator itself is eos_token_id.
  const Json config = {
      {"tokenizer_class", "PreTrainedTokenizerFast"},
      {"bos_token", kSeparatorText},
      {"eos_token", kSeparatorText},
      {"added_tokens_decoder", {{std::to_string(kSeparatorToken), added}}},
      {"clean_up_tokenization_spaces", false},
      {"split_special_tokens", true},
      {"model_input_names", {"input_ids", "attention_mask"}},
  };
  const Json special = {{"bos_token", kSeparatorText}, {"eos_token", kSeparatorText}};
  WriteTextFile(folder + "/tokenizer.json", tokenizer.dump(1) + "\n");
  WriteTextFile(folder + "/tokenizer_config.json", config.dump(2) + "\n");
  WriteTextFile(folder + "/special_tokens_map.json", special.dump(2) + "\n");
}

}  // namespace ringwise
