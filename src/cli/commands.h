#pragma once

namespace CLI {
class App;
}

namespace ringwise {

// Thrown by a subcommand that did its work but must end with another exit code than 0, for example
// after a signal. Nothing is printed.
struct ExitWith {
  int code = 0;
};

// Throws Error with the system's reason (errno) why stdout took no more.
[[noreturn]] void ThrowStdoutFailed();

// One a subcommand, each in its own file: adds the subcommand, its flags and what it runs.
void AddAttention(CLI::App& app);
void AddBench(CLI::App& app);
void AddEval(CLI::App& app);
void AddGenerate(CLI::App& app);
void AddInfo(CLI::App& app);
void AddPlan(CLI::App& app);
void AddPredict(CLI::App& app);
void AddTrain(CLI::App& app);

}  // namespace ringwise
