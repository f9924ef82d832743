#include "kernels/amx.h"

#include "kernels/avx512.h"
#include "oneapi/dnnl/dnnl.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace ringwise {
namespace {

bool CpuHasAmx() {
  constexpr unsigned kAmxBf16 = 1u << 22;
  constexpr unsigned kAmxTile = 1u << 24;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & kAmxBf16) != 0 &&
         (edx & kAmxTile) != 0;
}

bool SystemGivesTiles() {
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

bool MayUseAmx() {
  static const bool kGiven = CpuHasAmx() && SystemGivesTiles();
  // oneDNN keeps the limit; its names of instruction sets are sets of bits.
  const auto most = static_cast<unsigned>(dnnl_get_effective_cpu_isa());
  constexpr auto kAmx = static_cast<unsigned>(dnnl_cpu_isa_avx512_core_amx);
  return kGiven && MayUseAvx512() && (most & kAmx) == kAmx;
}

}  // namespace ringwise

#else

namespace ringwise {

bool MayUseAmx() { return false; }

}  // namespace ringwise

#endif
