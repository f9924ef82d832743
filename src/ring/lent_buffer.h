#pragma once

#include <cstddef>
#include <memory>

#include "ringwise/communicator.h"
#include "ringwise/memory.h"

namespace ringwise {

// A buffer that goes from rank to rank as SharedBytes. Where ranks share memory they use it in
// place, so its owner destroys it after a barrier. If one fails before, the others' shares keep the
// memory, but its owner's meter, which may be gone by then, counts it no longer.
class LentBuffer {
 public:
  LentBuffer() = default;
  LentBuffer(MemoryMeter& meter, MemoryCategory category, size_t bytes)
      : buffer_(std::make_shared<Buffer>(meter, category, bytes)) {}
  LentBuffer(LentBuffer&&) = default;
  LentBuffer& operator=(LentBuffer&& other) noexcept {
    buffer_.swap(other.buffer_);
    return *this;
  }
  ~LentBuffer() {
    if (buffer_) buffer_->StopMetering();
  }

  size_t size() const { return buffer_ ? buffer_->size() : 0; }
  // Bytes [begin, begin + length).
  SharedBytes Share(size_t begin, size_t length) const {
    return {buffer_->bytes().subspan(begin, length), buffer_};
  }

 private:
  std::shared_ptr<Buffer> buffer_;
};

}  // namespace ringwise
