#include <gtest/gtest.h>

#include <utility>

#include "attention/attention_oracle.h"
#include "comm/launch_parts.h"
#include "ring/ring_case_run.h"
#include "ring/ring_proof.h"
#include "ringwise/launch.h"

// Ring attention over the processes of this MPI job: within the bounds of float64, and the same
// bits as threads give.
namespace ringwise {
namespace {

constexpr Layout kLayouts[] = {Layout::kContiguous, Layout::kStriped, Layout::kZigzag};

// The ring of threads that does what this job does, without asking MPI.
WholeResults RunOnThreads(const RingCase& c, const RingCaseData& data) {
  WholeResults results;
  MeshOptions mesh;
  mesh.ring = c.ring;
  mesh.threads = 1;
  LaunchThreads(mesh, [&](Rank& rank) {
    WholeResults mine = RunCaseOn(rank.context, rank.ring, data);
    if (rank.ring.rank() == 0) results = std::move(mine);
  });
  return results;
}

TEST(RingAttentionMpi, GivesTheBitsOfThreads) {
  MeshOptions mesh;
  mesh.threads = 1;
  mesh.timeout_seconds = 60;
  Launch(mesh, [&](Rank& rank) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const int64_t seq : {0, 1, 17, 300}) {
        for (const bool causal : {false, true}) {
          for (const Layout layout : kLayouts) {
            RingCase c;
            c.heads = 4;
            c.kv_heads = 2;
            c.head_dim = 20;
            c.q_len = seq;
            c.kv_len = seq + (causal ? 0 : 5);
            c.causal = causal;
            c.layout = layout;
            c.dtype = dtype;
            c.ring = rank.ring.size();
            SCOPED_TRACE(c.ToString());
            const RingCaseData data(c);
            const WholeResults results = RunCaseOn(rank.context, rank.ring, data);
            if (rank.ring.rank() != 0) continue;
            EXPECT_TRUE(SameBits(results, RunOnThreads(c, data))) << "other bits than threads";
            if (dtype == DType::kBF16) continue;
            const AttentionOracle oracle = ComputeAttentionOracle(data.attention_case());
            EXPECT_EQ(CheckAttention(ToResults(results), oracle, oracle, {}), "");
          }
        }
      }
    }
  });
}

// Random compositions of all options; each rank holds its share of them against float64. The job is
// run at four numbers of ranks: 200 cases in all.
TEST(RingAttentionMpi, RandomCompositions) {
  constexpr int kCases = 50;
  MeshOptions mesh;
  mesh.threads = 1;
  mesh.timeout_seconds = 60;
  Launch(mesh, [&](Rank& rank) {
    Random random(4, static_cast<uint64_t>(rank.ring.size()));
    for (int i = 0; i < kCases; ++i) {
      RingCase c = DrawCase(random);
      c.ring = rank.ring.size();
      const RingCaseData data(c);
      const WholeResults results = RunCaseOn(rank.context, rank.ring, data);
      if (i % rank.ring.size() != rank.ring.rank()) continue;
      const AttentionOracle oracle = ComputeAttentionOracle(data.attention_case());
      EXPECT_EQ(CheckResults(data, ToResults(results), oracle), "")
          << "mpirun -n " << c.ring << ": attention_proof_probe " << c.ToString();
    }
  });
}

TEST(RingAttentionMpi, InDoubleARingIsTheWhole) {
  MeshOptions mesh;
  mesh.threads = 1;
  mesh.timeout_seconds = 60;
  Launch(mesh, [&](Rank& rank) {
    for (const Layout layout : kLayouts) {
      RingCase c;
      c.q_len = c.kv_len = 23;
      c.layout = layout;
      c.ring = rank.ring.size();
      const RingCaseData data(c);
      const AttentionOracle oracle = ComputeAttentionOracle(data.attention_case());
      const AttentionResults results = RunReferenceCaseOn(rank.context, rank.ring, c, data);
      EXPECT_EQ(CheckAttention(results, oracle, oracle, {1e-13, 1e-13}), "");
    }
  });
}

}  // namespace
}  // namespace ringwise

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
