#pragma once

#include <string>

namespace ringwise {

// Where to look for a data set that the user named: an archive or a folder with `marker` in it as
// it is, of a folder that holds folder `name` that one. Throws FileError: a folder without both,
// for which `expected` says what was expected.
std::string DataFolder(const std::string& path, const std::string& name, const std::string& marker,
                       const std::string& expected);

}  // namespace ringwise
