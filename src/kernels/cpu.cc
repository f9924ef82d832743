#include "ringwise/cpu.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <set>
#include <sstream>

#include "oneapi/dnnl/dnnl.h"

namespace ringwise {
namespace {

constexpr std::array kFeatures = {
    "sse4_2",   "avx",      "avx2",     "f16c",        "fma",         "avx512f",
    "avx512dq", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_bf16", "asimd",    "sve",         "sve2",        "bf16",
};

// The kernel lists a feature only if it saves that feature's registers, which CPUID alone would not
// tell.
std::set<std::string> SystemFlags() {
  std::ifstream file("/proc/cpuinfo");
  std::set<std::string> flags;
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("flags") && !line.starts_with("Features")) continue;
    std::istringstream words(line.substr(std::min(line.find(':'), line.size() - 1) + 1));
    for (std::string word; words >> word;) flags.insert(word);
    break;  // every core has the same
  }
  return flags;
}

}  // namespace

std::vector<std::string> CpuFeatures() {
  const std::set<std::string> flags = SystemFlags();
  std::vector<std::string> features;
  for (const char* feature : kFeatures) {
    if (flags.contains(feature)) features.emplace_back(feature);
  }
  return features;
}

bool HasNativeBf16() {
  static const bool native = [] {
    const std::set<std::string> flags = SystemFlags();
    return flags.contains("avx512_bf16") || flags.contains("amx_bf16") || flags.contains("bf16");
  }();
  return native;
}

std::string OneDnnVersion() {
  const dnnl_version_t* version = dnnl_version();
  std::ostringstream text;
  text << version->major << '.' << version->minor << '.' << version->patch;
  return text.str();
}

}  // namespace ringwise
