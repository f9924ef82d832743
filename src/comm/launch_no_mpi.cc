#include "comm/launch_parts.h"

namespace ringwise {

void LaunchMpi(const MeshOptions&, const std::function<void(Rank&)>&) {
  throw UsageError(
      "started by mpirun, but this build has no MPI: configure with -DRINGWISE_MPI=ON, or start it "
      "plainly, where the ranks are threads");
}

}  // namespace ringwise
