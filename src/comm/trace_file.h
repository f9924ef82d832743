#pragma once

#include <memory>
#include <string>

#include "comm/clock_alignment.h"
#include "ringwise/communicator.h"
#include "ringwise/trace.h"

namespace ringwise {

// One file with the traces of all ranks, in the Trace Event format (JSON) that Perfetto and
// chrome://tracing open: a process a rank, in it a row a thread and rows for what is sent and
// received; complete events ("X") in microseconds, by rank 0's clock, since the file was begun.
// Transfers of one rank and direction that overlap have rows of their own. Under "otherData":
// `clock_uncertainty_us`, by how much the ranks' clocks may differ from each other in the file, and
// `dropped`, the spans for which there was no room.
class TraceFile {
 public:
  // Finds out whether rank 0 can write the file, before anything is computed, and how the clocks
  // stand. Collective over `world`. Throws FileError on rank 0, PeerError on the others.
  TraceFile(Communicator& world, const std::string& path);

  // Writes the file: each rank sends its part to rank 0, which holds one at a time beside its own.
  // Collective. Throws FileError as the constructor.
  void Write(const Tracer& trace) const;

 private:
  const std::unique_ptr<Communicator> world_;  // its own: what it sends is not the run's
  const std::string path_;
  ClockOffset first_;
  std::chrono::nanoseconds origin_{0};  // on rank 0's clock
};

}  // namespace ringwise
