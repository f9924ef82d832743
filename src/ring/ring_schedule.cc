#include "ring/ring_schedule.h"

#include "attention/tiling.h"
#include "ring/travelling_blocks.h"
#include "ring/travelling_gradients.h"
#include "ringwise/memory.h"

namespace ringwise {
namespace {

ProgressHook MakeProgressHook(Communicator& ring) {
  if (ring.size() == 1) return {};
  return [&ring] { ring.Progress(); };
}

// Others read this rank's memory until they are here.
void AwaitReaders(Communicator& ring, const RingPlan& plan) {
  if (ring.shares_memory() && plan.steps() > 0) ring.Barrier();
}

}  // namespace

void RunRingForward(Context& context, Communicator& ring, const RingPlan& plan, ConstTensorView key,
                    ConstTensorView value, const Positions& positions,
                    ShardAttentionForward& shard) {
  const auto pack = [&](Range rows, std::span<std::byte> block) {
    shard.Pack(key.Slice(1, rows.begin, rows.size()), value.Slice(1, rows.begin, rows.size()),
               PositionsOf(positions, rows), block);
  };
  TravellingBlocks blocks(
      context, ring, plan, [&](int64_t rows) { return shard.BlockBytes(rows); }, pack);
  const ProgressHook progress = MakeProgressHook(ring);
  for (int step = 0; step <= plan.steps(); ++step) {
    const TraceSpan turn(context.trace, TraceKind::kPhase, "ring", {{"step", step}});
    blocks.Post(step);
    const std::byte* attended = nullptr;  // a block of two routes is here twice at step 0
    for (const TravellingBlocks::Here& here : blocks.At(step)) {
      const RingPlan::Route& route = *here.route;
      if (here.block().data() == attended || (step > 0 && !route.uses[step])) continue;
      const TraceSpan span(context.trace, TraceKind::kCompute, "forward",
                           {{"block", route.origin}});
      shard.Attend(here.block(), route.positions, progress);
      attended = here.block().data();
    }
    if (step == 0) {
      for (const Range& rows : plan.RowsAtHome(ring.rank())) {
        const TraceSpan span(context.trace, TraceKind::kCompute, "at home");
        const Buffer block(context.meter, MemoryCategory::kRingBuffers,
                           static_cast<size_t>(shard.BlockBytes(rows.size())));
        pack(rows, block.bytes());
        shard.Attend(block.bytes(), PositionsOf(positions, rows), progress);
      }
    }
    blocks.Wait();
  }
  AwaitReaders(ring, plan);
}

void RunRingBackward(Context& context, Communicator& ring, const RingPlan& plan,
                     ShardAttentionBackward& shard) {
  TravellingBlocks blocks(
      context, ring, plan, [&](int64_t rows) { return shard.BytesOf(rows).block; },
      [&](Range rows, std::span<std::byte> block) { shard.Pack(rows, block); });
  TravellingGradients gradients(context, ring, plan, shard, blocks);
  const ProgressHook progress = MakeProgressHook(ring);
  {
    const TraceSpan turn(context.trace, TraceKind::kPhase, "ring", {{"step", 0}});
    blocks.Post(0);
    {
      const TraceSpan span(context.trace, TraceKind::kCompute, "backward",
                           {{"block", ring.rank()}});
      shard.AttendOwn({0, plan.length(ring.rank())}, progress);
    }
    blocks.Wait();
  }
  // One step more than blocks take: a gradient gets home a step after its last use.
  for (int step = 1; step <= plan.steps() + 1; ++step) {
    const TraceSpan turn(context.trace, TraceKind::kPhase, "ring", {{"step", step}});
    if (step <= plan.steps()) blocks.Post(step);
    for (int number = 0; number < plan.blocks(); ++number) {
      gradients.Begin(step, number);
      for (const TravellingBlocks::Here& here : blocks.At(step)) {
        const RingPlan::Route& route = *here.route;
        if (route.block != number) continue;
        if (!route.GradientLeaves(step)) continue;  // only passes by, before the first use
        const std::span<std::byte> gradient = gradients.Take(route, step);
        if (route.uses[step]) {
          const TraceSpan span(context.trace, TraceKind::kCompute, "backward",
                               {{"block", route.origin}});
          shard.Attend(here.block(), route.positions, gradient, progress);
        }
        gradients.Leave(route, step);
      }
      gradients.End();
    }
    blocks.Wait();
  }
  gradients.End();
  AwaitReaders(ring, plan);
}

}  // namespace ringwise
