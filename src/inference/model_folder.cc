#include "ringwise/model_folder.h"

#include <fmt/format.h>

#include <filesystem>
#include <system_error>

#include "formats/file_io.h"
#include "inference/weights.h"
#include "ringwise/corpus.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

namespace fs = std::filesystem;

void CheckSameShapes(const ModelConfig& model, const ModelConfig& stored,
                     const std::string& folder) {
  const struct {
    const char* name;
    int64_t model;
    int64_t stored;
  } sizes[] = {{"hidden", model.hidden, stored.hidden},
               {"layers", model.layers, stored.layers},
               {"heads", model.heads, stored.heads},
               {"kv_heads", model.kv_heads, stored.kv_heads},
               {"head_dim", model.head_dim, stored.head_dim},
               {"ffn", model.ffn, stored.ffn},
               {"vocab", model.vocab, stored.vocab},
               {"tied_embeddings", model.tied_embeddings, stored.tied_embeddings},
               {"window", model.window, stored.window}};
  for (const auto& size : sizes) {
    if (size.model != size.stored) {
      throw FileError(fmt::format("{}: a model of other shapes: {} is {} there and {} here", folder,
                                  size.name, size.stored, size.model));
    }
  }
}

}  // namespace

void SaveModel(Llama& model, const ModelConfig& config, const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw FileError(fmt::format("{}: cannot make folder: {}", folder, error.message()));
  WriteModelConfig(config, folder, kSeparatorToken);
  if (config.vocab >= kByteVocab) WriteByteTokenizer(folder);
  WriteWeights(model.parameters(), folder);
  FlushFolder(folder);
}

std::unique_ptr<Llama> LoadModel(Context& context, const std::string& folder, DType compute) {
  CheckModelFolder(folder);
  const ModelConfig config = ReadModelConfig(folder);
  CheckWeights(config, folder);
  auto model = std::make_unique<Llama>(context, config, compute);
  ReadWeights(model->parameters(), folder);
  model->ParametersChanged();
  return model;
}

void LoadWeights(Llama& model, const std::string& folder) {
  CheckModelFolder(folder);
  CheckSameShapes(model.config(), ReadModelConfig(folder), folder);
  ReadWeights(model.parameters(), folder);
  model.ParametersChanged();
}

}  // namespace ringwise
