#include "kernels/gemm.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "dnnl.hpp"
#include "kernels/convert.h"
#include "kernels/grow_buffer.h"
#include "kernels/tile_kernels.h"
#include "kernels/transpose.h"
#include "ringwise/error.h"

// Letters: a product is c [m, n] = a [m, k] b [k, n].
//
// oneDNN's fast implementation asks for contiguous a and c, and for b in a layout of its own; with
// padded rows it falls to a plain loop, 100 times slower. So b is always packed, weight gradients
// transpose their left operand into a contiguous copy, and nothing strided is passed on.

namespace ringwise {
namespace {

using Dims = dnnl::memory::dims;
using Tag = dnnl::memory::format_tag;

// The layout of b hardly depends on m; it is asked for once, for this many rows.
constexpr int64_t kLayoutRows = 512;
// Rows widened at a time where bf16 products are missing.
constexpr int64_t kWidenedRows = 128;
// A slice of the rows summed by a weight gradient is at least this long, or the products' start and
// end cost more than their middle.
constexpr int64_t kMinSliceRows = 128;
// The rows of outputs are split between threads in multiples of the kernels' row blocks.
constexpr int64_t kRowMultiple = 16;
// Shapes kept by a thread: a model has a few dozen; prompts of every length would add without end.
constexpr size_t kMaxPrimitives = 512;

dnnl::memory::data_type TypeOf(DType dtype) {
  return dtype == DType::kF32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
}

dnnl::matmul::primitive_desc Describe(const dnnl::engine& engine, const dnnl::memory::desc& a,
                                      const dnnl::memory::desc& b, const dnnl::memory::desc& c,
                                      bool accumulate) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
#if DNNL_VERSION_MAJOR >= 3
  return {engine, a, b, c, attributes};
#else
  return {dnnl::matmul::desc(a, b, c), attributes, engine};
#endif
}

dnnl::memory::desc RowMajor(int64_t rows, int64_t columns, DType dtype) {
  return {{rows, columns}, TypeOf(dtype), Tag::ab};
}

dnnl::memory::desc Strided(int64_t rows, int64_t columns, DType dtype, int64_t row_stride,
                           int64_t column_stride) {
  return {{rows, columns}, TypeOf(dtype), Dims{row_stride, column_stride}};
}

// The layout that products ask of a right operand [k, n].
dnnl::memory::desc RightLayout(const dnnl::engine& engine, int64_t k, int64_t n, DType dtype) {
  const dnnl::memory::desc any({k, n}, TypeOf(dtype), Tag::any);
  return Describe(engine, RowMajor(kLayoutRows, k, dtype), any,
                  RowMajor(kLayoutRows, n, DType::kF32), false)
      .weights_desc();
}

bool MultipliesBf16(const dnnl::engine& engine) {
  try {
    const dnnl::memory::desc any({64, 64}, TypeOf(DType::kBF16), Tag::any);
    const auto description =
        Describe(engine, RowMajor(64, 64, DType::kBF16), any, RowMajor(64, 64, DType::kF32), false);
    return std::string_view(description.impl_info_str()).find("ref") == std::string_view::npos;
  } catch (const dnnl::error&) {
    return false;
  }
}

// oneDNN's own parallel regions run on the thread that calls, alone: the team does the splitting.
class OneOpenMpThread {
 public:
  OneOpenMpThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneOpenMpThread() { omp_set_num_threads(before_); }
  OneOpenMpThread(const OneOpenMpThread&) = delete;
  OneOpenMpThread& operator=(const OneOpenMpThread&) = delete;

 private:
  int before_;
};

void* Handle(const void* data) { return const_cast<void*>(data); }

}  // namespace

struct PackedMatrix::Impl {
  int64_t k = 0;
  int64_t n = 0;
  DType dtype = DType::kF32;     // of the left operands
  DType computed = DType::kF32;  // as stored here
  Buffer buffer;
};

PackedMatrix::PackedMatrix() = default;
PackedMatrix::~PackedMatrix() = default;
PackedMatrix::PackedMatrix(PackedMatrix&&) noexcept = default;
PackedMatrix& PackedMatrix::operator=(PackedMatrix&&) noexcept = default;
int64_t PackedMatrix::rows() const { return impl_ ? impl_->k : 0; }
int64_t PackedMatrix::columns() const { return impl_ ? impl_->n : 0; }

class Gemm::Impl {
 public:
  Impl(Context& rank_context, bool widen_bf16)
      : context(rank_context),
        engine_(dnnl::engine::kind::cpu, 0),
        widens_(widen_bf16 || !MultipliesBf16(engine_)),
        threads_(static_cast<size_t>(rank_context.team.size())) {
    for (Thread& thread : threads_) thread.stream = dnnl::stream(engine_);
  }

  // The type that products of `dtype` operands are computed from.
  DType Computed(DType dtype) const { return widens_ ? DType::kF32 : dtype; }

  size_t RightBytes(int64_t k, int64_t n, DType dtype) const {
    return RightLayout(engine_, k, n, dtype).get_size();
  }

  // b [k, n], element (i, j) at from[i * row_stride + j * column_stride] -> packed.
  void PackRight(int thread, const void* from, int64_t k, int64_t n, DType dtype,
                 int64_t row_stride, int64_t column_stride, void* packed) {
    if (context.team.rehearses()) return;
    Thread& mine = threads_[thread];
    dnnl::memory source(Strided(k, n, dtype, row_stride, column_stride), engine_, Handle(from));
    dnnl::memory target(RightLayout(engine_, k, n, dtype), engine_, packed);
    dnnl::reorder(source, target).execute(mine.stream, source, target);
    mine.stream.wait();
  }

  // c (= or +=) a b on one thread; b packed.
  void MultiplyOnThread(int thread, const void* a, const void* b, void* c, int64_t m, int64_t n,
                        int64_t k, DType in, DType out, bool accumulate) {
    if (m == 0) return;
    Thread& mine = threads_[thread];
    Primitive& product = Find(mine, {m, n, k, in == DType::kBF16, out == DType::kBF16, accumulate});
    GrowBuffer(context.meter, product.scratch_bytes, mine.scratch);
    if (context.team.rehearses()) return;
    product.a.set_data_handle(Handle(a));
    product.b.set_data_handle(Handle(b));
    product.c.set_data_handle(c);
    product.scratch.set_data_handle(mine.scratch.data());
    product.matmul.execute(mine.stream, product.arguments);
    mine.stream.wait();
  }

  // Rows of bf16 operands, a block at a time through f32 copies.
  void MultiplyWidened(int thread, const bf16* a, const void* b, ConstTensorView output,
                       int64_t row_begin, int64_t rows, int64_t n, int64_t k, bool accumulate) {
    Buffer& wide = threads_[thread].widened;
    const size_t bytes = static_cast<size_t>(kWidenedRows * (n + k)) * sizeof(float);
    GrowBuffer(context.meter, bytes, wide);
    float* left = wide.as<float>();
    float* sums = left + kWidenedRows * k;
    for (int64_t begin = 0; begin < rows; begin += kWidenedRows) {
      const int64_t count = std::min(kWidenedRows, rows - begin);
      Convert(a + begin * k, left, count * k);
      DispatchDType(output.dtype, [&]<class T>(T) {
        T* c = static_cast<T*>(Handle(output.memory)) + (row_begin + begin) * n;
        if (accumulate) Convert(c, sums, count * n);
        MultiplyOnThread(thread, left, b, sums, count, n, k, DType::kF32, DType::kF32, accumulate);
        Convert(sums, c, count * n);
      });
    }
  }

  Context& context;

  // Workspace of weight gradients, shared by the team.
  Buffer transposed;
  Buffer packed_input;

 private:
  // m, n, k, bf16 operands, bf16 output, accumulate
  using Key = std::array<int64_t, 6>;

  struct Primitive {
    dnnl::matmul matmul;
    dnnl::memory a, b, c, scratch;
    size_t scratch_bytes = 0;
    std::unordered_map<int, dnnl::memory> arguments;
  };

  struct Thread {
    dnnl::stream stream;
    std::map<Key, Primitive> primitives;
    Buffer scratch;
    Buffer widened;
  };

  Primitive& Find(Thread& thread, const Key& key) {
    if (const auto found = thread.primitives.find(key); found != thread.primitives.end()) {
      return found->second;
    }
    if (thread.primitives.size() >= kMaxPrimitives) thread.primitives.clear();
    const auto [m, n, k, bf16_in, bf16_out, accumulate] = key;
    const DType in = bf16_in != 0 ? DType::kBF16 : DType::kF32;
    const DType out = bf16_out != 0 ? DType::kBF16 : DType::kF32;
    const auto description = Describe(engine_, RowMajor(m, k, in), RightLayout(engine_, k, n, in),
                                      RowMajor(m, n, out), accumulate != 0);
    Primitive made;
    made.matmul = dnnl::matmul(description);
    made.a = dnnl::memory(description.src_desc(), engine_, nullptr);
    made.b = dnnl::memory(description.weights_desc(), engine_, nullptr);
    made.c = dnnl::memory(description.dst_desc(), engine_, nullptr);
    made.scratch = dnnl::memory(description.scratchpad_desc(), engine_, nullptr);
    made.scratch_bytes = description.scratchpad_desc().get_size();
    made.arguments = {{DNNL_ARG_SRC, made.a},
                      {DNNL_ARG_WEIGHTS, made.b},
                      {DNNL_ARG_DST, made.c},
                      {DNNL_ARG_SCRATCHPAD, made.scratch}};
    return thread.primitives.emplace(key, std::move(made)).first->second;
  }

  dnnl::engine engine_;
  bool widens_;
  std::vector<Thread> threads_;
};

Gemm::Gemm(Context& context, bool widen_bf16)
    : impl_(std::make_unique<Impl>(context, widen_bf16)) {}
Gemm::~Gemm() = default;
Context& Gemm::context() const { return impl_->context; }

void Gemm::ReleaseWorkspace() {
  impl_->transposed = Buffer();
  impl_->packed_input = Buffer();
}

PackedMatrix Gemm::Pack(std::span<const ConstTensorView> weights, Orientation orientation,
                        DType dtype, MemoryCategory category) {
  int64_t out = 0;
  const int64_t in = weights.empty() ? 0 : weights.front().shape[1];
  for (const ConstTensorView& weight : weights) {
    if (weight.shape.rank() != 2 || weight.shape[1] != in || weight.dtype != DType::kF32 ||
        !weight.contiguous()) {
      throw ShapeError("weights packed together must be contiguous f32 [any, " +
                       std::to_string(in) + "], found " + weight.shape.ToString());
    }
    out += weight.shape[0];
  }
  const bool transposed = orientation == Orientation::kTransposed;
  PackedMatrix packed;
  packed.impl_ = std::make_unique<PackedMatrix::Impl>();
  PackedMatrix::Impl& result = *packed.impl_;
  result.k = transposed ? in : out;
  result.n = transposed ? out : in;
  result.dtype = dtype;
  result.computed = impl_->Computed(dtype);
  if (in == 0 || out == 0) return packed;

  // Rounded to the operands' type even where they are then widened, so that both ways agree.
  Context& rank = impl_->context;
  Tensor stacked(rank.meter, MemoryCategory::kWorkspace, result.computed, {out, in});
  Tensor narrow;
  if (result.computed != dtype) {
    narrow = Tensor(rank.meter, MemoryCategory::kWorkspace, dtype, {out, in});
  }
  int64_t row = 0;
  for (const ConstTensorView& weight : weights) {
    const int64_t rows = weight.shape[0];
    const TensorView place = stacked.view().Slice(0, row, rows);
    if (narrow) {
      const TensorView rounded = narrow.view().Slice(0, row, rows);
      Convert(rank, weight, rounded);
      Convert(rank, rounded, place);
    } else {
      Convert(rank, weight, place);
    }
    row += rows;
  }
  const OneOpenMpThread alone;
  result.buffer =
      Buffer(rank.meter, category, impl_->RightBytes(result.k, result.n, result.computed));
  impl_->PackRight(0, stacked.view().memory, result.k, result.n, result.computed,
                   transposed ? 1 : in, transposed ? in : 1, result.buffer.data());
  return packed;
}

void Gemm::Multiply(ConstTensorView left, const PackedMatrix& right, TensorView output,
                    bool accumulate) {
  const PackedMatrix::Impl& b = *right.impl_;
  const int64_t m = left.shape.rank() == 2 ? left.shape[0] : -1;
  if (!(left.shape == Shape{std::max<int64_t>(m, 0), b.k}) ||
      !(output.shape == Shape{std::max<int64_t>(m, 0), b.n}) || !left.contiguous() ||
      !output.contiguous() || left.dtype != b.dtype ||
      (output.dtype != DType::kF32 && output.dtype != b.dtype)) {
    throw ShapeError("a product with a right operand [" + std::to_string(b.k) + ", " +
                     std::to_string(b.n) + "] of " + std::string(Name(b.dtype)) +
                     " needs contiguous left [m, k] and output [m, n], found " +
                     left.shape.ToString() + " and " + output.shape.ToString());
  }
  if (m == 0 || b.n == 0) return;
  ThreadTeam& team = impl_->context.team;
  if (b.k == 0) {
    if (!accumulate) {
      std::fill_n(static_cast<std::byte*>(output.memory), output.elements() * SizeOf(output.dtype),
                  std::byte{0});
    }
    return;
  }
  team.Prepare([&](int thread) {
    const OneOpenMpThread alone;
    const Range rows = SplitRange(m, team.size(), thread, kRowMultiple);
    if (b.computed != b.dtype) {
      impl_->MultiplyWidened(thread, left.data<bf16>() + rows.begin * b.k, b.buffer.data(), output,
                             rows.begin, rows.size(), b.n, b.k, accumulate);
      return;
    }
    const auto in_bytes = static_cast<int64_t>(SizeOf(left.dtype));
    const auto out_bytes = static_cast<int64_t>(SizeOf(output.dtype));
    impl_->MultiplyOnThread(
        thread, static_cast<const std::byte*>(left.memory) + rows.begin * b.k * in_bytes,
        b.buffer.data(), static_cast<std::byte*>(output.memory) + rows.begin * b.n * out_bytes,
        rows.size(), b.n, b.k, left.dtype, output.dtype, accumulate);
  });
}

void Gemm::AddWeightGradients(ConstTensorView output_gradient, ConstTensorView input,
                              std::span<const TensorView> gradients) {
  const int64_t rows = input.shape.rank() == 2 ? input.shape[0] : -1;
  const int64_t in = rows < 0 ? -1 : input.shape[1];
  int64_t out = 0;
  bool agree = rows >= 0 && input.dtype == output_gradient.dtype;
  for (const TensorView& gradient : gradients) {
    agree = agree && gradient.shape.rank() == 2 && gradient.shape[1] == in &&
            gradient.dtype == DType::kF32 && gradient.contiguous();
    out += agree ? gradient.shape[0] : 0;
  }
  if (!agree || !(output_gradient.shape == Shape{rows, out})) {
    throw ShapeError(
        "weight gradients [out, in] in f32 of outputs [rows, sum of out] and inputs "
        "[rows, in] of one type: found gradients of " +
        std::to_string(out) + " rows, outputs " + output_gradient.shape.ToString() +
        " and inputs " + input.shape.ToString());
  }
  if (rows == 0 || in == 0 || out == 0) return;

  // The rows are cut into slices; each thread transposes and packs some, then every thread adds all
  // slices, in order, into its own rows of the gradients.
  ThreadTeam& team = impl_->context.team;
  const DType computed = impl_->Computed(input.dtype);
  const auto element = static_cast<int64_t>(SizeOf(computed));
  const int slices = static_cast<int>(std::clamp<int64_t>(rows / kMinSliceRows, 1, team.size()));
  const auto slice_of = [&](int index) { return SplitRange(rows, slices, index, kRowMultiple); };
  std::vector<size_t> packed_at(static_cast<size_t>(slices) + 1, 0);
  for (int slice = 0; slice < slices; ++slice) {
    const int64_t length = slice_of(slice).size();
    const size_t bytes = length > 0 ? impl_->RightBytes(length, in, computed) : 0;
    packed_at[slice + 1] = packed_at[slice] + (bytes + 63) / 64 * 64;
  }
  MemoryMeter& meter = impl_->context.meter;
  GrowBuffer(meter, packed_at[slices], impl_->packed_input);
  GrowBuffer(meter, static_cast<size_t>(rows * out * element), impl_->transposed);

  const auto prepare = [&]<class T>(int thread, int slice) {
    const Range range = slice_of(slice);
    const int64_t length = range.size();
    if (length == 0 || team.rehearses()) return;
    const T* dy = output_gradient.at<T>(range.begin);
    const T* x = input.at<T>(range.begin);
    std::byte* left = impl_->transposed.data() + range.begin * out * element;
    std::byte* right = impl_->packed_input.data() + packed_at[slice];
    if (computed == input.dtype) {
      Transpose(dy, output_gradient.strides[0], length, out, reinterpret_cast<T*>(left), length);
      impl_->PackRight(thread, x, length, in, computed, input.strides[0], 1, right);
      return;
    }
    std::vector<T> narrow(static_cast<size_t>(length * out));
    Transpose(dy, output_gradient.strides[0], length, out, narrow.data(), length);
    Convert(narrow.data(), reinterpret_cast<float*>(left), length * out);
    std::vector<float> wide(static_cast<size_t>(length * in));
    for (int64_t row = 0; row < length; ++row) {
      Convert(x + row * input.strides[0], wide.data() + row * in, in);
    }
    impl_->PackRight(thread, wide.data(), length, in, computed, in, 1, right);
  };

  team.Prepare([&](int thread) {
    const OneOpenMpThread alone;
    for (int slice = thread; slice < slices; slice += team.size()) {
      DispatchDType(input.dtype,
                    [&]<class T>(T) { prepare.template operator()<T>(thread, slice); });
    }
    team.Barrier();
    const Range mine = SplitRange(out, team.size(), thread, kRowMultiple);
    for (int slice = 0; slice < slices; ++slice) {
      const Range range = slice_of(slice);
      const int64_t length = range.size();
      if (length == 0) continue;
      int64_t first = 0;  // this gradient's first row in the stack
      for (const TensorView& gradient : gradients) {
        const int64_t begin = std::max(first, mine.begin);
        const int64_t end = std::min(first + gradient.shape[0], mine.end);
        if (begin < end) {
          impl_->MultiplyOnThread(
              thread, impl_->transposed.data() + (range.begin * out + begin * length) * element,
              impl_->packed_input.data() + packed_at[slice], gradient.at<float>(begin - first),
              end - begin, in, length, computed, DType::kF32, true);
        }
        first += gradient.shape[0];
      }
    }
  });
}

}  // namespace ringwise
