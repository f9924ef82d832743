#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "ringwise/dtype.h"
#include "ringwise/thread_team.h"

namespace ringwise {

// Computes with no newer instructions than those of an x86 CPU without AVX-512, to see on one that
// has them what the older one would reach. Before any other call of this library; for the whole
// process. Throws UsageError where the CPU has no AVX2, or something has been computed already.
void LimitToAvx2();

// The features of this machine's CPU that decide which kernels run and how fast: "avx2", "fma",
// "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", ..., as the operating system names them,
// in a fixed order, without those that LimitToAvx2 forbids. Empty where the system does not say.
std::vector<std::string> CpuFeatures();

// Whether the CPU multiplies bf16 by itself, several times as fast as by conversion to f32: what
// `--dtype auto` asks.
bool HasNativeBf16();

// The instruction set chosen at run time for our own vector code ("AVX3", "AVX2", "NEON", ...).
std::string_view VectorTarget();

// Versions of the libraries under the kernels: "2.6.3", "1.0.3".
std::string OneDnnVersion();
std::string HighwayVersion();

// Floating-point operations a second (a multiply-add counts two) of a loop that is timed in many
// samples of a few milliseconds.
struct FlopRate {
  double best = 0;       // of one sample: what a perfect program could reach
  double sustained = 0;  // of all together: what neighbours, and clocks that sink, leave of it
};

// What the team's threads reach together in fused multiply-adds on registers; `best` is the limit
// that a share of peak and MFU refer to.
// For bf16 the faster of that in f32 and of pairwise dot products into f32 (avx512_bf16): what
// vector units reach. Matrix tiles are faster, and a share of this peak may then be above 1.
// Samples are taken for `seconds`. Of the best one the time counts from the first thread's start to
// the last one's end, so threads that share a core do not count twice; what is sustained is the sum
// of each thread's own rate, for a program may deal out its work anew where one core is slower (of
// more threads than cores as many as there are cores).
// Call it near what it is compared with: clocks change, and so do neighbours on a shared machine.
FlopRate MeasurePeakFlops(ThreadTeam& team, DType dtype, double seconds = 0.1);

// The same for bf16 products by matrix tiles (AMX); 0 where the CPU has none.
FlopRate MeasureTilePeakFlops(ThreadTeam& team, double seconds = 0.1);

// Bytes a second that the team's threads together read from memory, in order, each its own part of
// a buffer far larger than the caches: the limit of what reads its input once. The best of several
// passes, taken for `seconds`, at least two.
double MeasureReadBandwidth(ThreadTeam& team, double seconds = 0.2);

}  // namespace ringwise
