#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "ringwise/corpus.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

constexpr int64_t kSymbols = kByteVocab;

// Calls visit(token, context) for tokens [0, count) of the stream, context being the two tokens
// before it, as one number; the stream's start counts as separators.
template <class Visit>
void ForEachToken(const TokenStream& stream, int64_t count, const Visit& visit) {
  constexpr int64_t kBuffer = 1 << 16;
  std::vector<int32_t> buffer(kBuffer);
  int64_t before = kSeparatorToken;  // the token before the last
  int64_t last = kSeparatorToken;
  for (int64_t begin = 0; begin < count; begin += kBuffer) {
    const auto size = static_cast<size_t>(std::min(kBuffer, count - begin));
    stream.Read(begin, 1, std::span(buffer).first(size));
    for (size_t i = 0; i < size; ++i) {
      visit(buffer[i], before * kSymbols + last);
      before = last;
      last = buffer[i];
    }
  }
}

// Rows of counts, a row a context, with each row's total and number of different symbols.
class Counts {
 public:
  explicit Counts(int64_t contexts)
      : counts_(static_cast<size_t>(contexts * kSymbols)),
        totals_(static_cast<size_t>(contexts)),
        kinds_(static_cast<size_t>(contexts)) {}

  void Add(int64_t context, int64_t symbol, uint32_t count) {
    if (count == 0) return;
    uint32_t& cell = counts_[static_cast<size_t>(context * kSymbols + symbol)];
    kinds_[static_cast<size_t>(context)] += cell == 0 ? 1 : 0;
    cell += count;
    totals_[static_cast<size_t>(context)] += count;
  }
  uint32_t at(int64_t context, int64_t symbol) const {
    return counts_[static_cast<size_t>(context * kSymbols + symbol)];
  }
  // Witten-Bell: the shorter context's probability weighs as many observations as there were
  // different symbols.
  double Probability(int64_t context, int64_t symbol, double shorter) const {
    const double kinds = kinds_[static_cast<size_t>(context)];
    if (kinds == 0) return shorter;
    return (at(context, symbol) + kinds * shorter) /
           (static_cast<double>(totals_[static_cast<size_t>(context)]) + kinds);
  }

 private:
  std::vector<uint32_t> counts_;
  std::vector<uint64_t> totals_;
  std::vector<uint32_t> kinds_;
};

}  // namespace

double OrderTwoBitsPerByte(const TokenStream& train, const TokenStream& heldout,
                           int64_t max_train_tokens, int64_t max_heldout_tokens) {
  // The stream's first token is not predicted: see Evaluate, whose tokens these are.
  const int64_t predicted = std::min(heldout.tokens() - 1, max_heldout_tokens);
  if (predicted < 1) throw UsageError("order-2 model: fewer than two tokens to predict");

  Counts two(kSymbols * kSymbols);
  ForEachToken(train, std::min(train.tokens(), max_train_tokens),
               [&](int64_t token, int64_t context) { two.Add(context, token, 1); });
  Counts one(kSymbols);
  Counts none(1);
  for (int64_t context = 0; context < kSymbols * kSymbols; ++context) {
    for (int64_t symbol = 0; symbol < kSymbols; ++symbol) {
      one.Add(context % kSymbols, symbol, two.at(context, symbol));
    }
  }
  for (int64_t context = 0; context < kSymbols; ++context) {
    for (int64_t symbol = 0; symbol < kSymbols; ++symbol) {
      none.Add(0, symbol, one.at(context, symbol));
    }
  }

  double nats = 0;
  int64_t bytes = 0;
  int64_t index = 0;
  ForEachToken(heldout, predicted + 1, [&](int64_t token, int64_t context) {
    if (index++ == 0) return;
    double probability = 1.0 / static_cast<double>(kSymbols);
    probability = none.Probability(0, token, probability);
    probability = one.Probability(context % kSymbols, token, probability);
    probability = two.Probability(context, token, probability);
    nats -= std::log(probability);
    bytes += token == kSeparatorToken ? 0 : 1;
  });
  return nats / std::log(2.0) / static_cast<double>(std::max<int64_t>(bytes, 1));
}

}  // namespace ringwise
