#include "ring/ring_agreement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <limits>
#include <utility>

#include "ringwise/error.h"
#include "ringwise/launch.h"
#include "ringwise/layout.h"

namespace ringwise {
namespace {

constexpr int64_t kBatch = 2;
constexpr int64_t kHeads = 4;
constexpr int64_t kKvHeads = 2;
constexpr int64_t kLength = 12;
constexpr int kRing = 3;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// What one rank is about to ask for; tensors' memory is never read before the checks are through.
struct Call {
  RingAttentionOptions options;
  AttentionInputs inputs;
  AttentionSaved saved;
  AttentionGradients gradients;
};

class Tensors {
 public:
  TensorView Make(const Shape& shape, DType dtype = DType::kF32) {
    tensors_.emplace_back(meter_, MemoryCategory::kWorkspace, dtype, shape);
    tensors_.back().Zero();
    return tensors_.back().view();
  }

 private:
  MemoryMeter meter_;
  std::vector<Tensor> tensors_;
};

Call GoodCall(Tensors& tensors, int ring, int rank) {
  Call call;
  for (int r = 0; r < ring; ++r) {
    call.options.query_positions.push_back(ShardPositions(Layout::kZigzag, kLength, ring, r));
    call.options.key_positions.push_back(ShardPositions(Layout::kStriped, kLength, ring, r));
  }
  const int64_t q_len = Count(call.options.query_positions[rank]);
  const int64_t k_len = Count(call.options.key_positions[rank]);
  const Shape query = {kBatch, q_len, kHeads, 8};
  const Shape output = {kBatch, q_len, kHeads, 5};
  const Shape key = {kBatch, k_len, kKvHeads, 8};
  const Shape value = {kBatch, k_len, kKvHeads, 5};
  call.inputs = {tensors.Make(query), tensors.Make(key), tensors.Make(value)};
  call.saved = {tensors.Make(output), tensors.Make({kBatch, kHeads, q_len}), tensors.Make(output)};
  call.gradients = {tensors.Make(query), tensors.Make(key), tensors.Make(value)};
  return call;
}

struct Mistake {
  const char* says;
  void (*make)(Call& call, Tensors& tensors);
};

// The error that every rank of a ring throws when the ranks with `makes_it` make the mistake.
template <class MakesIt>
std::string ErrorOf(const Mistake& mistake, int ring, const MakesIt& makes_it) {
  std::string says;
  std::atomic<int> errors{0};
  MeshOptions mesh;
  mesh.ring = ring;
  mesh.threads = 1;
  mesh.timeout_seconds = 60;
  Launch(mesh, [&](Rank& rank) {
    Tensors tensors;
    Call call = GoodCall(tensors, ring, rank.ring.rank());
    if (makes_it(rank.ring.rank())) mistake.make(call, tensors);
    const auto attempt = [&](const auto& run) {
      try {
        run();
      } catch (const PeerError&) {
        ADD_FAILURE() << "another rank's error, not its own";
      } catch (const Error& error) {
        if (rank.ring.rank() == 0) says = error.what();
        ++errors;
      }
    };
    attempt([&] {
      RingAttentionBackward(rank.context, rank.ring, call.options, call.inputs, call.saved,
                            call.gradients);
    });
    EXPECT_EQ(rank.ring.bytes_sent(), 0);
  });
  EXPECT_EQ(errors, ring) << "every rank must throw";
  return says;
}

std::shared_ptr<const SegmentMap> MakeSegments(int64_t batch, Segments queries) {
  return std::make_shared<SegmentMap>(std::vector<Segments>(batch, std::move(queries)),
                                      std::vector<Segments>(batch));
}
std::shared_ptr<const std::vector<MaskSlice>> MakeSlices(const MaskSlice& slice) {
  return std::make_shared<std::vector<MaskSlice>>(1, slice);
}

TEST(RingAgreement, AGoodCallPasses) {
  MeshOptions mesh;
  mesh.ring = kRing;
  mesh.threads = 1;
  Launch(mesh, [&](Rank& rank) {
    Tensors tensors;
    const Call call = GoodCall(tensors, kRing, rank.ring.rank());
    const AttentionShape shape =
        AgreeOnBackward(rank.ring, call.options, call.inputs, call.saved, call.gradients);
    EXPECT_EQ(shape.head_dim, 8);
    EXPECT_EQ(shape.value_dim, 5);
  });
}

// What no rank may ask for.
const Mistake kBadOptions[] = {
    {"scale must be a number that f32 holds, found nan",
     [](Call& call, Tensors&) { call.options.scale = kNaN; }},
    {"window's left must be 0 or more, found -3",
     [](Call& call, Tensors&) { call.options.mask.window_left = -3; }},
    {"window's right must be 0 or more, found -1",
     [](Call& call, Tensors&) { call.options.mask.window_right = -1; }},
    {"causal_block must be 1 or more, or 0 for none, found -2",
     [](Call& call, Tensors&) { call.options.mask.causal_block = -2; }},
    {"segments must be of 2 sequences, as the batch, found 3",
     [](Call& call, Tensors&) { call.options.mask.segments = MakeSegments(3, {}); }},
    {"segments of queries must ascend without overlap, found [2, 5) in sequence 0",
     [](Call& call, Tensors&) {
       call.options.mask.segments = MakeSegments(kBatch, {{0, 3, 1}, {2, 5, 2}});
     }},
    {"slice 0's head must be 0 to 3, found 4",
     [](Call& call, Tensors&) {
       call.options.mask.slices = MakeSlices({4, 0, 1, 0, 1});
     }},
    {"slice 0's ends must be within -2^60 to 2^60, found -9223372036854775808",
     [](Call& call, Tensors&) {
       call.options.mask.slices = MakeSlices({{}, INT64_MIN, 1, 0, 1});
     }},
    {"slice 0 must end at or after its begin, found queries [2, 1) and keys [0, 1)",
     [](Call& call, Tensors&) {
       call.options.mask.slices = MakeSlices({{}, 2, 1, 0, 1});
     }},
    {"softcap must be 1.2e-38 to 3.4e38, or 0 for none, found -1",
     [](Call& call, Tensors&) { call.options.softcap = -1; }},
    {"softcap must be 1.2e-38 to 3.4e38, or 0 for none, found nan",
     [](Call& call, Tensors&) { call.options.softcap = kNaN; }},
    {"alibi_slopes must be 4 numbers, one a query head, found 2",
     [](Call& call, Tensors&) {
       call.options.alibi_slopes = {1, 2};
     }},
    {"alibi_slopes must be finite, found inf for head 2",
     [](Call& call, Tensors&) {
       call.options.alibi_slopes = {1, 2, HUGE_VALF, 4};
     }},
    {"dropout's probability must be 0 or more and below 1, found 1",
     [](Call& call, Tensors&) { call.options.dropout.probability = 1; }},
    {"bias must be [1 or 2, 1 or 4, ",
     [](Call& call, Tensors& tensors) {
       call.options.bias = tensors.Make({1, 3, 4, 12});
     }},
    {"1, 12 or more]: sequences, heads, queries and key positions; found [1, 1, 1, 11]",
     [](Call& call, Tensors& tensors) {
       call.options.bias_has_one_row = true;
       call.options.bias = tensors.Make({1, 1, 1, 11});
     }},
    {"found [1, 1, 2, 12]",
     [](Call& call, Tensors& tensors) {
       call.options.bias = tensors.Make({1, 1, 2, 12});
     }},
    {"bias must be f32, found bf16",
     [](Call& call, Tensors& tensors) {
       call.options.bias = tensors.Make({1, 1, 1, 12}, DType::kBF16);
     }},
    {"by key position from 0, but keys begin at -1",
     [](Call& call, Tensors& tensors) {
       for (Positions& positions : call.options.key_positions) --positions.at(0).start;
       call.options.bias = tensors.Make({1, 1, 1, 12});
     }},
    {"sinks must be [4], found [5]",
     [](Call& call, Tensors& tensors) { call.options.sinks = tensors.Make({5}); }},
    {"sinks must be f32, found bf16",
     [](Call& call, Tensors& tensors) { call.options.sinks = tensors.Make({4}, DType::kBF16); }},
    {"a bias gradient is asked for, but there is no bias",
     [](Call& call, Tensors& tensors) {
       call.gradients.bias = tensors.Make({1, 1, 1, 12});
     }},
    {"sinks gradient must be [4], found [3]",
     [](Call& call, Tensors& tensors) {
       call.options.sinks = tensors.Make({4});
       call.gradients.sinks = tensors.Make({3});
     }},
    {"logsumexp gradient must be [2, 4, ",
     [](Call& call, Tensors& tensors) {
       call.saved.logsumexp_gradient = tensors.Make({2, 4, 99});
     }},
    {"value must be",
     [](Call& call, Tensors&) { call.inputs.value = call.inputs.value.Slice(1, 0, 1); }},
    {"output gradient must be",
     [](Call& call, Tensors&) { call.saved.output_gradient = call.inputs.query; }},
    {"kv_heads must divide heads",
     [](Call& call, Tensors&) { call.inputs.query = call.inputs.query.Slice(2, 0, 3); }},
    {"value head_dim must be 1 to 256, found 257",
     [](Call& call, Tensors& tensors) {
       call.inputs.value = tensors.Make({kBatch, call.inputs.key.shape[1], kKvHeads, 257});
     }},
};

TEST(RingAgreement, BadOptionsAreEveryRanksError) {
  for (const Mistake& mistake : kBadOptions) {
    for (const int ring : {1, kRing}) {
      EXPECT_THAT(ErrorOf(mistake, ring, [](int) { return true; }),
                  testing::HasSubstr(mistake.says));
    }
  }
}

TEST(RingAgreement, OneRanksMistakeIsEveryRanksError) {
  for (const Mistake& mistake : kBadOptions) {
    EXPECT_THAT(ErrorOf(mistake, kRing, [](int rank) { return rank == 1; }),
                testing::AllOf(testing::HasSubstr(mistake.says),
                               testing::HasSubstr("(on rank 1 of the ring)")));
  }
}

// What a rank may ask for, but all must.
const Mistake kDifferences[] = {
    {"head_dim must be the same on every rank of the ring, found 8 on rank 0 and 6 on rank 1",
     [](Call& call, Tensors&) {
       call.inputs.query = call.inputs.query.Slice(3, 0, 6);
       call.inputs.key = call.inputs.key.Slice(3, 0, 6);
       call.gradients.query = call.gradients.query.Slice(3, 0, 6);
       call.gradients.key = call.gradients.key.Slice(3, 0, 6);
     }},
    {"scale (whether it is given)", [](Call& call, Tensors&) { call.options.scale = 2; }},
    {"mask.causal must be the same on every rank of the ring, found no on rank 0 and yes on rank 1",
     [](Call& call, Tensors&) { call.options.mask.causal = true; }},
    {"mask.window_left must be the same on every rank of the ring, found none on rank 0 and 3",
     [](Call& call, Tensors&) { call.options.mask.window_left = 3; }},
    {"mask.window_right", [](Call& call, Tensors&) { call.options.mask.window_right = 0; }},
    {"mask.causal_block", [](Call& call, Tensors&) { call.options.mask.causal_block = 4; }},
    {"mask.segments",
     [](Call& call, Tensors&) {
       call.options.mask.segments = MakeSegments(kBatch, {{0, 9, 1}});
     }},
    {"mask.slices",
     [](Call& call, Tensors&) {
       call.options.mask.slices = MakeSlices({{}, 0, 4, 0, 4});
     }},
    {"softcap must be the same on every rank of the ring, found 0 on rank 0 and 1.5 on rank 1",
     [](Call& call, Tensors&) { call.options.softcap = 1.5; }},
    {"alibi_slopes",
     [](Call& call, Tensors&) {
       call.options.alibi_slopes = {1, 2, 3, 4};
     }},
    {"dropout.probability", [](Call& call, Tensors&) { call.options.dropout.probability = 0.5; }},
    {"dropout.seed", [](Call& call, Tensors&) { call.options.dropout.seed = 7; }},
    {"dropout.first_batch", [](Call& call, Tensors&) { call.options.dropout.first_batch = 7; }},
    {"dropout.first_head", [](Call& call, Tensors&) { call.options.dropout.first_head = 7; }},
    {"bias (whether it is given)",
     [](Call& call, Tensors& tensors) {
       call.options.bias_has_one_row = true;
       call.options.bias = tensors.Make({1, 1, 1, 12});
     }},
    {"sinks (whether they are given)",
     [](Call& call, Tensors& tensors) { call.options.sinks = tensors.Make({4}); }},
    {"key_positions must be the same on every rank of the ring, found others on rank 1",
     [](Call& call, Tensors&) { ++call.options.key_positions[0].at(0).start; }},
    {"positions of 3 ranks are needed, found 2",
     [](Call& call, Tensors&) { call.options.query_positions.pop_back(); }},
};

TEST(RingAgreement, WhatDiffersBetweenRanksIsEveryRanksError) {
  for (const Mistake& mistake : kDifferences) {
    EXPECT_THAT(ErrorOf(mistake, kRing, [](int rank) { return rank == 1; }),
                testing::AllOf(testing::HasSubstr(mistake.says), testing::HasSubstr("rank 1")));
  }
}

// Values inside what every rank gives.
TEST(RingAgreement, ContentsThatDifferAreEveryRanksError) {
  struct Contents {
    const char* says;
    void (*make)(Call& call, Tensors& tensors, int rank);
  };
  const Contents contents[] = {
      {"scale must be the same on every rank of the ring, found 1 on rank 0 and 2 on rank 1",
       [](Call& call, Tensors&, int rank) { call.options.scale = 1 + rank; }},
      {"mask.segments must be the same on every rank of the ring, found others on rank 1",
       [](Call& call, Tensors&, int rank) {
         call.options.mask.segments = MakeSegments(kBatch, {{0, 5, rank}});
       }},
      {"mask.slices must be",
       [](Call& call, Tensors&, int rank) {
         call.options.mask.slices = MakeSlices({{}, 0, 4, 0, rank});
       }},
      {"sinks must be the same",
       [](Call& call, Tensors& tensors, int rank) {
         const TensorView sinks = tensors.Make({kHeads});
         *sinks.at<float>(2) = static_cast<float>(rank);
         call.options.sinks = sinks;
       }},
      {"bias's heads must be the same on every rank of the ring, found 1 on rank 0 and 4",
       [](Call& call, Tensors& tensors, int rank) {
         call.options.bias_has_one_row = true;
         call.options.bias = tensors.Make({1, rank == 0 ? 1 : kHeads, 1, kLength});
       }},
      {"the sinks gradient (whether it is asked for)",
       [](Call& call, Tensors& tensors, int rank) {
         call.options.sinks = tensors.Make({kHeads});
         if (rank > 0) call.gradients.sinks = tensors.Make({kHeads});
       }},
  };
  for (const Contents& differing : contents) {
    std::atomic<int> errors{0};
    MeshOptions mesh;
    mesh.ring = kRing;
    mesh.threads = 1;
    mesh.timeout_seconds = 60;
    Launch(mesh, [&](Rank& rank) {
      Tensors tensors;
      Call call = GoodCall(tensors, kRing, rank.ring.rank());
      differing.make(call, tensors, rank.ring.rank());
      try {
        RingAttentionBackward(rank.context, rank.ring, call.options, call.inputs, call.saved,
                              call.gradients);
      } catch (const ShapeError& error) {
        EXPECT_THAT(error.what(), testing::HasSubstr(differing.says));
        ++errors;
      }
    });
    EXPECT_EQ(errors, kRing) << differing.says;
  }
}

// A rank that goes forward while another goes backward.
TEST(RingAgreement, DirectionsThatDifferAreEveryRanksError) {
  std::atomic<int> errors{0};
  MeshOptions mesh;
  mesh.ring = 2;
  mesh.threads = 1;
  mesh.timeout_seconds = 60;
  Launch(mesh, [&](Rank& rank) {
    Tensors tensors;
    const Call call = GoodCall(tensors, 2, rank.ring.rank());
    try {
      if (rank.ring.rank() == 0) {
        AgreeOnForward(
            rank.ring, call.options, call.inputs,
            {tensors.Make(call.saved.output.shape), tensors.Make(call.saved.logsumexp.shape)});
      } else {
        AgreeOnBackward(rank.ring, call.options, call.inputs, call.saved, call.gradients);
      }
    } catch (const ShapeError& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("whether it is backward"));
      ++errors;
    }
  });
  EXPECT_EQ(errors, 2);
}

}  // namespace
}  // namespace ringwise
