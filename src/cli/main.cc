#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/flags.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

constexpr int kFailed = 1;
constexpr int kBadUsage = 2;

int Report(const std::string& message, int code) {
  std::string line = message;
  std::replace(line.begin(), line.end(), '\n', ' ');
  std::fprintf(stderr, "ringwise: %s\n", line.c_str());
  return code;
}

int Main(int argc, char** argv) {
  CLI::App app("Trains and runs transformers with exact attention around a ring of ranks",
               "ringwise");
  app.set_version_flag("--version", std::string("ringwise ") + RINGWISE_VERSION,
                       "Print the version and exit");
  app.set_help_flag("--help", "Print this help and exit");
  app.get_formatter()->column_width(34);
  AddTrain(app);
  AddEval(app);
  AddGenerate(app);
  AddAttention(app);
  AddBench(app);
  AddInfo(app);

  try {
    std::vector<std::string> args = ExpandConfig(app, {argv + 1, argv + argc});
    std::reverse(args.begin(), args.end());  // as CLI11 wants them
    app.parse(args);
    return 0;
  } catch (const ExitWith& exit) {
    return exit.code;
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return Report(error.what(), kBadUsage);
  } catch (const UsageError& error) {
    return Report(error.what(), kBadUsage);
  } catch (const std::bad_alloc&) {
    return Report("out of memory: use more ranks, a shorter context or --recompute block", kFailed);
  } catch (const std::exception& error) {
    return Report(error.what(), kFailed);
  }
}

}  // namespace
}  // namespace ringwise

int main(int argc, char** argv) { return ringwise::Main(argc, argv); }
