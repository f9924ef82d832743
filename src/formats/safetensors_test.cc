#include "ringwise/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>

#include "core/temporary_folder.h"
#include "formats/file_io.h"
#include "ringwise/error.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

using ::testing::HasSubstr;

class SafetensorsTest : public ::testing::Test {
 protected:
  std::string Path(const std::string& name) const { return folder_ + "/" + name; }

  // A file of this header and so many zero bytes of data.
  std::string Raw(const std::string& header, size_t data_bytes, int64_t claimed_length = -1) {
    const uint64_t length =
        claimed_length < 0 ? header.size() : static_cast<uint64_t>(claimed_length);
    std::string text;
    for (int i = 0; i < 8; ++i) text += static_cast<char>(length >> (8 * i));
    text += header + std::string(data_bytes, '\0');
    WriteTextFile(Path("raw"), text);
    return Path("raw");
  }

  // The message of the error that opening gives; "" if it opens.
  static std::string ErrorOf(const std::string& path) {
    try {
      SafetensorsFile file(path);
    } catch (const FileError& error) {
      std::string message = error.what();
      EXPECT_EQ(message.find('\n'), std::string::npos);
      EXPECT_THAT(message, HasSubstr(path));
      return message;
    }
    return "";
  }

  TemporaryFolder temporary_;
  const std::string& folder_ = temporary_.path();
};

std::span<const std::byte> Bytes(const std::vector<float>& values) {
  return std::as_bytes(std::span(values));
}

TEST_F(SafetensorsTest, RoundTrip) {
  const std::vector<float> a{1, -2, 3.5f, 4, 5, 6};
  const std::vector<NamedBytes> tensors{{"z.first", {"F32", {2, 3}, Bytes(a)}},
                                        {"empty", {"BF16", {0, 7}, {}}},
                                        {"a \"scalar\"\n\xc3\xa9", {"U8", {}, Bytes(a).first(1)}}};
  WriteSafetensors(Path("x"), tensors, {{"format", "pt"}});
  const SafetensorsFile file(Path("x"));
  ASSERT_EQ(file.entries().size(), 3u);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  const SafetensorsEntry& first = file.at("z.first");
  EXPECT_EQ(first.dtype, "F32");
  EXPECT_EQ(first.shape, (std::vector<int64_t>{2, 3}));
  ASSERT_EQ(first.bytes.size(), a.size() * sizeof(float));
  EXPECT_EQ(std::memcmp(first.bytes.data(), a.data(), first.bytes.size()), 0);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first.bytes.data()) % 8, 0u);
  EXPECT_EQ(file.at("empty").bytes.size(), 0u);
  EXPECT_EQ(file.at(tensors[2].name).bytes.size(), 1u);
  try {
    file.at("absent");
    FAIL();
  } catch (const FileError& error) {
    EXPECT_THAT(error.what(), HasSubstr("no tensor 'absent'; it holds"));
    EXPECT_THAT(error.what(), HasSubstr("'z.first'"));
  }
}

TEST_F(SafetensorsTest, NoTensorsAtAll) {
  WriteSafetensors(Path("x"), {});
  EXPECT_TRUE(SafetensorsFile(Path("x")).entries().empty());
}

TEST_F(SafetensorsTest, Unreadable) {
  EXPECT_THAT(ErrorOf(Path("absent")), HasSubstr("No such file"));
  EXPECT_THAT(ErrorOf(folder_), HasSubstr("folder"));
  WriteTextFile(Path("short"), "abc");
  EXPECT_THAT(ErrorOf(Path("short")), HasSubstr("only 3 bytes"));
  WriteTextFile(Path("none"), "");
  EXPECT_THAT(ErrorOf(Path("none")), HasSubstr("only 0 bytes"));
}

TEST_F(SafetensorsTest, HostileHeaders) {
  const std::string good = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  EXPECT_EQ(ErrorOf(Raw(good, 8)), "");
  EXPECT_EQ(ErrorOf(Raw(good + "   ", 8)), "");
  const auto expect = [&](const std::string& header, size_t bytes, const std::string& message) {
    EXPECT_THAT(ErrorOf(Raw(header, bytes)), HasSubstr(message)) << header;
  };
  expect(good, 7, "truncated");
  expect(good, 9, "bytes after the last tensor");
  expect("", 0, "not JSON");
  expect("[1]", 0, "expected an object");
  expect("{\"a\":", 0, "not JSON");
  expect("{\"a\xff\":1}", 0, "not JSON");
  expect(std::string("{\0}", 3), 0, "not JSON");
  expect(good + "{}", 8, "not JSON");
  expect("{\"a\":1}", 0, "expected an object in the header");
  expect("{\"a\":{}}", 0, "no dtype");
  expect(R"({"a":{"dtype":"F32","shape":[2]}})", 0, "data_offsets");
  expect(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,9]}})", 9, "data_offsets");
  expect(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8, "outside");
  expect(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}})", 8, "data_offsets");
  expect(R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", 8, "shape");
  expect(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8, "shape");
  expect(R"({"a":{"dtype":"F32","shape":2,"data_offsets":[0,8]}})", 8, "shape");
  expect(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8, "need 12 bytes");
  expect(R"({"a":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}})", 8, "unknown dtype 'F99'");
  expect(R"({"a":{"dtype":7,"shape":[2],"data_offsets":[0,8]}})", 8, "no dtype");
  expect(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4611686018427387904],)"
         R"("data_offsets":[0,8]}})",
         8, "too large");
  expect(R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]}})", 8,
         "shape");
  expect(R"({"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,8]}})", 8, "corrupt");
  expect(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
         R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
         12, "overlap");
  expect(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12, "belong to no tensor");
  expect(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
         R"("a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})",
         16, "'a' appears twice");
  expect(R"({"a\nb":{"dtype":"F32","shape":[2],"shape":[2]}})", 16, "'shape' appears twice");
  expect(R"({"a\nb":{}})", 16, "'a\\x0ab'");
  expect(R"({"__metadata__":[]})", 0, "__metadata__");
  expect(R"({"__metadata__":{"a":1}})", 0, "is not text");
  expect(std::string(1'000'000, '['), 0, "nested too deeply");
  expect("{\"a\":" + std::string(1'000'000, '['), 0, "nested too deeply");
}

TEST_F(SafetensorsTest, HeaderLengths) {
  const std::string good = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  EXPECT_THAT(ErrorOf(Raw(good, 8, 1'000'000)), HasSubstr("truncated"));
  EXPECT_THAT(ErrorOf(Raw(good, 8, int64_t{1} << 62)), HasSubstr("truncated"));
  EXPECT_THAT(ErrorOf(Raw(good, 8, 10)), HasSubstr("not JSON"));
  EXPECT_THAT(ErrorOf(Raw(good, 8, 0)), HasSubstr("not JSON"));
}

// Every truncation and random damage of a good file: an error of one line, or the file still reads.
TEST_F(SafetensorsTest, DamagedFiles) {
  const std::vector<float> a{1, 2, 3, 4};
  const std::vector<NamedBytes> tensors{{"one", {"F32", {2, 2}, Bytes(a)}},
                                        {"two", {"U8", {16}, Bytes(a)}}};
  WriteSafetensors(Path("x"), tensors, {{"k", "v"}});
  const std::string whole = ReadTextFile(Path("x"));
  for (size_t length = 0; length < whole.size(); ++length) {
    WriteTextFile(Path("y"), whole.substr(0, length));
    EXPECT_NE(ErrorOf(Path("y")), "") << length;
  }
  Random random(1, 0);
  for (int trial = 0; trial < 2000; ++trial) {
    std::string damaged = whole;
    for (int i = 0; i <= trial % 3; ++i) {
      damaged[random.Below(damaged.size())] = static_cast<char>(random.Below(256));
    }
    WriteTextFile(Path("y"), damaged);
    ErrorOf(Path("y"));
  }
}

TEST_F(SafetensorsTest, WriteErrors) {
  const std::vector<float> a(1 << 16);
  const std::vector<NamedBytes> tensors{{"a", {"F32", {1 << 16}, Bytes(a)}}};
  try {
    WriteSafetensors("/dev/full", tensors);
    FAIL();
  } catch (const FileError& error) {
    EXPECT_THAT(error.what(), HasSubstr("No space left"));
  }
  EXPECT_THROW(WriteSafetensors(Path("absent/x"), tensors), FileError);
  const std::vector<NamedBytes> twice{tensors[0], tensors[0]};
  EXPECT_THROW(WriteSafetensors(Path("x"), twice), UsageError);
  const std::vector<NamedBytes> wrong{{"a", {"F32", {3}, Bytes(a)}}};
  EXPECT_THROW(WriteSafetensors(Path("x"), wrong), ShapeError);
  const std::vector<NamedBytes> not_utf8{{"\xff", {"F32", {1 << 16}, Bytes(a)}}};
  EXPECT_THROW(WriteSafetensors(Path("x"), not_utf8), UsageError);
}

}  // namespace
}  // namespace ringwise
