#include "comm/traced_communicator.h"

#include <algorithm>
#include <utility>

namespace ringwise {
namespace {

class TracedTransfer final : public Communicator::Transfer {
 public:
  TracedTransfer(Communicator::TransferPtr transfer, const TraceEvent& posted)
      : inner(std::move(transfer)), event(posted) {}

  Communicator::TransferPtr inner;
  TraceEvent event;  // without its end
};

class TracedCommunicator final : public Communicator {
 public:
  TracedCommunicator(Communicator& inner, Tracer& trace) : inner_(inner), trace_(trace) {}
  TracedCommunicator(std::unique_ptr<Communicator> inner, Tracer& trace)
      : owned_(std::move(inner)), inner_(*owned_), trace_(trace) {}

  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }

  TransferPtr Send(std::span<const std::byte> bytes, int destination, int tag) override {
    const TraceEvent event = Posted(TraceKind::kSend, "to", destination, bytes.size(), tag);
    return std::make_unique<TracedTransfer>(inner_.Send(bytes, destination, tag), event);
  }
  TransferPtr Receive(std::span<std::byte> bytes, int source, int tag) override {
    const TraceEvent event = Posted(TraceKind::kReceive, "from", source, bytes.size(), tag);
    return std::make_unique<TracedTransfer>(inner_.Receive(bytes, source, tag), event);
  }

  bool shares_memory() const override { return inner_.shares_memory(); }
  TransferPtr SendShared(const SharedBytes& shared, int destination, int tag) override {
    const TraceEvent event = Posted(TraceKind::kSend, "to", destination, shared.bytes.size(), tag);
    return std::make_unique<TracedTransfer>(inner_.SendShared(shared, destination, tag), event);
  }
  TransferPtr ReceiveShared(SharedBytes& shared, size_t size, int source, int tag) override {
    const TraceEvent event = Posted(TraceKind::kReceive, "from", source, size, tag);
    return std::make_unique<TracedTransfer>(inner_.ReceiveShared(shared, size, source, tag), event);
  }

  Time Wait(TransferPtr& transfer) override {
    if (!transfer) return inner_.Wait(transfer);
    const TransferPtr started = std::move(transfer);  // reset even if it throws
    auto& traced = static_cast<TracedTransfer&>(*started);
    TraceEvent& event = traced.event;
    const bool sends = event.kind == TraceKind::kSend;
    {
      const TraceSpan wait(&trace_, TraceKind::kWait, sends ? "wait to send" : "wait to receive",
                           {event.args[0]});
      event.end = inner_.Wait(traced.inner);
    }
    // Another thread may complete it before Send has even returned.
    event.end = std::max(event.end, event.begin);
    trace_.Add(sends ? trace_.send_row() : trace_.receive_row(), event);
    return event.end;
  }

  void Progress() override { inner_.Progress(); }

  void Barrier() override {
    const TraceSpan wait(&trace_, TraceKind::kWait, "barrier");
    inner_.Barrier();
  }
  void AllReduceSum(std::span<float> values) override {
    const TraceSpan wait(&trace_, TraceKind::kWait, "sum over ranks",
                         {{"values", std::ssize(values)}});
    inner_.AllReduceSum(values);
  }
  void AllReduceSum(std::span<double> values) override {
    const TraceSpan wait(&trace_, TraceKind::kWait, "sum over ranks",
                         {{"values", std::ssize(values)}});
    inner_.AllReduceSum(values);
  }
  void Broadcast(std::span<std::byte> bytes, int root) override {
    const TraceSpan wait(&trace_, TraceKind::kWait, "broadcast",
                         {{"from", root}, {"bytes", std::ssize(bytes)}});
    inner_.Broadcast(bytes, root);
  }
  std::vector<std::vector<std::byte>> AllGather(std::span<const std::byte> bytes) override {
    const TraceSpan wait(&trace_, TraceKind::kWait, "gather", {{"bytes", std::ssize(bytes)}});
    return inner_.AllGather(bytes);
  }
  std::unique_ptr<Communicator> Split(int color) override {
    return std::make_unique<TracedCommunicator>(inner_.Split(color), trace_);
  }

  int64_t bytes_sent() const override { return inner_.bytes_sent(); }

 private:
  static TraceEvent Posted(TraceKind kind, const char* direction, int peer, size_t bytes, int tag) {
    TraceEvent event;
    event.kind = kind;
    event.name = kind == TraceKind::kSend ? "send" : "receive";
    event.args = {{{direction, peer}, {"bytes", static_cast<int64_t>(bytes)}, {"tag", tag}}};
    event.begin = Tracer::Clock::now();
    return event;
  }

  const std::unique_ptr<Communicator> owned_;  // of a split alone
  Communicator& inner_;
  Tracer& trace_;
};

}  // namespace

std::unique_ptr<Communicator> MakeTracedCommunicator(Communicator& inner, Tracer& trace) {
  return std::make_unique<TracedCommunicator>(inner, trace);
}

}  // namespace ringwise
