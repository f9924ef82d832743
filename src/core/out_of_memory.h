#pragma once

#include <new>
#include <string>

#include "ringwise/error.h"

namespace ringwise {

// Runs `body`, whose std::bad_alloc becomes an Error: "out of memory: " and what to do, `advice`.
// To be used on each rank, inside Launch: an MPI job prints the error where it happens.
template <class Body>
void ExplainOutOfMemory(const char* advice, const Body& body) {
  try {
    body();
  } catch (const std::bad_alloc&) {
    throw Error(std::string("out of memory: ") + advice);
  }
}

}  // namespace ringwise
