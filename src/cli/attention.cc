#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cli/attention_inputs.h"
#include "cli/attention_options.h"
#include "cli/attention_stats.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "core/dropout_stream.h"
#include "core/file_writer.h"
#include "core/out_of_memory.h"
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
  std::optional<Layout> key_layout;
  MeshOptions mesh;
};

std::optional<DType> DTypeOf(const AttentionFlags& flags) {
  if (flags.dtype.empty()) return std::nullopt;
  return flags.dtype == "f32" ? DType::kF32 : DType::kBF16;
}

// [batch, heads, q_len, k_len]
std::vector<int64_t> PairExtents(const WholeAttention& whole) {
  const Shape& q = whole.inputs.query.shape;
  return {q[0], q[2], q[1], whole.inputs.key.shape[1]};
}

void CheckDumps(const WholeAttention& whole, const AttentionDumps& dumps) {
  constexpr double kMostPairs = 1 << 28;
  double pairs = 1;
  for (const int64_t extent : PairExtents(whole)) pairs *= static_cast<double>(extent);
  if (!dumps.dropout_mask || pairs <= kMostPairs) return;
  throw UsageError(fmt::format(
      "option 'dump_dropout_mask' writes a byte for each pair of a query and a key, at most 2^28; "
      "batch x heads x q_len x k_len is {:.0f}: ask for it at smaller sizes",
      pairs));
}

// Everything the ranks read: one for all threads of a process.
class Inputs {
 public:
  explicit Inputs(const AttentionFlags& flags) : tensors_(flags.inputs, DTypeOf(flags)) {
    whole_.layout = flags.layout;
    whole_.key_layout = flags.key_layout.value_or(flags.layout);
    tensors_.SetTensors(whole_);
    if (!flags.options.empty()) ReadAttentionOptions(flags.options, whole_, dumps_);
    tensors_.SetSegments(whole_);
    CheckDumps(whole_, dumps_);
  }

  const WholeAttention& whole() const { return whole_; }
  const AttentionDumps& dumps() const { return dumps_; }

 private:
  const AttentionTensors tensors_;
  WholeAttention whole_;
  AttentionDumps dumps_;
};

// 1 where dropout keeps the pair [batch, heads, q_len, k_len].
std::vector<uint8_t> DropoutMask(const WholeAttention& whole) {
  const std::vector<int64_t> extents = PairExtents(whole);
  std::vector<uint8_t> mask;
  for (int64_t batch = 0; batch < extents[0]; ++batch) {
    for (int64_t head = 0; head < extents[1]; ++head) {
      const DropoutStream stream(whole.dropout, batch, head);
      for (int64_t i = 0; i < extents[2]; ++i) {
        for (int64_t j = 0; j < extents[3]; ++j) {
          mask.push_back(stream.Keeps(i + whole.query_offset, j) ? 1 : 0);
        }
      }
    }
  }
  return mask;
}

void Write(const std::string& path, const Inputs& inputs, const WholeResults& results,
           const std::string& stats) {
  const WholeAttention& whole = inputs.whole();
  const auto extents = [](const Shape& shape) {
    std::vector<int64_t> list;
    list.reserve(Shape::kMaxRank);
    for (int axis = 0; axis < shape.rank(); ++axis) list.push_back(shape[axis]);
    return list;
  };
  const std::vector<int64_t> query = extents(whole.inputs.query.shape);
  const std::vector<int64_t> value = extents(whole.inputs.value.shape);
  std::vector<NamedBytes> tensors;
  const auto add = [&](const char* name, const std::vector<float>& values,
                       const std::vector<int64_t>& shape) {
    tensors.push_back({name, {"F32", shape, std::as_bytes(std::span(values))}});
  };
  add("out", results.output, {query[0], query[1], query[2], value[3]});
  add("logsumexp", results.logsumexp, {query[0], query[2], query[1]});
  if (whole.output_gradient) {
    add("dq", results.dq, query);
    add("dk", results.dk, extents(whole.inputs.key.shape));
    add("dv", results.dv, value);
    if (whole.bias) add("dbias", results.dbias, extents(whole.bias->shape));
    if (whole.sinks) add("dsinks", results.dsinks, extents(whole.sinks->shape));
  }
  std::vector<uint8_t> mask;
  if (inputs.dumps().dropout_mask) {
    mask = DropoutMask(whole);
    tensors.push_back({"dropout_mask", {"U8", PairExtents(whole), std::as_bytes(std::span(mask))}});
  }
  std::map<std::string, std::string> metadata;
  if (!stats.empty()) metadata["stats"] = stats;
  WriteSafetensors(path, tensors, metadata);
}

void AttendAndWrite(Rank& rank, const Inputs& inputs, const std::string& path) {
  const int64_t sent = rank.ring.bytes_sent();
  const WholeResults results = AttendWhole(rank.context, rank.ring, inputs.whole());
  std::string stats;
  if (inputs.dumps().stats) {
    stats = AttentionStatsJson(rank.ring, inputs.whole(), results, rank.ring.bytes_sent() - sent);
  }
  if (rank.world.rank() != 0) return;
  Write(path, inputs, results, stats);
  if (!stats.empty()) std::printf("%s\n", stats.c_str());
}

void RunAttention(const AttentionFlags& flags) {
  // Read inside the launch, so that under mpirun a mistake in the files is told once.
  std::once_flag read;
  std::optional<Inputs> inputs;
  MeshOptions mesh = flags.mesh;
  mesh.data_parallel = 1;
  Launch(mesh, [&](Rank& rank) {
    ExplainOutOfMemory("every rank holds the whole tensors here: use fewer ranks or shorter ones",
                       [&] {
                         std::call_once(read, [&] {
                           // Rank 0 writes it, and perhaps it alone can.
                           if (!UnderMpi() || rank.world.rank() == 0) CheckWritable(flags.out);
                           inputs.emplace(flags);
                         });
                         AttendAndWrite(rank, *inputs, flags.out);
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
          "safetensors file with q [batch, q_len, heads, head_dim], k [batch, k_len, kv_heads, "
          "head_dim], v [batch, k_len, kv_heads, value_dim]; perhaps bias [1 or batch, 1 or heads, "
          "1 or q_len, k_len], sinks [heads], q_segment_ids [batch, q_len] with k_segment_ids "
          "[batch, k_len]; for gradients dout [as the output], perhaps dlogsumexp [batch, heads, "
          "q_len]")
      ->type_name("FILE")
      ->required();
  command
      ->add_option(
          "--options", flags->options,
          "JSON file, every key optional: scale (default head_dim^-0.5), causal, query_offset "
          "(query i has position i + query_offset; default k_len - q_len), window [left, right], "
          "causal_block, softcap, alibi_slopes [heads], dropout {p, seed}, slices [{head, q, k, "
          "type}], dump_dropout_mask, dump_stats; see docs/attention.md")
      ->type_name("FILE");
  command
      ->add_option("--out", flags->out,
                   "safetensors file to write: out, logsumexp; with dout also dq, dk, dv and, "
                   "where given, dbias, dsinks; all F32; dropout_mask (U8) where asked for")
      ->type_name("FILE")
      ->required();
  command
      ->add_option("--ring", flags->mesh.ring,
                   "Ranks along the sequence; 0: all of mpirun's, else 1")
      ->capture_default_str()
      ->type_name("N")
      ->check(NumberFor(flags->mesh.ring))
      ->check(AtLeastZero());
  AddLayoutFlag(*command, flags->layout);
  AddKeyLayoutFlag(*command, flags->key_layout);
  command->add_option("--dtype", flags->dtype, "f32 or bf16: to compute with; default: the file's")
      ->type_name("TYPE")
      ->check(CLI::IsMember({"f32", "bf16"}));
  AddRankFlags(*command, flags->mesh);
  AddTraceFlag(*command, flags->mesh);
  AddConfigFlag(*command);
  command->callback([flags] { RunAttention(*flags); });
}

}  // namespace ringwise
