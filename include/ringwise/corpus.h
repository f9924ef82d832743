#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ringwise {

// Bytes as tokens: token b is byte b, and token 256 separates documents.
inline constexpr int32_t kSeparatorToken = 256;
inline constexpr int64_t kByteVocab = 257;

// The bytes of a text, or of a file (throws FileError), as tokens.
std::vector<int32_t> ByteTokens(std::string_view text);
std::vector<int32_t> ReadByteTokens(const std::string& path);

// Writes tokenizer files that make `transformers.AutoTokenizer.from_pretrained(folder)` give the
// same tokens.
void WriteByteTokenizer(const std::string& folder);

struct CorpusOptions {
  std::vector<std::string> paths;  // files and folders, read recursively in name order
  double heldout_fraction = 0.05;  // of the documents, at least one; 0: none; below 1
  uint64_t seed = 0;               // of the documents' order and of the split
};

// Documents one after another, a separator after each: a random-access sequence of tokens backed by
// memory-mapped files, so it may be larger than memory.
class TokenStream {
 public:
  virtual ~TokenStream() = default;
  virtual int64_t tokens() const = 0;
  virtual int64_t documents() const = 0;
  // out[i] = token at begin + i * stride. Throws FileError if a file shrank meanwhile. Thread-safe.
  virtual void Read(int64_t begin, int64_t stride, std::span<int32_t> out) const = 0;
  // Token range of document `index`, its separator included.
  virtual int64_t DocumentBegin(int64_t index) const = 0;
};

// Text files under `paths`, split by document into training and held-out parts. A file is one
// document; of a single file, the end is held out. A file with a zero byte in its first 8 KiB is
// binary: skipped and counted, as are files inside folders that cannot be read. Empty files are
// skipped. Symbolic links are followed, and a file reached twice counts once. The split and the
// order depend on the seed and the files' names (inside the folder given) alone. At most 64 files
// are open at a time. Thread-safe once made.
class Corpus {
 public:
  // Throws FileError: no such path (named), or no text in any of them; UsageError: a fraction
  // outside [0, 1).
  explicit Corpus(const CorpusOptions& options);
  ~Corpus();

  const TokenStream& train() const;
  const TokenStream& heldout() const;
  int64_t files() const;
  int64_t binary_files_skipped() const;
  int64_t unreadable_files_skipped() const;
  int64_t bytes() const;
  // Of the documents in their order (names, sizes, their first 8 KiB and a page of their middle and
  // end) and of the split: where it differs, sequences would be other text.
  uint64_t fingerprint() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// Which windows of `context` tokens a run trains on: a pure function of (seed, index), so resuming
// needs only the index. Each epoch shuffles the windows and shifts where they begin.
class ContextSampler {
 public:
  // Throws UsageError if the stream is shorter than context + 1 tokens, saying both.
  ContextSampler(int64_t stream_tokens, int64_t context, uint64_t seed);
  // First token of window `index` >= 0; the window and the token after it lie inside the stream.
  int64_t Begin(int64_t index) const;

 private:
  int64_t stream_tokens_;
  int64_t context_;
  uint64_t seed_;
};

// Bits per byte on `heldout` of an order-2 byte model of `train`: what a small table reaches, to
// compare a trained model against. The probability of a token after two others is smoothed by the
// shorter contexts (Witten-Bell), the separator being a token like any other:
//   P(t | context) = (count(context t) + kinds(context) P(t | shorter context))
//                    / (count(context) + kinds(context)),       P(t) smoothed by 1 / 257
// where kinds counts the different tokens seen after the context. As in Evaluate, all but the first
// token are predicted, and bits per byte = nats / ln 2 / predicted tokens that are no separator.
// Limits: the first max_train_tokens are counted, max_heldout_tokens predicted. Takes some 70 MB
// and seconds. Throws UsageError: nothing to predict.
double OrderTwoBitsPerByte(const TokenStream& train, const TokenStream& heldout,
                           int64_t max_train_tokens, int64_t max_heldout_tokens);

}  // namespace ringwise
