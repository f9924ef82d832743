#pragma once

#include <cstdint>
#include <string>

namespace ringwise {

// Shapes and constants of a Llama model, or of a Mistral one, which is a Llama with a window: what
// Hugging Face's config.json says, under our names.
struct ModelConfig {
  int64_t hidden = 0;            // hidden_size
  int64_t layers = 0;            // num_hidden_layers
  int64_t heads = 0;             // num_attention_heads
  int64_t kv_heads = 0;          // num_key_value_heads; divides heads
  int64_t head_dim = 0;          // head_dim; even (rotary pairs), at most 256
  int64_t ffn = 0;               // intermediate_size
  int64_t vocab = 0;             // vocab_size
  int64_t max_positions = 0;     // max_position_embeddings: the longest context trained on
  double rope_theta = 10000.0;   // rope_theta: base of the rotary embedding
  double rms_norm_eps = 1e-5;    // rms_norm_eps
  bool tied_embeddings = false;  // tie_word_embeddings
  int64_t window = 0;  // sliding_window: a token sees itself and the window - 1 before; 0: all
  double attention_dropout = 0;  // attention_dropout: of the training it comes from, [0, 1)
};

// Throws UsageError naming the field: not positive, heads not a multiple of kv_heads, odd head_dim,
// ...
void Validate(const ModelConfig& config);

// Parameters that take part in matrix products: all but the embedding and the norms. The output
// head counts, tied or not. For the MFU formula of docs/training.md.
int64_t MatrixParameters(const ModelConfig& config);

// A Hugging Face folder's config.json (LlamaForCausalLM or MistralForCausalLM; written as the
// latter where the model has a window). Throws FileError: missing, not JSON, another architecture,
// a field missing or of the wrong type.
ModelConfig ReadModelConfig(const std::string& folder);
// The same of a file with any name.
ModelConfig ReadModelConfigFile(const std::string& path);
void WriteModelConfig(const ModelConfig& config, const std::string& folder,
                      int64_t separator_token);

}  // namespace ringwise
