#include "ring/ring_agreement.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "attention/attention_checks.h"
#include "attention/option_checks.h"
#include "ring/call_record.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

int64_t QueryCount(const Communicator& ring, const RingAttentionOptions& options) {
  return Count(options.query_positions[ring.rank()]);
}
int64_t KeyCount(const Communicator& ring, const RingAttentionOptions& options) {
  return Count(options.key_positions[ring.rank()]);
}

AttentionShape ShapeOf(const Communicator& ring, const RingAttentionOptions& options,
                       const AttentionInputs& inputs) {
  for (const auto* positions : {&options.query_positions, &options.key_positions}) {
    if (static_cast<int>(positions->size()) != ring.size()) {
      throw ShapeError(fmt::format("attention: positions of {} ranks are needed, found {}",
                                   ring.size(), positions->size()));
    }
  }
  const AttentionShape shape = CheckedShapeOf(inputs);
  CheckQueryRows("query", inputs.query, shape, QueryCount(ring, options), shape.head_dim);
  CheckDType("query", inputs.query, shape.dtype);
  CheckKeyValue(inputs.key, inputs.value, shape, KeyCount(ring, options));
  return shape;
}

BiasExtents BiasExtentsOf(const Communicator& ring, const RingAttentionOptions& options) {
  BiasExtents extents{options.bias_has_one_row ? 1 : QueryCount(ring, options)};
  for (const Positions& positions : options.key_positions) {
    for (const PositionRun& run : positions) {
      if (run.count == 0) continue;
      extents.first_key = std::min(extents.first_key, run.start);
      extents.keys = std::max(extents.keys, run.last() + 1);
    }
  }
  return extents;
}

AttentionShape CheckedShape(const Communicator& ring, const RingAttentionOptions& options,
                            const AttentionInputs& inputs) {
  const AttentionShape shape = ShapeOf(ring, options, inputs);
  CheckOptions(options, shape);
  if (options.bias) CheckBias(*options.bias, shape, BiasExtentsOf(ring, options));
  if (options.sinks) CheckSinks(*options.sinks, shape);
  return shape;
}

// What a rank tells the others: its problem, or its record's values.
struct Message {
  enum class Kind : uint8_t { kRecord, kShapeError, kUsageError };

  Kind kind = Kind::kRecord;
  std::string problem;
  std::vector<int64_t> values;

  std::vector<std::byte> Pack() const {
    const std::span<const std::byte> body = kind == Kind::kRecord
                                                ? std::as_bytes(std::span(values))
                                                : std::as_bytes(std::span(problem));
    std::vector<std::byte> bytes = {static_cast<std::byte>(kind)};
    bytes.insert(bytes.end(), body.begin(), body.end());
    return bytes;
  }
};

Message Run(const std::function<CallRecord()>& check, CallRecord& record) {
  Message message;
  try {
    record = check();
    for (const CallField& field : record) message.values.push_back(field.value);
  } catch (const UsageError& error) {
    message = {Message::Kind::kUsageError, error.what(), {}};
  } catch (const ShapeError& error) {
    message = {Message::Kind::kShapeError, error.what(), {}};
  }
  return message;
}

void ThrowFirstProblem(const std::vector<std::vector<std::byte>>& all) {
  for (size_t rank = 0; rank < all.size(); ++rank) {
    const auto kind = static_cast<Message::Kind>(all[rank].front());
    if (kind == Message::Kind::kRecord) continue;
    const auto* text = reinterpret_cast<const char*>(all[rank].data());
    const std::string problem = fmt::format("{} (on rank {} of the ring)",
                                            std::string(text + 1, text + all[rank].size()), rank);
    if (kind == Message::Kind::kUsageError) throw UsageError(problem);
    throw ShapeError(problem);
  }
}

// Calls check(), which gives the call's record or throws, and makes all ranks agree.
void Agree(Communicator& ring, const std::function<CallRecord()>& check) {
  if (ring.size() == 1) {
    check();
    return;
  }
  CallRecord record;
  const auto all = ring.AllGather(Run(check, record).Pack());
  ThrowFirstProblem(all);
  const auto value = [&](int rank, size_t field) {
    int64_t number = 0;
    std::memcpy(&number, all[rank].data() + 1 + field * sizeof(number), sizeof(number));
    return number;
  };
  for (int rank = 1; rank < ring.size(); ++rank) {
    for (size_t i = 0; i < record.size(); ++i) {
      CallField first = record[i];
      CallField theirs = record[i];
      first.value = value(0, i);
      theirs.value = value(rank, i);
      if (first.value == theirs.value) continue;
      throw ShapeError(fmt::format("attention: {} must be the same on every rank of the ring, {}",
                                   first.name, Difference(first, theirs, rank)));
    }
  }
}

}  // namespace

void CheckOnEveryRank(Communicator& ring, const std::function<void()>& check) {
  Agree(ring, [&] {
    check();
    return CallRecord();
  });
}

AttentionShape AgreeOnForward(Communicator& ring, const RingAttentionOptions& options,
                              const AttentionInputs& inputs, const AttentionOutputs& outputs) {
  AttentionShape shape;
  Agree(ring, [&] {
    shape = CheckedShape(ring, options, inputs);
    const int64_t q_len = QueryCount(ring, options);
    CheckQueryRows("output", outputs.output, shape, q_len, shape.value_dim);
    CheckLogSumExp("logsumexp", outputs.logsumexp, shape, q_len);
    return RecordOf(shape, options, nullptr);
  });
  return shape;
}

AttentionShape AgreeOnBackward(Communicator& ring, const RingAttentionOptions& options,
                               const AttentionInputs& inputs, const AttentionSaved& saved,
                               const AttentionGradients& gradients) {
  AttentionShape shape;
  Agree(ring, [&] {
    shape = CheckedShape(ring, options, inputs);
    const int64_t q_len = QueryCount(ring, options);
    const int64_t kv_len = KeyCount(ring, options);
    CheckSaved(saved, shape, q_len);
    CheckQueryRows("query gradient", gradients.query, shape, q_len, shape.head_dim);
    CheckKeyRows("key gradient", gradients.key, shape, kv_len, shape.head_dim);
    CheckKeyRows("value gradient", gradients.value, shape, kv_len, shape.value_dim);
    CheckOptionGradients(gradients, options);
    return RecordOf(shape, options, &gradients);
  });
  return shape;
}

}  // namespace ringwise
