#include "inference/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "core/temporary_folder.h"
#include "formats/file_io.h"
#include "ringwise/error.h"
#include "ringwise/memory.h"
#include "ringwise/safetensors.h"

namespace ringwise {
namespace {

using ::testing::HasSubstr;

class WeightsTest : public ::testing::Test {
 protected:
  WeightsTest() {
    Add("model.embed_tokens.weight", {2, 3}, 1);
    Add("model.norm.weight", {3}, 10);
  }

  void Add(const std::string& name, const Shape& shape, float first) {
    Parameter parameter{name, Tensor(meter_, MemoryCategory::kParameters, DType::kF32, shape), {}};
    for (int64_t i = 0; i < shape.elements(); ++i) {
      parameter.value.data<float>()[i] = first + static_cast<float>(i);
    }
    parameters_.push_back(std::move(parameter));
  }
  float* Values(size_t index) { return parameters_[index].value.data<float>(); }
  void Forget() {
    for (Parameter& parameter : parameters_) parameter.value.Zero();
  }
  void ExpectRead() {
    Forget();
    ReadWeights(parameters_, folder_);
    for (int i = 0; i < 6; ++i) EXPECT_EQ(Values(0)[i], static_cast<float>(1 + i));
    for (int i = 0; i < 3; ++i) EXPECT_EQ(Values(1)[i], static_cast<float>(10 + i));
  }
  std::string ErrorOf() {
    try {
      ReadWeights(parameters_, folder_);
    } catch (const FileError& error) {
      return error.what();
    }
    return "";
  }
  void WriteFile(const std::string& file, const std::vector<NamedBytes>& tensors) {
    WriteSafetensors(folder_ + "/" + file, tensors);
  }
  NamedBytes Stored(size_t index) {
    const Parameter& parameter = parameters_[index];
    const Shape& shape = parameter.value.shape();
    std::vector<int64_t> extents;
    extents.reserve(static_cast<size_t>(shape.rank()));
    for (int axis = 0; axis < shape.rank(); ++axis) extents.push_back(shape[axis]);
    return {parameter.name,
            {"F32", extents, std::as_bytes(std::span(Values(index), shape.elements()))}};
  }

  TemporaryFolder temporary_;
  const std::string& folder_ = temporary_.path();
  MemoryMeter meter_;
  std::vector<Parameter> parameters_;
};

TEST_F(WeightsTest, RoundTrip) {
  WriteWeights(parameters_, folder_);
  ExpectRead();
}

TEST_F(WeightsTest, Sharded) {
  WriteFile("model-00001-of-00002.safetensors", {Stored(1)});
  WriteFile("model-00002-of-00002.safetensors", {Stored(0)});
  WriteTextFile(folder_ + "/model.safetensors.index.json",
                R"({"metadata": {}, "weight_map": {
                   "model.norm.weight": "model-00001-of-00002.safetensors",
                   "model.embed_tokens.weight": "model-00002-of-00002.safetensors"}})");
  ExpectRead();
  WriteTextFile(folder_ + "/model.safetensors.index.json",
                R"({"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}})");
  EXPECT_THAT(ErrorOf(), HasSubstr("'model.embed_tokens.weight' is missing"));
  WriteTextFile(folder_ + "/model.safetensors.index.json",
                R"({"weight_map": {"model.norm.weight": "../other/model.safetensors"}})");
  EXPECT_THAT(ErrorOf(), HasSubstr("outside the folder"));
  for (const char* text : {"", "{}", "[]", R"({"weight_map": 1})", R"({"weight_map": {"a": 1}})"}) {
    WriteTextFile(folder_ + "/model.safetensors.index.json", text);
    EXPECT_THAT(ErrorOf(), testing::AnyOf(HasSubstr("corrupt"), HasSubstr("missing"))) << text;
  }
}

TEST_F(WeightsTest, HalfTypes) {
  // 1, -2, 65504 (largest), 2^-24 (smallest), infinity, -0
  const std::vector<uint16_t> half{0x3c00, 0xc000, 0x7bff, 0x0001, 0x7c00, 0x8000};
  const std::vector<uint16_t> brain{0x3f80, 0xc000, 0x4049};
  WriteFile("model.safetensors",
            {{"model.embed_tokens.weight", {"F16", {2, 3}, std::as_bytes(std::span(half))}},
             {"model.norm.weight", {"BF16", {3}, std::as_bytes(std::span(brain))}}});
  ReadWeights(parameters_, folder_);
  EXPECT_EQ(Values(0)[0], 1.0f);
  EXPECT_EQ(Values(0)[1], -2.0f);
  EXPECT_EQ(Values(0)[2], 65504.0f);
  EXPECT_EQ(Values(0)[3], 0x1p-24f);
  EXPECT_EQ(Values(0)[4], std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::signbit(Values(0)[5]));
  EXPECT_EQ(Values(1)[1], -2.0f);
  EXPECT_EQ(Values(1)[2], 3.140625f);
}

TEST_F(WeightsTest, WhatIsNoWeightIsPassedOver) {
  std::vector<NamedBytes> tensors{Stored(0), Stored(1), Stored(1), Stored(0)};
  tensors[2].name = "model.layers.0.self_attn.rotary_emb.inv_freq";
  tensors[3].name = "lm_head.weight";
  WriteFile("model.safetensors", tensors);
  ExpectRead();
}

TEST_F(WeightsTest, ErrorsNameTheTensor) {
  EXPECT_THAT(ErrorOf(), HasSubstr("neither model.safetensors nor"));
  WriteFile("model.safetensors", {Stored(0)});
  EXPECT_THAT(ErrorOf(), HasSubstr("'model.norm.weight' is missing"));
  std::vector<NamedBytes> tensors{Stored(0), Stored(1), Stored(1)};
  tensors[2].name = "model.layers.7.foreign";
  WriteFile("model.safetensors", tensors);
  EXPECT_THAT(ErrorOf(), HasSubstr("unexpected tensor 'model.layers.7.foreign'"));
  tensors.pop_back();
  tensors[0].entry.shape = {3, 2};
  WriteFile("model.safetensors", tensors);
  EXPECT_THAT(ErrorOf(), HasSubstr("'model.embed_tokens.weight' has shape [3, 2], the "
                                   "configuration needs [2, 3]"));
  tensors[0].entry.shape = {2, 3};
  tensors[0].entry.dtype = "I32";
  WriteFile("model.safetensors", tensors);
  EXPECT_THAT(ErrorOf(), HasSubstr("stored as I32"));
}

}  // namespace
}  // namespace ringwise
