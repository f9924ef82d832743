#include "ring/ring_schedule.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>
#include <utility>

#include "ringwise/memory.h"

namespace ringwise {
namespace {

template <class View>
View Rows(const View& view, Range rows) {
  return view.Slice(1, rows.begin, rows.size());
}

// Calls visit(rows) for the stretches of this rank's keys that no block takes along.
template <class Visit>
void ForEachStretchAtHome(const RingBlocks& blocks, int own, const Visit& visit) {
  const Range rows = blocks.plan.rows(own);
  const int64_t length = Count(blocks.key_positions[own]);
  if (rows.begin > 0) visit(Range{0, rows.begin});
  if (rows.end < length) visit(Range{rows.end, length});
}

enum Tag { kBlockTag, kGradientTag, kHomeTag };

// Moves blocks around the ring, double-buffered: the block of step s is in buffer s mod 2. Shard is
// either direction's interface.
template <class Shard>
class TravellingBlocks {
 public:
  TravellingBlocks(Context& context, Communicator& ring, const RingBlocks& blocks, Shard& shard)
      : ring_(ring), blocks_(blocks), shard_(shard) {
    const RingPlan& plan = blocks_.plan;
    std::array<int64_t, 2> bytes = {0, 0};
    for (int step = 0; step < plan.ring_size(); ++step) {
      if (Has(step)) bytes[step % 2] = std::max(bytes[step % 2], Bytes(step));
    }
    for (int b = 0; b < 2; ++b) {
      buffers_[b] = Buffer(context.meter, MemoryCategory::kRingBuffers, bytes[b]);
    }
    for (int b = 0; b < plan.ring_size(); ++b) {
      positions_.push_back(PositionsOf(blocks.key_positions[b], plan.rows(b)));
    }
    if (!Has(0)) return;
    const TraceSpan span(context.trace, TraceKind::kCompute, "pack");
    const Range rows = plan.rows(ring.rank());
    shard_.Pack(Rows(blocks.key, rows), Rows(blocks.value, rows), positions(0), block(0));
  }

  // Whether this rank holds a block at `step`, which may be past the last.
  bool Has(int step) const {
    const RingPlan& plan = blocks_.plan;
    return step < plan.ring_size() && step <= plan.last_use(index(step));
  }
  int index(int step) const { return blocks_.plan.BlockAt(ring_.rank(), step); }
  std::span<std::byte> block(int step) const {
    return buffers_[step % 2].bytes().first(Bytes(step));
  }
  const Positions& positions(int step) const { return positions_[index(step)]; }

  void Post(int step) {
    if (Has(step + 1)) {
      receive_ = ring_.Receive(block(step + 1), Previous(), kBlockTag);
    }
    if (Has(step) && blocks_.plan.Moves(index(step), step)) {
      send_ = ring_.Send(block(step), Next(), kBlockTag);
    }
  }
  void Wait() {
    ring_.Wait(receive_);
    ring_.Wait(send_);
  }

  int Next() const { return (ring_.rank() + 1) % ring_.size(); }
  int Previous() const { return (ring_.rank() + ring_.size() - 1) % ring_.size(); }

 private:
  int64_t Bytes(int step) const { return shard_.BlockBytes(blocks_.plan.kv_len(index(step))); }

  Communicator& ring_;
  const RingBlocks& blocks_;
  Shard& shard_;
  std::vector<Positions> positions_;  // by block
  std::array<Buffer, 2> buffers_;
  Communicator::TransferPtr receive_, send_;  // after the buffers: gone before them
};

ProgressHook MakeProgressHook(Communicator& ring) {
  if (ring.size() == 1) return {};
  return [&ring] { ring.Progress(); };
}

// Gradient buffers, all of one size, made when first needed and used again.
class GradientBuffers {
 public:
  GradientBuffers(Context& context, int64_t bytes) : context_(context), bytes_(bytes) {}

  Buffer Take() {
    if (free_.empty()) return {context_.meter, MemoryCategory::kRingBuffers, size_t(bytes_)};
    Buffer buffer = std::move(free_.back());
    free_.pop_back();
    return buffer;
  }
  void Give(Buffer buffer) { free_.push_back(std::move(buffer)); }

 private:
  Context& context_;
  const int64_t bytes_;
  std::vector<Buffer> free_;
};

void Zero(ThreadTeam& team, std::span<std::byte> bytes) {
  team.Run([&](int thread) {
    const Range part = SplitRange(std::ssize(bytes), team.size(), thread, 4096);
    if (part.size() > 0) std::memset(bytes.data() + part.begin, 0, part.size());
  });
}

// Packs a stretch that stays at home and calls attend(block, positions) with it.
template <class Shard, class Attend>
void AttendAtHome(Context& context, const RingBlocks& blocks, int own, Range rows, Shard& shard,
                  const Attend& attend) {
  const TraceSpan span(context.trace, TraceKind::kCompute, "at home");
  const Positions positions = PositionsOf(blocks.key_positions[own], rows);
  const Buffer block(context.meter, MemoryCategory::kRingBuffers,
                     static_cast<size_t>(shard.BlockBytes(rows.size())));
  shard.Pack(Rows(blocks.key, rows), Rows(blocks.value, rows), positions, block.bytes());
  attend(block.bytes(), positions);
}

void AttendForwardAtHome(Context& context, const RingBlocks& blocks, int own,
                         ShardAttentionForward& shard, const ProgressHook& progress) {
  ForEachStretchAtHome(blocks, own, [&](Range rows) {
    AttendAtHome(context, blocks, own, rows, shard, [&](auto block, const Positions& positions) {
      shard.Attend(block, positions, progress);
    });
  });
}

void AttendBackwardAtHome(Context& context, const RingBlocks& blocks, int own,
                          ShardAttentionBackward& shard, const ProgressHook& progress,
                          const TensorView& key_gradient, const TensorView& value_gradient) {
  ForEachStretchAtHome(blocks, own, [&](Range rows) {
    AttendAtHome(context, blocks, own, rows, shard, [&](auto block, const Positions& positions) {
      const Buffer gradient(context.meter, MemoryCategory::kRingBuffers,
                            static_cast<size_t>(shard.GradientBytes(rows.size())));
      Zero(context.team, gradient.bytes());
      shard.Attend(block, positions, gradient.bytes(), progress);
      shard.UnpackGradient(gradient.bytes(), Rows(key_gradient, rows), Rows(value_gradient, rows));
    });
  });
}

}  // namespace

void RunRingForward(Context& context, Communicator& ring, const RingBlocks& blocks,
                    ShardAttentionForward& shard) {
  TravellingBlocks<ShardAttentionForward> travelling(context, ring, blocks, shard);
  const ProgressHook progress = MakeProgressHook(ring);
  for (int step = 0; step < ring.size(); ++step) {
    const TraceSpan turn(context.trace, TraceKind::kPhase, "ring", {{"step", step}});
    travelling.Post(step);
    if (step == 0) AttendForwardAtHome(context, blocks, ring.rank(), shard, progress);
    if (blocks.plan.Uses(travelling.index(step), step)) {
      const TraceSpan span(context.trace, TraceKind::kCompute, "forward",
                           {{"block", travelling.index(step)}});
      shard.Attend(travelling.block(step), travelling.positions(step), progress);
    }
    travelling.Wait();
  }
}

void RunRingBackward(Context& context, Communicator& ring, const RingBlocks& blocks,
                     ShardAttentionBackward& shard, TensorView key_gradient,
                     TensorView value_gradient) {
  const RingPlan& plan = blocks.plan;
  const int own = ring.rank();
  TravellingBlocks<ShardAttentionBackward> travelling(context, ring, blocks, shard);
  const ProgressHook progress = MakeProgressHook(ring);

  int64_t largest = shard.GradientBytes(plan.kv_len(own));
  for (int step = 1; step < ring.size(); ++step) {
    if (!travelling.Has(step)) continue;
    largest = std::max(largest, shard.GradientBytes(plan.kv_len(travelling.index(step))));
  }
  GradientBuffers buffers(context, largest);
  const auto part_of = [&](const Buffer& buffer, int block) {
    return buffer.bytes().first(shard.GradientBytes(plan.kv_len(block)));
  };
  const auto unpack_own = [&](const Buffer& buffer) {
    const TraceSpan span(context.trace, TraceKind::kCompute, "unpack gradient", {{"block", own}});
    shard.UnpackGradient(part_of(buffer, own), Rows(key_gradient, plan.rows(own)),
                         Rows(value_gradient, plan.rows(own)));
  };

  // What is under way from the step before: its memory first, so that the transfer goes before it.
  Buffer sent;
  Communicator::TransferPtr send;
  // One step more than blocks take: a gradient gets home a step after its last use.
  for (int step = 0; step <= ring.size(); ++step) {
    const TraceSpan turn(context.trace, TraceKind::kPhase, "ring", {{"step", step}});
    const int block = step < ring.size() ? travelling.index(step) : own;
    const bool has = travelling.Has(step);
    const bool uses = has && plan.Uses(block, step);
    travelling.Post(step);

    Buffer arriving;
    Communicator::TransferPtr arrival;
    if (has && step > 0 && plan.GradientMoves(block, step - 1)) {
      arriving = buffers.Take();
      arrival = ring.Receive(part_of(arriving, block), travelling.Previous(), kGradientTag);
    }

    if (step == 0) {
      AttendBackwardAtHome(context, blocks, own, shard, progress, key_gradient, value_gradient);
    }
    Buffer sum;
    if (uses) {
      const TraceSpan span(context.trace, TraceKind::kCompute, "backward", {{"block", block}});
      sum = buffers.Take();
      Zero(context.team, part_of(sum, block));
      shard.Attend(travelling.block(step), travelling.positions(step), part_of(sum, block),
                   progress);
    }
    travelling.Wait();

    if (arrival) {
      ring.Wait(arrival);
      if (uses) {
        const TraceSpan span(context.trace, TraceKind::kCompute, "add gradient",
                             {{"block", block}});
        shard.AddGradient(part_of(sum, block), part_of(arriving, block));
        buffers.Give(std::move(arriving));
      } else {
        sum = std::move(arriving);
      }
    }

    // Posted before waiting for what this rank sent itself: else two ranks could wait for each
    // other.
    Buffer home;
    Communicator::TransferPtr homecoming;
    if (plan.last_use(own) > 0 && step == plan.last_use(own) + 1) {
      home = buffers.Take();
      homecoming = ring.Receive(part_of(home, own), plan.RankAt(own, step - 1), kHomeTag);
    }
    if (send) {
      ring.Wait(send);
      buffers.Give(std::exchange(sent, Buffer()));
    }
    if (homecoming) {
      ring.Wait(homecoming);
      unpack_own(home);
      buffers.Give(std::move(home));
    }

    if (!has || step < plan.first_use(block)) continue;  // no gradient of it yet
    if (plan.Moves(block, step)) {
      sent = std::move(sum);
      send = ring.Send(part_of(sent, block), travelling.Next(), kGradientTag);
    } else if (step > 0) {
      sent = std::move(sum);
      send = ring.Send(part_of(sent, block), block, kHomeTag);
    } else {
      unpack_own(sum);
      buffers.Give(std::move(sum));
    }
  }

  if (plan.last_use(own) == RingPlan::kNever) {
    const Buffer zero = buffers.Take();
    Zero(context.team, part_of(zero, own));
    unpack_own(zero);
  }
}

}  // namespace ringwise
