// What tests/formats_test.py needs of the formats:
//   formats_probe config IN OUT    reads IN/config.json, writes it and the byte tokenizer to OUT
//   formats_probe tensors IN OUT   copies a safetensors file
#include <cstdio>
#include <string>
#include <vector>

#include "ringwise/corpus.h"
#include "ringwise/error.h"
#include "ringwise/model_config.h"
#include "ringwise/safetensors.h"

namespace ringwise {
namespace {

int Main(const std::vector<std::string>& args) {
  if (args.size() != 3) throw UsageError("usage: formats_probe config|tensors IN OUT");
  if (args[0] == "config") {
    WriteModelConfig(ReadModelConfig(args[1]), args[2], kSeparatorToken);
    WriteByteTokenizer(args[2]);
    return 0;
  }
  const SafetensorsFile file(args[1]);
  std::vector<NamedBytes> tensors;
  for (const auto& [name, entry] : file.entries()) tensors.push_back({name, entry});
  WriteSafetensors(args[2], tensors, file.metadata());
  return 0;
}

}  // namespace
}  // namespace ringwise

int main(int argc, char** argv) {
  try {
    return ringwise::Main({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
