#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cli/attention_options.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "core/out_of_memory.h"
#include "formats/file_io.h"
#include "ringwise/error.h"
#include "ringwise/launch.h"
#include "ringwise/safetensors.h"
#include "ringwise/whole_attention.h"

namespace ringwise {
namespace {

struct AttentionFlags {
  std::string inputs;
  std::string options;
  std::string out;
  std::string dtype;
  Layout layout = Layout::kContiguous;
  MeshOptions mesh;
};

DType FileDType(const std::string& name, const SafetensorsEntry& entry) {
  if (entry.dtype == "F32") return DType::kF32;
  if (entry.dtype == "BF16") return DType::kBF16;
  throw ShapeError(fmt::format("tensor '{}' must be F32 or BF16, found {}", name, entry.dtype));
}

// Work grows with every extent, and a tensor without elements can claim any in a small file: one
// may be empty for its length alone, and its other extents then stay small.
void CheckExtents(const std::string& name, const std::vector<int64_t>& shape) {
  if (shape.size() != 4) {
    throw ShapeError(
        fmt::format("tensor '{}' must be [batch, length, heads, head_dim], found {} extents", name,
                    shape.size()));
  }
  constexpr double kMostOfEmpty = 1 << 24;
  double row = 1;
  for (const size_t axis : {0, 2, 3}) row *= static_cast<double>(shape[axis]);
  if (row == 0 || (shape[1] == 0 && row > kMostOfEmpty)) {
    throw ShapeError(
        fmt::format("tensor '{}' [{}, {}, {}, {}]: batch, heads and head_dim must be 1 or more, "
                    "and their product at most 2^24 where the length is 0",
                    name, shape[0], shape[1], shape[2], shape[3]));
  }
}

// The tensor in type `dtype`. The file's bytes need not be aligned.
Tensor Load(MemoryMeter& meter, const std::string& name, const SafetensorsEntry& entry,
            DType dtype) {
  CheckExtents(name, entry.shape);
  Tensor tensor(meter, MemoryCategory::kActivations, dtype,
                {entry.shape[0], entry.shape[1], entry.shape[2], entry.shape[3]});
  DispatchDType(FileDType(name, entry), [&]<class From>(From) {
    DispatchDType(dtype, [&]<class To>(To) {
      for (int64_t i = 0; i < tensor.elements(); ++i) {
        From element;
        std::memcpy(&element, entry.bytes.data() + i * sizeof(From), sizeof(From));
        tensor.data<To>()[i] = To(static_cast<float>(element));
      }
    });
  });
  return tensor;
}

void ExpectShape(const char* name, const Tensor& tensor, const Shape& expected, const char* why) {
  if (tensor.shape() == expected) return;
  throw ShapeError(fmt::format("tensor '{}' must be {} ({}), found {}", name, expected.ToString(),
                               why, tensor.shape().ToString()));
}

// Everything the ranks read: one for all threads of a process.
class Inputs {
 public:
  explicit Inputs(const AttentionFlags& flags) {
    const SafetensorsFile file(flags.inputs);
    const DType dtype = flags.dtype.empty()    ? FileDType("q", file.at("q"))
                        : flags.dtype == "f32" ? DType::kF32
                                               : DType::kBF16;
    for (const auto& [name, entry] : file.entries()) {
      if (name != "q" && name != "k" && name != "v" && name != "dout") {
        throw ShapeError(
            fmt::format("tensor {} in {} is not known: expected q, k, v and perhaps dout",
                        Quoted(name), flags.inputs));
      }
      if (entry.dtype != file.at("q").dtype) {
        throw ShapeError(fmt::format("tensor '{}' is {}, but 'q' is {}: all must have one type",
                                     name, entry.dtype, file.at("q").dtype));
      }
    }
    query_ = Load(meter_, "q", file.at("q"), dtype);
    key_ = Load(meter_, "k", file.at("k"), dtype);
    value_ = Load(meter_, "v", file.at("v"), dtype);
    const Shape& q = query_.shape();
    const Shape& k = key_.shape();
    ExpectShape("k", key_, {q[0], k[1], k[2], q[3]}, "batch and head_dim of q");
    ExpectShape("v", value_, k, "as k");
    if (k[2] == 0 || q[2] % k[2] != 0) {
      throw ShapeError(fmt::format("tensor 'k' has {} heads, which do not divide the {} heads of q",
                                   k[2], q[2]));
    }
    whole_.query_offset = k[1] - q[1];
    whole_.layout = flags.layout;
    whole_.key_layout = flags.layout;
    whole_.inputs = {query_.view(), key_.view(), value_.view()};
    if (file.entries().contains("dout")) {
      output_gradient_ = Load(meter_, "dout", file.at("dout"), dtype);
      ExpectShape("dout", output_gradient_, q, "as q");
      whole_.output_gradient = output_gradient_.view();
    }
    if (!flags.options.empty()) ReadAttentionOptions(flags.options, whole_);
  }

  const WholeAttention& whole() const { return whole_; }

 private:
  MemoryMeter meter_;
  Tensor query_, key_, value_, output_gradient_;
  WholeAttention whole_;
};

void Write(const std::string& path, const WholeAttention& whole, const WholeResults& results) {
  const auto shape = [](const Shape& extents) {
    return std::vector<int64_t>{extents[0], extents[1], extents[2], extents[3]};
  };
  const std::vector<int64_t> query = shape(whole.inputs.query.shape);
  const std::vector<int64_t> key = shape(whole.inputs.key.shape);
  std::vector<NamedBytes> tensors;
  const auto add = [&](const char* name, const std::vector<float>& values,
                       const std::vector<int64_t>& extents) {
    tensors.push_back({name, {"F32", extents, std::as_bytes(std::span(values))}});
  };
  add("out", results.output, query);
  add("logsumexp", results.logsumexp, {query[0], query[2], query[1]});
  if (whole.output_gradient) {
    add("dq", results.dq, query);
    add("dk", results.dk, key);
    add("dv", results.dv, key);
  }
  WriteSafetensors(path, tensors);
}

void RunAttention(const AttentionFlags& flags) {
  // Read inside the launch, so that under mpirun a mistake in the files is told once.
  std::once_flag read;
  std::optional<Inputs> inputs;
  MeshOptions mesh = flags.mesh;
  mesh.data_parallel = 1;
  Launch(mesh, [&](Rank& rank) {
    ExplainOutOfMemory(
        "every rank holds the whole tensors here: use fewer ranks or shorter ones", [&] {
          std::call_once(read, [&] { inputs.emplace(flags); });
          const WholeResults results = AttendWhole(rank.context, rank.ring, inputs->whole());
          if (rank.world.rank() == 0) Write(flags.out, inputs->whole(), results);
        });
  });
}

}  // namespace

void AddAttention(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "attention", "One attention call on tensors from a file: for checking, and other languages");
  const auto flags = std::make_shared<AttentionFlags>();
  command
      ->add_option(
          "--inputs", flags->inputs,
          "safetensors file with q [batch, q_len, heads, head_dim], k and v [batch, k_len, "
          "kv_heads, head_dim], and for gradients dout [as q]")
      ->type_name("FILE")
      ->required();
  command
      ->add_option("--options", flags->options,
                   "JSON file: causal (default false), scale (default head_dim^-0.5), query_offset "
                   "(query i has position i + query_offset; default k_len - q_len)")
      ->type_name("FILE");
  command
      ->add_option("--out", flags->out,
                   "safetensors file to write: out, logsumexp, with dout also dq, dk, dv; all F32")
      ->type_name("FILE")
      ->required();
  command
      ->add_option("--ring", flags->mesh.ring,
                   "Ranks along the sequence; 0: all of mpirun's, else 1")
      ->capture_default_str()
      ->type_name("N")
      ->check(AtLeastZero());
  AddLayoutFlag(*command, flags->layout);
  command->add_option("--dtype", flags->dtype, "f32 or bf16: to compute with; default: the file's")
      ->type_name("TYPE")
      ->check(CLI::IsMember({"f32", "bf16"}));
  command
      ->add_option("--threads", flags->mesh.threads,
                   "Threads a rank; 0: the cores this job may use, over the ranks on this host")
      ->capture_default_str()
      ->type_name("N")
      ->check(AtLeastZero());
  AddConfigFlag(*command);
  command->callback([flags] { RunAttention(*flags); });
}

}  // namespace ringwise
