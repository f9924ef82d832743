#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ringwise/communicator.h"
#include "ringwise/context.h"
#include "ringwise/dropout.h"
#include "ringwise/dtype.h"
#include "ringwise/llama.h"
#include "ringwise/positions.h"
#include "ringwise/tensor.h"

namespace ringwise {

// What a classifier is made of.
enum class Network {
  kEncoder,    // blocks of attention and feed-forward, the mean over a document, a linear layer
  kWordsSeen,  // fully connected, on which words a document has (multi-hot)
};
// Where an encoder's layer normalises: what a sublayer adds up to, or what goes into it.
enum class NormPlace { kAfter, kBefore };
// What a norm's mean and variance go over.
enum class NormOver {
  kWidth,     // each position's own features
  kDocument,  // all positions and features of a document; gain and bias are as large
};

// The names in files and flags: "encoder", "words_seen"; "after", "before"; "width", "document".
// Parsing throws UsageError with the names there are.
std::string_view Name(Network network);
std::string_view Name(NormPlace place);
std::string_view Name(NormOver over);
Network ParseNetwork(std::string_view name);
NormPlace ParseNormPlace(std::string_view name);
NormOver ParseNormOver(std::string_view name);

// Shapes and constants of a classifier: config.json of its folder.
struct ClassifierConfig {
  Network network = Network::kEncoder;
  int64_t classes = 0;     // at least 2
  int64_t vocab = 0;       // tokens; token 0 is padding. 0: documents are rows of features
  int64_t word_pairs = 0;  // rows that pairs of neighbouring words share by their hash; 0: none
  int64_t features = 0;    // of an input row where there are no tokens
  int64_t hidden = 0;      // width; of both hidden layers of kWordsSeen
  // Of an encoder alone:
  int64_t layers = 0;
  int64_t heads = 0;  // divides hidden; hidden / heads is even, at most 256
  int64_t ffn = 0;    // width of the feed-forward
  NormPlace norm_place = NormPlace::kAfter;
  NormOver norm_over = NormOver::kWidth;
  int64_t document_rows = 0;  // of every document, where norms go over documents
  double norm_eps = 1e-5;
  double rope_theta = 0;  // base of the rotary embedding; 0: no positions
  // In training alone, [0, 1):
  double dropout = 0;            // of what each sublayer adds to the residual stream
  double input_dropout = 0;      // of the embedded input
  double attention_dropout = 0;  // of attention's probabilities
  double head_dropout = 0;       // of the mean over the document

  bool operator==(const ClassifierConfig&) const = default;
};

// Throws UsageError naming the field.
void Validate(const ClassifierConfig& config);

// A document of a packed sequence: rows [begin, end), which do not see other documents. The mean
// over it goes over its first `words` rows; the rest is padding that is computed all the same.
struct PackedDocument {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t words = 0;
};

// Documents one after another in one long sequence, cut over a ring: padding is never needed.
struct DocumentBatch {
  std::vector<PackedDocument> documents;  // ascending, from 0 on, without gaps; words >= 1
  std::vector<Positions> positions;       // of every rank of the ring
  std::span<const int32_t> tokens;        // of this rank's rows; or
  ConstTensorView features;               // [this rank's rows, features] f32
  std::span<const int32_t> pairs = {};    // beside tokens, if the config has word pairs: of each
                                          // row and the one before; negative: none
  std::span<const int32_t> labels;        // of each document
  uint64_t dropout_seed = 0;              // of the pass, in training
};

struct ClassSum {
  double nats = 0;        // sum of cross-entropies over the documents
  int64_t correct = 0;    // documents whose label has the largest logit
  int64_t documents = 0;  // counted here: on rank 0 of the ring all, on the others none
};

// A network that gives documents classes. Computes in `compute` with f32 master weights; every rank
// holds all weights.
//
// Encoder: embedding of words, and of pairs of neighbours if there are any (or a projection of the
// features, where they are not `hidden` wide already), then layers of
//   after:  u = N_1(x + drop(A(x)));            y = N_2(u + drop(F(u)))
//   before: u = x + drop(A(N_1(x)));            y = u + drop(F(N_2(u))), and one more N at the end
// with A attention within the document around the ring, F(u) = relu(u W_1^T + b_1) W_2^T + b_2, N
// layer norms; then the mean over the document and a linear layer. Parameters are named and shaped
// as torch.nn.TransformerEncoder's under "encoder.".
//
// Words seen: relu(sum of the first layer's rows of the words + bias), relu of a second layer, a
// linear layer. A word counts once however often it comes if its other occurrences are given as
// padding (token 0).
//
// Logits of two classes are one sigmoid's: P(class 1) = 1 / (1 + exp(logit_0 - logit_1)).
class Classifier {
 public:
  virtual ~Classifier() = default;

  virtual const ClassifierConfig& config() const = 0;
  virtual std::vector<Parameter>& parameters() = 0;
  virtual void Initialize(uint64_t seed) = 0;  // the same for any ring
  // To be called after parameter values changed.
  virtual void ParametersChanged() = 0;

  // Logits [documents, classes] f32, the same on every rank. Collective over `ring`.
  virtual void Logits(Communicator& ring, const DocumentBatch& batch, TensorView logits) = 0;
  // parameter.gradient += gradient_scale * d(sum of losses)/d(parameter), this rank's part: the sum
  // over ranks is the gradient. Collective over `ring`.
  virtual ClassSum ForwardBackward(Communicator& ring, const DocumentBatch& batch,
                                   float gradient_scale) = 0;
};

std::unique_ptr<Classifier> MakeClassifier(Context& context, const ClassifierConfig& config,
                                           DType compute);

// Floating-point operations of one training pass over documents of `rows` rows in all, in which
// `pairs` (query, key) pairs see each other: three times the forward pass, whose products count 2 a
// multiply-add. The embedding, the linear layer at the end and the words seen count nothing.
double TrainFlops(const ClassifierConfig& config, double rows, double pairs);

}  // namespace ringwise
