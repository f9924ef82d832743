#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "ringwise/attention_design.h"
#include "ringwise/benchmark.h"
#include "ringwise/dtype.h"
#include "ringwise/layout.h"
#include "ringwise/llama.h"
#include "ringwise/model_config.h"

namespace ringwise {

// One row of the comparison of attention designs.
struct ContextDesign {
  std::string name;
  AttentionDesign attention = AttentionDesign::kRing;
  Layout layout = Layout::kContiguous;
  // BlockBERT's blockwise sparse attention [arXiv 1911.02972] under the causal mask: the sequence
  // in as many blocks as there are heads, and head h of query block i sees key block i - h, modulo
  // the number of blocks, alone. Blocks ahead of the query stay hidden.
  bool sparse = false;

  bool runs_on(int ranks) const { return attention == AttentionDesign::kRing || ranks == 1; }
};

// vanilla, memory_efficient, blockwise; ring (contiguous), striped, zigzag, and sparse on a zigzag
// ring.
std::vector<ContextDesign> ContextDesigns();

// What BenchmarkContext makes, in this order.
enum class ContextTable { kBalance, kMemory, kTime, kLargest };
std::string_view Name(ContextTable table);  // "balance", ...

struct ContextOptions {
  ModelConfig model = {.hidden = 128,
                       .layers = 4,
                       .heads = 8,
                       .kv_heads = 8,
                       .head_dim = 16,
                       .ffn = 352,
                       .vocab = 257,
                       .max_positions = 1};
  std::vector<ContextDesign> designs = ContextDesigns();
  std::vector<ContextTable> tables = {ContextTable::kBalance, ContextTable::kMemory,
                                      ContextTable::kTime, ContextTable::kLargest};
  DType dtype = DType::kF32;
  Recompute recompute = Recompute::kBlock;  // the papers', for every design
  // Of activations, ring buffers and workspace of a rank at their highest moment, in bytes;
  // parameters, their gradients and moments do not count.
  int64_t budget = int64_t{64} << 20;
  std::vector<int> ranks = {1, 2, 4, 8};
  // Ascending. Those at which a design needs 64 budgets are not shown, 16 budgets not timed.
  std::vector<int64_t> memory_contexts = {1024, 2048, 4096, 8192, 16384, 32768, 65536};
  std::vector<int64_t> time_contexts = {1024, 4096, 16384};
  bool trains = true;      // the largest contexts, for a step each; else dry runs alone find them
  double min_seconds = 2;  // of timed steps, at least three
  bool progress = false;
};

// What a training step holds, by the meter, without computing it.
struct ContextMemory {
  int ranks = 1;
  int64_t context = 0;
  int64_t working = 0;  // the rank that holds most: all that counts, at its highest moment
  int64_t kept = 0;     // of it by a layer, from its forward to its backward
  int64_t at_work = 0;  // the rest: one layer at work, in its backward, and what is constant
  int64_t paper = 0;    // the papers' activations of a layer, for this type
  std::string paper_formula;
};

// The most that trains within the budget.
struct ContextLargest {
  int ranks = 1;
  int64_t context = 0;    // tokens
  int64_t predicted = 0;  // working bytes of the dry run
  int64_t measured = 0;   // of the real step; 0 and so below where there is none
  double loss = 0;        // of that step, nats a token
  double seconds = 0;     // of it
};

// Steps at one context; ranks are threads, and share the cores.
struct ContextTime : BenchmarkResult {
  int64_t context = 0;
  double loss = 0;  // of the first step: the same for every design but the sparse one

  double tokens_per_second() const { return static_cast<double>(context) / seconds; }
};

// The busiest rank's visible pairs over the mean; 1 is even.
struct ContextBalance {
  int ranks = 1;
  int64_t context = 0;
  double work = 1;
};

struct OnContextResult {
  OnResult<ContextDesign, ContextMemory> memory;
  OnResult<ContextDesign, ContextLargest> largest;
  OnResult<ContextDesign, ContextTime> time;
  OnResult<ContextDesign, ContextBalance> balance;
};

// Compares the designs: balance, memory over context by dry runs, time, and the largest context by
// dry runs bisected to a token a rank and then one real step. Each dry run is a training step of a
// rehearsing team. Throws UsageError if the budget is too small for a token a rank, or under
// mpirun: ranks are threads here; Error if losses at one context differ by more than 1e-5 (f32;
// 1e-2 bf16) or a real step held other memory than its dry run.
void BenchmarkContext(const ContextOptions& options, const OnContextResult& on_result);

// One training step's working bytes on the rank that holds most, rehearsed or real: what the above
// is made of.
int64_t RehearseContext(const ContextOptions& options, const ContextDesign& design, int ranks,
                        int64_t context);
ContextLargest TrainContext(const ContextOptions& options, const ContextDesign& design, int ranks,
                            int64_t context);

}  // namespace ringwise
