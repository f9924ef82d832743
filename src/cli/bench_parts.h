#pragma once

namespace CLI {
class App;
}

namespace ringwise {

// One a subcommand of `bench`, each in its own file.
void AddBenchAttention(CLI::App& bench);
void AddBenchContext(CLI::App& bench);
void AddBenchGemm(CLI::App& bench);
void AddBenchRing(CLI::App& bench);
void AddBenchTrain(CLI::App& bench);

}  // namespace ringwise
