#include "training/checkpoint.h"

#include <fmt/format.h>

#include <cstring>
#include <filesystem>

#include "ringwise/error.h"
#include "ringwise/safetensors.h"
#include "training/checkpoint_folder.h"

namespace ringwise {
namespace fs = std::filesystem;

namespace {

constexpr const char* kMomentsFile = "optimizer.safetensors";

std::string FileIn(const std::string& folder, const char* name) {
  return (fs::path(folder) / name).string();
}

// Four independent chains, because one would wait for each multiplication.
uint64_t HashTensorBytes(std::span<const std::byte> bytes, uint64_t seed) {
  constexpr uint64_t kPrime = 0x9E3779B97F4A7C15;
  uint64_t chains[4] = {seed, seed ^ 1, seed ^ 2, seed ^ 3};
  const auto mix = [&](uint64_t& chain, const std::byte* at) {
    uint64_t word = 0;
    std::memcpy(&word, at, sizeof word);
    chain = (chain ^ word) * kPrime;
    chain ^= chain >> 29;
  };
  size_t i = 0;
  for (; i + 32 <= bytes.size(); i += 32) {
    for (size_t lane = 0; lane < 4; ++lane) mix(chains[lane], bytes.data() + i + 8 * lane);
  }
  uint64_t hash = bytes.size();
  for (; i < bytes.size(); ++i) hash = (hash ^ std::to_integer<uint64_t>(bytes[i])) * kPrime;
  for (const uint64_t chain : chains) {
    hash = (hash ^ chain) * kPrime;
    hash ^= hash >> 32;
  }
  return hash;
}

std::span<std::byte> BytesOf(const Tensor& tensor) {
  return {reinterpret_cast<std::byte*>(tensor.data<float>()),
          static_cast<size_t>(tensor.elements()) * sizeof(float)};
}

std::vector<int64_t> Extents(const Shape& shape) {
  std::vector<int64_t> extents;
  extents.reserve(static_cast<size_t>(shape.rank()));
  for (int axis = 0; axis < shape.rank(); ++axis) extents.push_back(shape[axis]);
  return extents;
}

void WriteMoments(const std::string& path, const std::vector<Parameter>& parameters,
                  AdamW& optimizer) {
  std::vector<NamedBytes> tensors;
  tensors.reserve(2 * parameters.size());
  const auto add = [&](const char* kind, const std::vector<Tensor>& moments) {
    for (size_t p = 0; p < parameters.size(); ++p) {
      tensors.push_back(
          {parameters[p].name + kind, {"F32", Extents(moments[p].shape()), BytesOf(moments[p])}});
    }
  };
  add(".first_moment", optimizer.first_moments());
  add(".second_moment", optimizer.second_moments());
  WriteSafetensors(path, tensors);
}

void ReadMoments(const std::string& path, const std::vector<Parameter>& parameters,
                 AdamW& optimizer) {
  const SafetensorsFile file(path);
  const auto read = [&](const char* kind, std::vector<Tensor>& moments) {
    for (size_t p = 0; p < parameters.size(); ++p) {
      const SafetensorsEntry& entry = file.at(parameters[p].name + kind);
      if (entry.dtype != "F32" || entry.shape != Extents(moments[p].shape())) {
        throw FileError(fmt::format("{}: {}{} is not F32 {}: the checkpoint has other shapes", path,
                                    parameters[p].name, kind, moments[p].shape().ToString()));
      }
      std::memcpy(BytesOf(moments[p]).data(), entry.bytes.data(), entry.bytes.size());
    }
  };
  read(".first_moment", optimizer.first_moments());
  read(".second_moment", optimizer.second_moments());
}

std::string Checksum(const std::vector<Parameter>& parameters, AdamW& optimizer) {
  uint64_t hash = 0;
  for (size_t p = 0; p < parameters.size(); ++p) {
    hash = HashTensorBytes(BytesOf(parameters[p].value), hash);
    hash = HashTensorBytes(BytesOf(optimizer.first_moments()[p]), hash);
    hash = HashTensorBytes(BytesOf(optimizer.second_moments()[p]), hash);
  }
  return fmt::format("{:016x}", hash);
}

}  // namespace

std::string SaveCheckpoint(const std::string& run, const TrainState& state, TrainTask& task,
                           AdamW& optimizer, int64_t keep) {
  return PublishCheckpoint(run, state.step, keep, [&](const std::string& folder) {
    task.SaveModel(folder);
    WriteMoments(FileIn(folder, kMomentsFile), task.parameters(), optimizer);
    WriteTrainState(folder, state, Checksum(task.parameters(), optimizer));
  });
}

void LoadCheckpoint(const std::string& folder, TrainTask& task, AdamW& optimizer) {
  const std::string expected = ReadChecksum(folder);
  task.LoadWeights(folder);
  ReadMoments(FileIn(folder, kMomentsFile), task.parameters(), optimizer);
  if (Checksum(task.parameters(), optimizer) != expected) {
    throw FileError(
        fmt::format("{}: corrupt: its weights and moments do not match their checksum", folder));
  }
}

}  // namespace ringwise
