#pragma once

#include <memory>
#include <vector>

#include "ringwise/communicator.h"

// For tests.
namespace ringwise {

// `inner` as a communicator whose ranks share no memory: its shared bytes are copied.
class CopyingCommunicator final : public Communicator {
 public:
  explicit CopyingCommunicator(Communicator& inner) : inner_(inner) {}

  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  TransferPtr Send(std::span<const std::byte> bytes, int destination, int tag) override {
    return inner_.Send(bytes, destination, tag);
  }
  TransferPtr Receive(std::span<std::byte> bytes, int source, int tag) override {
    return inner_.Receive(bytes, source, tag);
  }
  Time Wait(TransferPtr& transfer) override { return inner_.Wait(transfer); }
  void Progress() override { inner_.Progress(); }
  void Barrier() override { inner_.Barrier(); }
  void AllReduceSum(std::span<float> values) override { inner_.AllReduceSum(values); }
  void AllReduceSum(std::span<double> values) override { inner_.AllReduceSum(values); }
  void Broadcast(std::span<std::byte> bytes, int root) override { inner_.Broadcast(bytes, root); }
  std::vector<std::vector<std::byte>> AllGather(std::span<const std::byte> bytes) override {
    return inner_.AllGather(bytes);
  }
  std::unique_ptr<Communicator> Split(int color) override { return inner_.Split(color); }
  int64_t bytes_sent() const override { return inner_.bytes_sent(); }

 private:
  Communicator& inner_;
};

}  // namespace ringwise
