#include "ringwise/cpu.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <set>
#include <sstream>

#include "hwy/targets.h"
#include "kernels/avx512.h"
#include "oneapi/dnnl/dnnl.h"
#include "ringwise/error.h"

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
    for (std::string word; words >> word;) {
      const bool newer = word.starts_with("avx512") || word.starts_with("amx");
      if (!newer || MayUseAvx512()) flags.insert(word);
    }
    break;  // every core has the same
  }
  return flags;
}

}  // namespace

bool MayUseAvx512() {
#if defined(__x86_64__)
  // oneDNN keeps the limit.
  const dnnl_cpu_isa_t most = dnnl_get_effective_cpu_isa();
  return most != dnnl_cpu_isa_sse41 && most != dnnl_cpu_isa_avx && most != dnnl_cpu_isa_avx2 &&
         most != dnnl_cpu_isa_avx2_vnni && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

void LimitToAvx2() {
  const int64_t has = hwy::SupportedTargets();
  if ((has & HWY_AVX2) == 0) {
    throw UsageError("--avx2: expected a CPU with AVX2, found one without; leave it out");
  }
  if (dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx2) != dnnl_success) {
    throw UsageError("instructions can be limited only before anything is computed");
  }
  // Not DisableTargets: Highway 1.0.3 forgets it whenever it is asked what the CPU supports. Lower
  // bits are better targets.
  hwy::GetChosenTarget().Update(has & ~(HWY_AVX2 - 1));
}

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
