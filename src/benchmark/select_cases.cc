#include <fnmatch.h>

#include <algorithm>
#include <string>
#include <vector>

#include "ringwise/benchmark.h"
#include "ringwise/error.h"

namespace ringwise {

std::vector<size_t> SelectCases(const std::vector<std::string>& names,
                                const std::vector<std::string>& patterns) {
  std::vector<size_t> selected;
  for (const std::string& pattern : patterns) {
    const size_t before = selected.size();
    for (size_t i = 0; i < names.size(); ++i) {
      if (fnmatch(pattern.c_str(), names[i].c_str(), 0) == 0) selected.push_back(i);
    }
    if (selected.size() > before) continue;
    std::string known;
    for (const std::string& name : names) known += (known.empty() ? "" : ", ") + name;
    throw UsageError("no case is named '" + pattern + "'; there are " + known);
  }
  std::ranges::sort(selected);
  const auto repeated = std::ranges::unique(selected);
  selected.erase(repeated.begin(), repeated.end());
  return selected;
}

}  // namespace ringwise
