#include <string>

#include "ringwise/launch.h"

namespace ringwise {

std::string MpiVersion() { return "none"; }

}  // namespace ringwise
