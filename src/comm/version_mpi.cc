#include <mpi.h>

#include <array>
#include <string>

#include "ringwise/launch.h"

namespace ringwise {

std::string MpiVersion() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  MPI_Get_library_version(text.data(), &length);  // legal before MPI_Init
  const std::string version(text.data(), static_cast<size_t>(length));
  return version.substr(0, version.find_first_of(",\n"));  // what follows is how it was packaged
}

}  // namespace ringwise
