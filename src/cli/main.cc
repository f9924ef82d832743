#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iostream>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "cli/commands.h"
#include "cli/flags.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

constexpr int kFailed = 1;
constexpr int kBadUsage = 2;
constexpr const char* kOutOfMemory = "out of memory: use a smaller problem, or more hosts";

// True for all processes of an MPI job but the first.
bool FollowsInMpiJob() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK"}) {
    const char* rank = std::getenv(name);
    if (rank != nullptr) return std::strcmp(rank, "0") != 0;
  }
  return false;
}

// One line on stderr. What every process of an MPI job finds, such as a bad flag, is left to the
// first: the others give it time to end the job before they speak themselves.
int Report(const std::string& message, int code) {
  if (FollowsInMpiJob()) std::this_thread::sleep_for(std::chrono::seconds(2));
  std::string line = message;
  for (char& c : line) {  // names from files may hold what steers a terminal
    if (c == '\n') c = ' ';
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
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
  AddPredict(app);
  AddAttention(app);
  AddBench(app);
  AddPlan(app);
  AddInfo(app);

  try {
    std::vector<std::string> args = ExpandConfig(app, {argv + 1, argv + argc});
    std::reverse(args.begin(), args.end());  // as CLI11 wants them
    int code = 0;
    try {
      app.parse(args);
    } catch (const ExitWith& exit) {
      code = exit.code;
    } catch (const CLI::Success& success) {  // --help, --version
      code = app.exit(success);
    }
    errno = 0;
    std::cout.flush();  // into stdout
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0 || !std::cout) ThrowStdoutFailed();
    return code;
  } catch (const CLI::ParseError& error) {
    return Report(error.what(), kBadUsage);
  } catch (const UsageError& error) {
    return Report(error.what(), kBadUsage);
  } catch (const std::bad_alloc&) {
    return Report(kOutOfMemory, kFailed);
  } catch (const std::length_error&) {  // more elements than any address could tell apart
    return Report(kOutOfMemory, kFailed);
  } catch (const std::exception& error) {
    return Report(error.what(), kFailed);
  }
}

}  // namespace

void ThrowStdoutFailed() {
  const int reason = errno;
  throw Error(std::string("cannot write the results to stdout") +
              (reason != 0 ? ": " + std::system_category().message(reason) : ""));
}

}  // namespace ringwise

int main(int argc, char** argv) { return ringwise::Main(argc, argv); }
