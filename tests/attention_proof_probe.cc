// Ring attention on random cases, or on one: see ring/ring_proof.h.
//
//   attention_proof_probe --cases 1000 --seed 1      draws cases; prints those that fail as flags
//   attention_proof_probe --heads 3 --ring 2 ...     runs that one again
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "ring/ring_proof.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

using Flags = std::map<std::string, std::string>;

int Main(int argc, char** argv) {
  Flags flags;
  for (int i = 1; i + 1 < argc; i += 2) flags[argv[i]] = argv[i + 1];
  if (!flags.contains("--cases")) {
    const RingCase c = ParseRingCase(flags);
    const ProofResult proof = ProveCase(c);
    fmt::print("{}\n  {}\n", c.ToString(), proof.problem.empty() ? "passed" : proof.problem);
    return proof.problem.empty() ? 0 : 1;
  }
  const int64_t cases = std::stoll(flags.at("--cases"));
  const uint64_t seed = flags.contains("--seed") ? std::stoull(flags.at("--seed")) : 1;
  Random random(seed, 0);
  int64_t failed = 0;
  ProofResult worst;
  for (int64_t i = 0; i < cases; ++i) {
    const RingCase c = DrawCase(random);
    const ProofResult proof = ProveCase(c);
    worst.forward_from_one = std::max(worst.forward_from_one, proof.forward_from_one);
    worst.backward_from_one = std::max(worst.backward_from_one, proof.backward_from_one);
    if (proof.problem.empty()) continue;
    ++failed;
    fmt::print("attention_proof_probe {}\n  {}\n", c.ToString(), proof.problem);
  }
  fmt::print(
      "{} cases, {} failed; f32 from the ring of one at most {:.2e} (output, logsumexp, dv) "
      "and {:.2e} (dq, dk, dbias, dsinks) of the scale\n",
      cases, failed, worst.forward_from_one, worst.backward_from_one);
  return failed == 0 && cases > 0 ? 0 : 1;
}

}  // namespace
}  // namespace ringwise

int main(int argc, char** argv) {
  try {
    return ringwise::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "attention_proof_probe: %s\n", error.what());
    return 2;
  }
}
