// Ring attention on random cases, or on one: see ring/ring_proof.h.
//
//   attention_proof_probe --cases 1000 --seed 1      draws cases; prints the ones that fail as
//   flags attention_proof_probe --batch 1 --heads 2 ...    runs that one again
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

int64_t Integer(const Flags& flags, const char* name, int64_t otherwise) {
  const auto found = flags.find(name);
  return found == flags.end() ? otherwise : std::stoll(found->second);
}

RingCase CaseOf(const Flags& flags) {
  RingCase c;
  c.batch = Integer(flags, "--batch", c.batch);
  c.heads = Integer(flags, "--heads", c.heads);
  c.kv_heads = Integer(flags, "--kv-heads", c.kv_heads);
  c.head_dim = Integer(flags, "--head-dim", c.head_dim);
  c.q_len = Integer(flags, "--q-len", c.q_len);
  c.kv_len = Integer(flags, "--kv-len", c.kv_len);
  c.query_offset = Integer(flags, "--query-offset", c.kv_len - c.q_len);
  c.causal = Integer(flags, "--causal", 1) != 0;
  c.ring = static_cast<int>(Integer(flags, "--ring", c.ring));
  c.threads = static_cast<int>(Integer(flags, "--threads", c.threads));
  c.seed = static_cast<uint64_t>(Integer(flags, "--seed", 1));
  if (flags.contains("--scale")) c.scale = std::stod(flags.at("--scale"));
  if (flags.contains("--layout")) c.layout = ParseLayout(flags.at("--layout"));
  if (flags.contains("--dtype")) {
    c.dtype = flags.at("--dtype") == "bf16" ? DType::kBF16 : DType::kF32;
  }
  return c;
}

int Main(int argc, char** argv) {
  Flags flags;
  for (int i = 1; i + 1 < argc; i += 2) flags[argv[i]] = argv[i + 1];
  if (!flags.contains("--cases")) {
    const RingCase c = CaseOf(flags);
    const ProofResult proof = ProveCase(c);
    fmt::print("{}\n  {}\n", c.ToString(), proof.problem.empty() ? "passed" : proof.problem);
    return proof.problem.empty() ? 0 : 1;
  }
  const int64_t cases = Integer(flags, "--cases", 1000);
  Random random(static_cast<uint64_t>(Integer(flags, "--seed", 1)), 0);
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
      "and {:.2e} (dq, dk) of the scale\n",
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
