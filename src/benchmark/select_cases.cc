#include <fmt/format.h>
#include <fnmatch.h>

#include <set>
#include <string>
#include <vector>

#include "ringwise/benchmark.h"
#include "ringwise/error.h"

namespace ringwise {

std::vector<size_t> SelectCases(const std::vector<std::string>& names,
                                const std::vector<std::string>& patterns) {
  std::set<size_t> selected;
  for (const std::string& pattern : patterns) {
    bool any = false;
    for (size_t i = 0; i < names.size(); ++i) {
      if (fnmatch(pattern.c_str(), names[i].c_str(), 0) != 0) continue;
      selected.insert(i);
      any = true;
    }
    if (any) continue;
    std::string known;
    for (const std::string& name : names) known.append(known.empty() ? "" : ", ").append(name);
    throw UsageError(fmt::format("no case is named '{}'; there are {}", pattern, known));
  }
  return {selected.begin(), selected.end()};
}

}  // namespace ringwise
