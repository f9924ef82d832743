#include "kernels/convert.h"

#include <gtest/gtest.h>

#include <bit>
#include <vector>

#include "ringwise/error.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

TEST(Convert, RoundsEveryHardValueAsBf16Does) {
  std::vector<float> values;
  for (uint32_t word = 0; word < 0xfff00000u; word += 0x4001u) {
    values.push_back(std::bit_cast<float>(word));
    values.push_back(std::bit_cast<float>((word & 0xffff0000u) | 0x8000u));
  }
  const auto count = static_cast<int64_t>(values.size());
  std::vector<bf16> narrow(values.size());
  Convert(values.data(), narrow.data(), count);
  for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(narrow[i].bits, bf16(values[i]).bits) << i;
}

TEST(Convert, AddRoundsOnceInAnyTypes) {
  MemoryMeter meter;
  for (const int threads : {1, 3}) {
    ThreadTeam team(threads);
    Context context{team, meter};
    for (const DType from_type : {DType::kF32, DType::kBF16}) {
      for (const DType to_type : {DType::kF32, DType::kBF16}) {
        Tensor from(meter, MemoryCategory::kWorkspace, from_type, {3, 67});
        Tensor to(meter, MemoryCategory::kWorkspace, to_type, {3, 67});
        std::vector<float> sums;
        DispatchDType(from_type, [&]<class From>(From) {
          DispatchDType(to_type, [&]<class To>(To) {
            Random random(3, 9);
            for (int64_t i = 0; i < from.elements(); ++i) {
              from.data<From>()[i] = From(random.Normal());
              to.data<To>()[i] = To(random.Normal());
              const float sum =
                  static_cast<float>(from.data<From>()[i]) + static_cast<float>(to.data<To>()[i]);
              sums.push_back(static_cast<float>(To(sum)));
            }
            Add(context, from.view(), to.view());
            for (int64_t i = 0; i < to.elements(); ++i) {
              ASSERT_EQ(static_cast<float>(to.data<To>()[i]), sums[i]);
            }
            Convert(context, to.view(), from.view());
            for (int64_t i = 0; i < to.elements(); ++i) {
              ASSERT_EQ(static_cast<float>(from.data<From>()[i]),
                        static_cast<float>(From(static_cast<float>(to.data<To>()[i]))));
            }
          });
        });
        EXPECT_THROW(Add(context, from.view().Slice(1, 0, 5), to.view()), ShapeError);
      }
    }
  }
}

}  // namespace
}  // namespace ringwise
