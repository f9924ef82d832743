// Indices past 2^31 and 2^32 elements without the memory: rows lie so far apart in reserved address
// space that their offsets need more than 32 bits, and only the pages of the rows exist.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <iterator>
#include <utility>

#include "attention/shard_attention.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

constexpr int64_t kRowStride = int64_t{1} << 26;  // elements between rows
constexpr int64_t kRows = 70;                     // the last begins past 2^32 elements

// Address space for kRows far apart rows; zero where nothing was written.
class Reserved {
 public:
  Reserved()
      : memory_(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {}
  ~Reserved() {
    if (ok()) munmap(memory_, kBytes);
  }
  Reserved(const Reserved&) = delete;
  Reserved& operator=(const Reserved&) = delete;

  bool ok() const { return memory_ != MAP_FAILED; }
  TensorView Spread(DType dtype, const Shape& shape) const {
    TensorView view(memory_, dtype, shape);
    view.strides = {kRowStride * shape[1], kRowStride, shape[3], 1};
    return view;
  }

 private:
  static constexpr size_t kBytes = size_t{kRowStride} * kRows * sizeof(float);
  void* memory_;
};

void Copy(const ConstTensorView& from, const TensorView& to) {
  DispatchDType(from.dtype, [&]<class T>(T) {
    for (int64_t row = 0; row < from.shape[1]; ++row) {
      for (int64_t head = 0; head < from.shape[2]; ++head) {
        std::copy_n(from.at<T>(0, row, head), from.shape[3], to.at<T>(0, row, head));
      }
    }
  });
}

struct Views {
  TensorView query, key, value, output, output_gradient, dq, dk, dv;
};

void Attend(Context& context, const AttentionShape& shape, const Views& views,
            Travelling travelling) {
  const Positions positions = {{int64_t{1} << 40, kRows, 1}};
  AttentionOptions options;
  options.mask.causal = true;
  Tensor logsumexp(context.meter, MemoryCategory::kActivations, DType::kF32,
                   {1, shape.heads, kRows});
  const auto forward = MakeShardAttentionForward(context, shape, options, views.query, positions,
                                                 {views.output, logsumexp.view()});
  Buffer block(context.meter, MemoryCategory::kRingBuffers, forward->BlockBytes(kRows));
  forward->Pack(views.key, views.value, positions, block.bytes());
  forward->Attend(block.bytes(), positions, {});
  forward->Finish();
  const auto backward = MakeShardAttentionBackward(
      context,
      {shape,
       options,
       {views.query, views.key, views.value},
       {views.output, std::as_const(logsumexp).view(), views.output_gradient},
       {views.dq, views.dk, views.dv},
       positions,
       positions},
      travelling);
  const TravelBytes bytes = backward->BytesOf(kRows);
  block = Buffer(context.meter, MemoryCategory::kRingBuffers, bytes.block);
  Buffer gradient(context.meter, MemoryCategory::kRingBuffers, bytes.gradient);
  std::memset(gradient.data(), 0, gradient.size());
  backward->Pack({0, kRows}, block.bytes());
  backward->Attend(block.bytes(), positions, gradient.bytes(), {});
  backward->AddGradient({0, kRows}, gradient.bytes());
  backward->Finish();
}

TEST(LargeIndex, RowsPast32BitsGiveTheSameBits) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const AttentionShape shape{
        .batch = 1, .heads = 2, .kv_heads = 1, .head_dim = 24, .value_dim = 24, .dtype = dtype};
    MemoryMeter meter;
    ThreadTeam team(2);
    Context context{team, meter};
    uint64_t stream = 0;
    const auto make = [&](int64_t heads) {
      Tensor tensor(meter, MemoryCategory::kActivations, dtype, {1, kRows, heads, 24});
      Random random(7, stream++);
      DispatchDType(dtype, [&]<class T>(T) {
        for (int64_t i = 0; i < tensor.elements(); ++i) tensor.data<T>()[i] = T(random.Normal());
      });
      return tensor;
    };
    Tensor tensors[] = {make(2), make(1), make(1), make(2), make(2), make(2), make(1), make(1)};
    const Reserved memory[std::size(tensors)];
    Views near, far;
    TensorView Views::*const kMembers[] = {
        &Views::query,           &Views::key, &Views::value, &Views::output,
        &Views::output_gradient, &Views::dq,  &Views::dk,    &Views::dv};
    for (size_t i = 0; i < std::size(tensors); ++i) {
      ASSERT_TRUE(memory[i].ok());
      near.*kMembers[i] = tensors[i].view();
      far.*kMembers[i] = memory[i].Spread(dtype, tensors[i].shape());
      Copy(near.*kMembers[i], far.*kMembers[i]);
    }
    for (const Travelling travelling : {Travelling::kKeys, Travelling::kQueries}) {
      Attend(context, shape, near, travelling);
      Attend(context, shape, far, travelling);
      for (const auto member : kMembers) {
        const TensorView& expected = near.*member;
        const TensorView& found = far.*member;
        Tensor joined(meter, MemoryCategory::kWorkspace, dtype, expected.shape);
        Copy(found, joined.view());
        EXPECT_EQ(
            std::memcmp(joined.view().memory, expected.memory, joined.elements() * SizeOf(dtype)),
            0);
      }
    }
  }
}

TEST(LargeIndex, SizesOfLongBlocks) {
  MemoryMeter meter;
  ThreadTeam team(1);
  Context context{team, meter};
  const AttentionShape shape{.batch = 2,
                             .heads = 64,
                             .kv_heads = 32,
                             .head_dim = 128,
                             .value_dim = 128,
                             .dtype = DType::kBF16};
  Tensor query(meter, MemoryCategory::kActivations, DType::kBF16, {2, 1, 64, 128});
  Tensor logsumexp(meter, MemoryCategory::kActivations, DType::kF32, {2, 64, 1});
  const Positions positions = {{0, 1, 1}};
  const auto forward = MakeShardAttentionForward(context, shape, {}, query.view(), positions,
                                                 {query.view(), logsumexp.view()});
  const int64_t keys = int64_t{1} << 30;
  const int64_t elements = 2 * 2 * 32 * 128 * keys;
  EXPECT_EQ(forward->BlockBytes(keys), elements * 2);
  EXPECT_EQ(BackwardBytes(shape, Travelling::kKeys, keys).block, elements * 2);
  EXPECT_EQ(BackwardBytes(shape, Travelling::kKeys, keys).gradient, elements * 4);
  const int64_t head_rows = 2 * 64 * keys;
  EXPECT_EQ(BackwardBytes(shape, Travelling::kQueries, keys).block, head_rows * (2 * 256 + 8));
  EXPECT_EQ(BackwardBytes(shape, Travelling::kQueries, keys).gradient, head_rows * 128 * 4);
}

}  // namespace
}  // namespace ringwise
