#include "ringwise/corpus.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "data/file_list.h"
#include "data/file_stream.h"
#include "ringwise/error.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

// Few enough that ten ranks in one process stay below the usual limit of 1024 open files.
constexpr size_t kOpenMaps = 64;

// A random number that depends on the seed and the name alone: names in its order are shuffled.
uint64_t ShuffleKey(uint64_t seed, const std::string& name) {
  std::array<uint32_t, 4> state{};
  for (size_t begin = 0; begin <= name.size(); begin += sizeof(uint64_t)) {
    for (size_t i = begin; i < std::min(name.size(), begin + sizeof(uint64_t)); ++i) {
      state[i % 4] ^= static_cast<uint32_t>(static_cast<unsigned char>(name[i]))
                      << (8 * (i / 4 % 2));
    }
    state = Philox(seed, state);
  }
  return uint64_t{state[0]} << 32 | state[1];
}

std::string Shown(const std::vector<std::string>& paths) {
  if (paths.empty()) return "no paths at all";
  return paths.front() +
         (paths.size() > 1 ? fmt::format(" and {} other paths", paths.size() - 1) : "");
}

std::vector<TextFile> Shuffled(std::vector<TextFile> files, uint64_t seed) {
  std::vector<std::pair<uint64_t, size_t>> order;
  order.reserve(files.size());
  for (size_t i = 0; i < files.size(); ++i) order.emplace_back(ShuffleKey(seed, files[i].name), i);
  std::sort(order.begin(), order.end());
  std::vector<TextFile> shuffled;
  shuffled.reserve(files.size());
  for (const auto& [key, index] : order) shuffled.push_back(std::move(files[index]));
  return shuffled;
}

std::vector<Document> Documents(const std::vector<TextFile>& files) {
  std::vector<Document> documents;
  documents.reserve(files.size());
  for (const TextFile& file : files) documents.push_back({file.path, 0, file.bytes});
  return documents;
}

uint64_t Fingerprint(const std::vector<TextFile>& files, int64_t heldout_tokens) {
  auto hash = static_cast<uint64_t>(heldout_tokens);
  for (const TextFile& file : files) {
    for (const uint64_t part :
         {ShuffleKey(0, file.name), static_cast<uint64_t>(file.bytes), file.sample_hash}) {
      hash = (hash ^ part) * 0x9E3779B97F4A7C15;
      hash ^= hash >> 32;
    }
  }
  return hash;
}

// Moves the held-out documents out of `documents`.
std::vector<Document> TakeHeldout(std::vector<Document>& documents, double fraction) {
  if (fraction == 0) return {};
  if (documents.size() == 1) {
    Document& only = documents.front();
    const auto bytes = static_cast<int64_t>(static_cast<double>(only.bytes) * fraction);
    if (bytes == 0) return {};
    only.bytes -= bytes;
    return {{only.path, only.bytes, bytes}};
  }
  const auto share = std::llround(static_cast<double>(documents.size()) * fraction);
  const auto count = std::clamp<int64_t>(share, 1, static_cast<int64_t>(documents.size()) - 1);
  std::vector<Document> heldout(documents.begin(), documents.begin() + count);
  documents.erase(documents.begin(), documents.begin() + count);
  return heldout;
}

}  // namespace

class Corpus::Impl {
 public:
  explicit Impl(const CorpusOptions& options) {
    if (!(options.heldout_fraction >= 0 && options.heldout_fraction < 1)) {
      throw UsageError(fmt::format("the held-out fraction must be at least 0 and below 1, got {}",
                                   options.heldout_fraction));
    }
    FileList list = ListTextFiles(options.paths);
    if (list.files.empty()) {
      throw FileError(fmt::format(
          "no text in {}: {} binary and {} unreadable files were skipped; give files or folders "
          "with text",
          Shown(options.paths), list.binary_skipped, list.unreadable_skipped));
    }
    files_ = static_cast<int64_t>(list.files.size());
    binary_skipped_ = list.binary_skipped;
    unreadable_skipped_ = list.unreadable_skipped;
    for (const TextFile& file : list.files) bytes_ += file.bytes;
    const std::vector<TextFile> files = Shuffled(std::move(list.files), options.seed);
    std::vector<Document> documents = Documents(files);
    std::vector<Document> heldout = TakeHeldout(documents, options.heldout_fraction);
    const auto maps = std::make_shared<MapCache>(kOpenMaps);
    train_ = std::make_unique<FileTokenStream>(std::move(documents), maps);
    heldout_ = std::make_unique<FileTokenStream>(std::move(heldout), maps);
    fingerprint_ = Fingerprint(files, heldout_->tokens());
  }

  std::unique_ptr<FileTokenStream> train_;
  std::unique_ptr<FileTokenStream> heldout_;
  int64_t files_ = 0;
  int64_t binary_skipped_ = 0;
  int64_t unreadable_skipped_ = 0;
  int64_t bytes_ = 0;
  uint64_t fingerprint_ = 0;
};

Corpus::Corpus(const CorpusOptions& options) : impl_(std::make_unique<Impl>(options)) {}
Corpus::~Corpus() = default;
const TokenStream& Corpus::train() const { return *impl_->train_; }
const TokenStream& Corpus::heldout() const { return *impl_->heldout_; }
int64_t Corpus::files() const { return impl_->files_; }
int64_t Corpus::binary_files_skipped() const { return impl_->binary_skipped_; }
int64_t Corpus::unreadable_files_skipped() const { return impl_->unreadable_skipped_; }
int64_t Corpus::bytes() const { return impl_->bytes_; }
uint64_t Corpus::fingerprint() const { return impl_->fingerprint_; }

}  // namespace ringwise
