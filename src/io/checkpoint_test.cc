#include "io/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>

#include "base/units.h"
#include "io/faulty_file.h"
#include "io/test_folder.h"

namespace flexgen::checkpoint_test {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;

std::string safetensors(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + header + data;
}

constexpr const char* kGood = R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                              R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},"scalar":{"dtype":"F16","shape":[],"data_offsets":[32,34]},)"
                              R"("ids":{"dtype":"I64","shape":[1],"data_offsets":[34,42]},"none":{"dtype":"F32","shape":[0,7],"data_offsets":[42,42]}})";
constexpr int64_t kGoodBytes = 42;

TEST(SafetensorsHeader, FindsTensorsAndKeepsIntegersApart) {
  std::map<std::string, TensorLocation> coded;
  auto tensors = parse_safetensors_header(kGood, 1000, 1000 + kGoodBytes, "f", &coded);
  ASSERT_EQ(tensors.size(), 4u);
  EXPECT_EQ(tensors["a"].dtype, DType::kF32);
  EXPECT_THAT(tensors["a"].shape, ElementsAre(2, 3));
  EXPECT_EQ(tensors["a"].offset, 1000);
  EXPECT_EQ(tensors["a"].bytes, 24);
  EXPECT_EQ(tensors["b"].dtype, DType::kBF16);
  EXPECT_EQ(tensors["b"].offset, 1024);
  EXPECT_EQ(tensors["scalar"].dtype, DType::kF16);
  EXPECT_EQ(tensors["scalar"].bytes, 2);
  EXPECT_EQ(tensors["none"].bytes, 0);
  ASSERT_EQ(coded.size(), 1u);
  EXPECT_EQ(coded["ids"].stored_as, "I64");
  EXPECT_EQ(coded["ids"].offset, 1034);
  EXPECT_EQ(coded["ids"].bytes, 8);
}

struct Lie {
  const char* what;
  std::string header;
  int64_t data_bytes;
  const char* says;
};

std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"t":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
}

std::string two(const std::string& first, const std::string& second) {
  return R"({"x":{"dtype":"U8","shape":[8],"data_offsets":)" + first + R"(},"y":{"dtype":"U8","shape":[8],"data_offsets":)" + second + "}}";
}

std::vector<Lie> lies() {
  const std::string deep = R"({"t":)" + std::string(100'000, '[') + std::string(100'000, ']') + "}";
  return {
      {"empty header", "", 0, "not a JSON object"},
      {"a list", "[]", 0, "not a JSON object"},
      {"leading blank", " {}", 0, "not a JSON object"},
      {"not JSON", "{\"t\":", 4, "not JSON"},
      {"trailing bytes", "{} x", 0, "not JSON"},
      {"invalid UTF-8", "{\"t\xff\":{}}", 4, "not JSON"},
      {"deep nesting", deep, 4, "nested too deep"},
      {"deep objects", R"({"t":{"a":{"b":{"c":{"d":1}}}}})", 4, "nested too deep"},
      {"huge number", one("\"F32\"", "[1e999]", "[0,4]"), 4, "out of range"},
      {"tensor twice", R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1, "names 't' twice"},
      {"key twice", R"({"t":{"dtype":"U8","dtype":"F32","shape":[1],"data_offsets":[0,1]}})", 1, "names 'dtype' twice"},
      {"metadata no map", R"({"__metadata__":[]})", 0, "__metadata__"},
      {"metadata numbers", R"({"__metadata__":{"a":1}})", 0, "__metadata__"},
      {"entry no object", R"({"t":3})", 4, "tensor 't' is not described"},
      {"no dtype", R"({"t":{"shape":[1],"data_offsets":[0,4]}})", 4, "tensor 't' has no dtype"},
      {"no shape", R"({"t":{"dtype":"F32","data_offsets":[0,4]}})", 4, "tensor 't' has no shape"},
      {"no offsets", R"({"t":{"dtype":"F32","shape":[1]}})", 4, "tensor 't' has no data_offsets"},
      {"dtype number", one("4", "[1]", "[0,4]"), 4, "dtype that is no text"},
      {"unknown dtype", one("\"Q4_0\"", "[1]", "[0,4]"), 4, "unknown dtype 'Q4_0'"},
      {"lower case dtype", one("\"f32\"", "[1]", "[0,4]"), 4, "unknown dtype 'f32'"},
      {"shape text", one("\"F32\"", "\"1\"", "[0,4]"), 4, "shape that is no list"},
      {"negative size", one("\"F32\"", "[-1]", "[0,4]"), 4, "absurd shape"},
      {"fractional size", one("\"F32\"", "[1.0]", "[0,4]"), 4, "absurd shape"},
      {"size 2^64", one("\"F32\"", "[18446744073709551616]", "[0,4]"), 4, "absurd shape"},
      {"overflowing product", one("\"F32\"", "[4294967296,4294967296]", "[0,0]"), 0, "absurd shape"},
      {"overflowing to the right size", one("\"F32\"", "[281474976710656,65536,1]", "[0,0]"), 0, "absurd shape"},
      {"one offset", one("\"F32\"", "[1]", "[0]"), 4, "data_offsets"},
      {"three offsets", one("\"F32\"", "[1]", "[0,4,4]"), 4, "data_offsets"},
      {"negative offset", one("\"F32\"", "[1]", "[-4,0]"), 4, "data_offsets"},
      {"backwards", one("\"F32\"", "[1]", "[4,0]"), 4, "backwards"},
      {"beyond the end", one("\"F32\"", "[2]", "[0,8]"), 4, "truncated"},
      {"far beyond the end", one("\"F32\"", "[1]", "[18446744073709551611,18446744073709551615]"), 4, "truncated"},
      {"shape too small", one("\"F32\"", "[1]", "[0,8]"), 8, "takes 8 bytes"},
      {"shape too large", one("\"F16\"", "[3]", "[0,4]"), 4, "takes 4 bytes"},
      {"half a byte", one("\"F4\"", "[3]", "[0,2]"), 2, "takes 2 bytes"},
      {"overlap", two("[0,8]", "[4,12]"), 12, "overlaps"},
      {"same place", two("[0,8]", "[0,8]"), 8, "overlaps"},
      {"hole", two("[0,8]", "[9,17]"), 17, "leaves a hole"},
      {"hole at the start", one("\"F32\"", "[1]", "[1,5]"), 5, "leaves a hole"},
      {"tail", one("\"F32\"", "[1]", "[0,4]"), 5, "describes 4 bytes of tensors, the file holds 5"},
      {"empty tensor inside another", R"({"x":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"y":{"dtype":"U8","shape":[0],"data_offsets":[3,3]}})", 8,
       "overlaps"},
      {"data without tensors", "{}", 1, "holds 1"},
  };
}

TEST(SafetensorsHeader, RefusesLies) {
  for (const Lie& lie : lies()) {
    SCOPED_TRACE(lie.what);
    const auto start = 8 + static_cast<int64_t>(lie.header.size());
    EXPECT_THAT(error_of(ErrorKind::kUser, [&] { parse_safetensors_header(lie.header, start, start + lie.data_bytes, "lie.safetensors"); }),
                AllOf(HasSubstr("lie.safetensors"), HasSubstr(lie.says)));
  }
}

TEST(SafetensorsHeader, HostileNamesAreMadePrintable) {
  const std::string header = R"({"\u001b[31m)" + std::string(5000, 'n') + R"(":3})";
  const std::string message = error_of(ErrorKind::kUser, [&] { parse_safetensors_header(header, 10, 10, "f"); });
  EXPECT_LT(message.size(), 400u);
  EXPECT_THAT(message, AllOf(HasSubstr("\\x1b"), Not(HasSubstr("\x1b"))));
}

TEST(SafetensorsHeader, RandomDamageIsRefusedOrHarmless) {
  std::mt19937_64 random(1);
  const std::string good = kGood;
  int refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string header = good;
    for (uint64_t n = 1 + random() % 3; n > 0; --n) {
      const size_t at = random() % header.size();
      switch (random() % 4) {
        case 0: header[at] = static_cast<char>(random()); break;
        case 1: header.erase(at, 1 + random() % 5); break;
        case 2: header.insert(at, 1, good[random() % good.size()]); break;
        default: header[at] = static_cast<char>('0' + random() % 10);
      }
    }
    const auto start = 8 + static_cast<int64_t>(header.size());
    try {
      for (const auto& [name, tensor] : parse_safetensors_header(header, start, start + kGoodBytes, "f")) {
        ASSERT_GE(tensor.offset, start);
        ASSERT_LE(tensor.offset + tensor.bytes, start + kGoodBytes);
        int64_t count = 1;
        for (int64_t size : tensor.shape) count *= size;
        ASSERT_EQ(size_bytes(tensor.dtype, count), tensor.bytes);
      }
    } catch (const Error& error) {
      ASSERT_EQ(error.kind(), ErrorKind::kUser);
      ++refused;
    }
  }
  EXPECT_GT(refused, 10'000);
}

std::string good_file(char fill = 'd') { return safetensors(kGood, std::string(kGoodBytes, fill)); }

TEST(Checkpoint, OneFile) {
  TestFolder folder;
  folder.put("model.safetensors", good_file());
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  EXPECT_THAT(checkpoint.files(), ElementsAre(folder.file("model.safetensors")));
  ASSERT_NE(checkpoint.find("a"), nullptr);
  EXPECT_EQ(checkpoint.find("a")->offset, 8 + static_cast<int64_t>(std::strlen(kGood)));
  EXPECT_EQ(checkpoint.find("ids"), nullptr);
  EXPECT_EQ(checkpoint.find("c"), nullptr);
}

TEST(Checkpoint, Shards) {
  TestFolder folder;
  folder.put("model-1.safetensors", safetensors(one("\"F32\"", "[1]", "[0,4]"), "AAAA"));
  folder.put("model-2.safetensors", good_file());
  folder.put("model.safetensors.index.json",
             R"({"metadata":{"total_size":46},"weight_map":{"t":"model-1.safetensors","a":"model-2.safetensors","ids":"model-2.safetensors"}})");
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  EXPECT_EQ(checkpoint.files().size(), 2u);
  EXPECT_EQ(checkpoint.files()[static_cast<size_t>(checkpoint.find("t")->file)], folder.file("model-1.safetensors"));
  EXPECT_EQ(checkpoint.files()[static_cast<size_t>(checkpoint.find("a")->file)], folder.file("model-2.safetensors"));
}

TEST(Checkpoint, BadDirectoriesAreRefusedByName) {
  struct Case {
    const char* what;
    std::vector<std::pair<std::string, std::string>> files;
    std::vector<std::string> says;
  };
  const std::string tensor = safetensors(one("\"F32\"", "[1]", "[0,4]"), "AAAA");
  const auto index = [](const std::string& map) { return R"({"weight_map":)" + map + "}"; };
  const std::string huge = std::string("\xff\xff\xff\xff\xff\xff\xff\xff", 8) + "{}";
  const std::string over = std::string("\x00\xe2\xf5\x05\x00\x00\x00\x00", 8) + "{}";  // 100,000,256
  const std::string index_name = "model.safetensors.index.json";
  const std::string kPointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4665a7ac98b3a8b57b1b2b9f\nsize 134515008\n";
  const std::vector<Case> cases = {
      {"nothing", {}, {"neither model.safetensors nor"}},
      {"pickles", {{"pytorch_model.bin", "x"}}, {"pytorch_model.bin", "convert"}},
      {"empty file", {{"model.safetensors", ""}}, {"model.safetensors", "0 bytes", "truncated"}},
      {"seven bytes", {{"model.safetensors", "1234567"}}, {"7 bytes"}},
      {"web page", {{"model.safetensors", "<!doctype html><html>"}}, {"a web page"}},
      {"error", {{"model.safetensors", R"({"error":"Repository not found"})"}}, {"an error message"}},
      {"GGUF", {{"model.safetensors", std::string("GGUF\3\0\0\0", 8) + std::string(50, '\0')}}, {"a GGUF"}},
      {"zip", {{"model.safetensors", "PK\x03\x04" + std::string(50, '\0')}}, {"PyTorch"}},
      {"gzip", {{"model.safetensors", "\x1f\x8b\x08" + std::string(50, '\0')}}, {"gzip"}},
      {"zeros", {{"model.safetensors", std::string(50, '\0')}}, {"zeros"}},
      {"a pointer with a mark",
       {{"model.safetensors", "\xef\xbb\xbfversion https://git-lfs.github.com/spec/v1\noid sha256:46\nsize 4997\n"}},
       {"git lfs pull"}},
      {"huge header", {{"model.safetensors", huge}}, {"header of 18446744073709551615 bytes"}},
      {"header over the limit", {{"model.safetensors", over}}, {"header of 100000256 bytes"}},
      {"header longer than the file", {{"model.safetensors", good_file().substr(0, 100)}}, {"in a file of 100", "truncated"}},
      {"data cut", {{"model.safetensors", good_file().substr(0, good_file().size() - 1)}}, {"truncated"}},
      {"index not JSON", {{index_name, "{"}}, {index_name, "not JSON"}},
      {"index without map", {{index_name, "{}"}}, {index_name, "no weight_map"}},
      {"index is a list", {{index_name, "[1]"}}, {index_name, "no weight_map"}},
      {"index empty", {{index_name, index("{}")}}, {"weight_map is empty"}},
      {"index twice", {{index_name, index(R"({"t":"a","t":"b"})")}}, {"names 't' twice"}},
      {"shard number", {{index_name, index(R"({"t":1})")}}, {"'t' is no file name"}},
      {"shard elsewhere", {{index_name, index(R"({"t":"../x.safetensors"})")}}, {"'t' is no file name"}},
      {"shard above", {{index_name, index(R"({"t":".."})")}}, {"'t' is no file name"}},
      {"missing shard", {{index_name, index(R"({"t":"gone.safetensors"})")}}, {"gone.safetensors is missing", "'t'"}},
      {"shard from the root", {{index_name, index(R"({"t":"/x.safetensors"})")}}, {"'t' is no file name"}},
      {"shard by a way up", {{index_name, index(R"({"t":"a/../../x.safetensors"})")}}, {"'t' is no file name"}},
      {"pointer of git-lfs", {{"model.safetensors", kPointer}}, {"model.safetensors", "git lfs pull"}},
      {"index is a pointer", {{index_name, kPointer}}, {index_name, "git lfs pull"}},
      {"a variant", {{"model.fp16.safetensors", tensor}}, {"model.fp16.safetensors", "rename"}},
      {"Mistral's layout", {{"consolidated.safetensors", tensor}}, {"consolidated.safetensors", "Mistral"}},
      {"an adapter", {{"adapter_model.safetensors", tensor}}, {"adapter", "merge"}},
      {"a GGUF", {{"model.Q4_K_M.gguf", "GGUF"}}, {"model.Q4_K_M.gguf", "give the file itself"}},
      {"TensorFlow", {{"tf_model.h5", "x"}}, {"tf_model.h5", "TensorFlow"}},
      {"a name of its own", {{"weights.safetensors", tensor}}, {"weights.safetensors", "rename"}},
      {"a download under way", {{"model.safetensors.incomplete", "x"}}, {"not finished"}},
      {"two of three shards", {{"model-00001-of-00003.safetensors", tensor}, {"model-00002-of-00003.safetensors", tensor}}, {"2 of 3 shards"}},
      {"two sets", {{"model-00001-of-00001.safetensors", tensor}, {"model-00001-of-00002.safetensors", tensor}}, {"two sets"}},
  };
  for (const Case& bad : cases) {
    SCOPED_TRACE(bad.what);
    TestFolder folder;
    for (const auto& [name, content] : bad.files) folder.put(name, content);
    const std::string message = error_of(ErrorKind::kUser, [&] { Checkpoint::open(folder.path()); });
    for (const std::string& part : bad.says) EXPECT_THAT(message, HasSubstr(part));
  }
  EXPECT_THAT(error_of(ErrorKind::kUser, [] { Checkpoint::open("/no/such/folder"); }), HasSubstr("is no directory"));
}

TEST(Checkpoint, OneTensorInTwoShardsIsTheIndexsOrRefused) {
  TestFolder folder;
  folder.put("s.safetensors", safetensors(one("\"F32\"", "[1]", "[0,4]"), "AAAA"));
  folder.put("z.safetensors",
             safetensors(R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"u":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", "AAAABBBB"));
  for (const char* shard : {"s.safetensors", "z.safetensors"}) {
    folder.put("model.safetensors.index.json", fmt::format(R"({{"weight_map":{{"t":"{}","u":"z.safetensors","v":"s.safetensors"}}}})", shard));
    const Checkpoint checkpoint = Checkpoint::open(folder.path());
    EXPECT_EQ(checkpoint.files()[static_cast<size_t>(checkpoint.find("t")->file)], folder.file(shard));
    EXPECT_EQ(checkpoint.find("v"), nullptr) << "the index promises it, no shard has it";
  }
  folder.put("model.safetensors.index.json", R"({"weight_map":{"v":"s.safetensors","u":"z.safetensors"}})");
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { Checkpoint::open(folder.path()); }),
              AllOf(HasSubstr("z.safetensors"), HasSubstr("'t' is in another shard too")));
}

/// What a cache leaves behind whose blobs were removed.
TEST(Checkpoint, LinksToNothingAreToldByName) {
  for (const char* name : {"model.safetensors", "model.safetensors.index.json"}) {
    TestFolder folder;
    std::filesystem::create_symlink(folder.file("blob"), folder.file(name));
    EXPECT_THAT(error_of(ErrorKind::kIo, [&] { Checkpoint::open(folder.path()); }), AllOf(HasSubstr(name), HasSubstr("a link to a file that is not there")));
  }
}

TEST(Checkpoint, ShardsInAFolderAndShardsWithoutAnIndex) {
  const std::string first = safetensors(one("\"F32\"", "[1]", "[0,4]"), "AAAA");
  TestFolder below;
  std::filesystem::create_directory(below.path() / "weights");
  below.put("weights/a.safetensors", first);
  below.put("model.safetensors.index.json", R"({"weight_map":{"t":"weights/a.safetensors"}})");
  EXPECT_NE(Checkpoint::open(below.path()).find("t"), nullptr);
  // As Python reads JSON, and as it joins paths.
  below.put("model.safetensors.index.json", R"({"metadata":{"total_size":NaN},"weight_map":{"t":"./weights/a.safetensors","u":"weights/./a.safetensors"}})");
  EXPECT_NE(Checkpoint::open(below.path()).find("t"), nullptr);
  EXPECT_EQ(Checkpoint::open(below.path()).files().size(), 1u);

  TestFolder no_index;
  no_index.put("model-00001-of-00002.safetensors", first);
  no_index.put("model-00002-of-00002.safetensors", good_file());
  const Checkpoint checkpoint = Checkpoint::open(no_index.path());
  EXPECT_NE(checkpoint.find("t"), nullptr);
  EXPECT_NE(checkpoint.find("a"), nullptr);
}

TEST(Checkpoint, ReadErrorsAreReported) {
  TestFolder folder;
  folder.put("model.safetensors", good_file());
  auto plan = std::make_shared<FaultPlan>();
  plan->add({.operation = FileOperation::kRead, .error = EIO, .skip = 1});
  FaultyFileSystem files(plan);
  EXPECT_THAT(error_of(ErrorKind::kIo, [&] { Checkpoint::open(folder.path(), files); }),
              AllOf(HasSubstr("model.safetensors"), HasSubstr("Input/output error")));
}

TEST(Checkpoint, FingerprintTellsContentsApart) {
  TestFolder one_folder, same, other_data, other_header;
  one_folder.put("model.safetensors", good_file());
  same.put("model.safetensors", good_file());
  other_data.put("model.safetensors", good_file('e'));
  std::string renamed = kGood;
  renamed.replace(renamed.find("\"a\""), 3, "\"A\"");
  other_header.put("model.safetensors", safetensors(renamed, std::string(kGoodBytes, 'd')));
  const std::string fingerprint = Checkpoint::open(one_folder.path()).fingerprint();
  EXPECT_THAT(fingerprint, MatchesRegex("[0-9a-f]{32}"));
  EXPECT_EQ(Checkpoint::open(same.path()).fingerprint(), fingerprint);
  EXPECT_NE(Checkpoint::open(other_data.path()).fingerprint(), fingerprint);
  EXPECT_NE(Checkpoint::open(other_header.path()).fingerprint(), fingerprint);
}

// A fine-tune may differ in attention alone, which is a few percent of a mixture.
TEST(Checkpoint, FingerprintSeesEveryTensorBesideExperts) {
  const std::string header =
      R"({"m.experts.0.w":{"dtype":"BF16","shape":[512,1024],"data_offsets":[0,1048576]},"q":{"dtype":"BF16","shape":[8,64],"data_offsets":[1048576,1049600]}})";
  const auto fingerprint = [&](char in_q) {
    TestFolder folder;
    folder.put("model.safetensors", safetensors(header, std::string(1 << 20, 'e') + std::string(1024, in_q)));
    return Checkpoint::open(folder.path()).fingerprint();
  };
  EXPECT_EQ(fingerprint('q'), fingerprint('q'));
  EXPECT_NE(fingerprint('q'), fingerprint('r'));
}

int64_t files_in(const TestFolder& folder) { return std::distance(std::filesystem::directory_iterator(folder.path()), std::filesystem::directory_iterator()); }

TEST(SafetensorsWriter, RoundTrip) {
  TestFolder folder;
  std::mt19937_64 random(1);
  for (int round = 0; round < 8; ++round) {
    std::vector<TensorToWrite> tensors;
    std::vector<std::string> contents;
    for (int i = 0; i < round * 3; ++i) {
      const auto rows = static_cast<int64_t>(random() % 700), cols = static_cast<int64_t>(random() % 700);
      tensors.push_back({fmt::format("layer.{}.\"q\"", i), static_cast<DType>(random() % 3), {rows, cols}});
      contents.push_back(random_text(size_bytes(tensors.back().dtype, rows * cols), random()));
    }
    if (round == 7) {  // more than all buffers hold
      tensors.push_back({"large", DType::kF32, {6, 1024, 1024}});
      contents.push_back(random_text(24 * kMiB, 3));
    }
    SafetensorsWriter writer(folder.file("model.safetensors"), tensors);
    for (const std::string& content : contents) {
      const size_t cut = content.empty() ? 0 : random() % content.size();
      writer.append(content.data(), static_cast<int64_t>(cut));
      writer.append(content.data() + cut, static_cast<int64_t>(content.size() - cut));
    }
    writer.close();
    EXPECT_EQ(files_in(folder), 1);
    const Checkpoint checkpoint = Checkpoint::open(folder.path());
    ASSERT_EQ(checkpoint.tensors().size(), tensors.size());
    auto file = File::open(checkpoint.files()[0], FileMode::kReadDirect);
    for (size_t i = 0; i < tensors.size(); ++i) {
      const TensorLocation* tensor = checkpoint.find(tensors[i].name);
      ASSERT_NE(tensor, nullptr);
      EXPECT_EQ(tensor->dtype, tensors[i].dtype);
      EXPECT_EQ(tensor->shape, tensors[i].shape);
      std::string got(static_cast<size_t>(tensor->bytes), '?');
      file->read(tensor->offset, std::as_writable_bytes(std::span(got)));
      ASSERT_EQ(got, contents[i]);
    }
  }
}

TEST(SafetensorsWriter, AnUnfinishedFileNeverHasTheName) {
  TestFolder folder;
  const std::string path = folder.put("model.safetensors", "the old one");
  {
    SafetensorsWriter writer(path, {{"t", DType::kF32, {1024}}});
    const std::string half(2048, 'x');
    writer.append(half.data(), 2048);
    EXPECT_EQ(files_in(folder), 2);
  }
  EXPECT_EQ(read_whole(path), "the old one");
  EXPECT_EQ(files_in(folder), 1);
}

TEST(SafetensorsWriter, TwoOfOneFileDoNotMeet) {
  TestFolder folder;
  const std::string path = folder.file("model.safetensors"), content(4096, 'x');
  SafetensorsWriter first(path, {{"t", DType::kF32, {1024}}}), second(path, {{"t", DType::kF32, {1024}}});
  first.append(content.data(), 4096);
  second.append(content.data(), 4096);
  EXPECT_TRUE(first.close_if_new());
  const std::string whole = read_whole(path);
  EXPECT_FALSE(second.close_if_new());
  std::filesystem::remove(path);
  EXPECT_TRUE(second.close_if_new());
  EXPECT_EQ(read_whole(path), whole);
  EXPECT_EQ(files_in(folder), 1);
}

TEST(SafetensorsWriter, DiskFaultsAreReportedAndLeaveNothing) {
  TestFolder folder;
  const std::string path = folder.file("model.safetensors");
  const std::string content(40 * kMiB, 'x');
  auto write = [&](const std::shared_ptr<FaultPlan>& plan) {
    FaultyFileSystem files(plan);
    SafetensorsWriter writer(path, {{"t", DType::kF32, {10 * kMiB}}}, &files);
    writer.append(content.data(), static_cast<int64_t>(content.size()));
    writer.close();
  };
  auto plan = std::make_shared<FaultPlan>();
  for (int64_t skip : {0, 7, 40}) {
    plan->clear();
    plan->add({.operation = FileOperation::kWrite, .error = ENOSPC, .skip = skip});
    EXPECT_THAT(error_of(ErrorKind::kIo, [&] { write(plan); }), AllOf(HasSubstr("No space left"), HasSubstr(folder.path().string())));
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  }
  plan->clear();
  plan->add({.operation = FileOperation::kPreallocate, .error = ENOSPC});
  error_of(ErrorKind::kIo, [&] { write(plan); });
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  plan->clear();
  plan->add({.operation = FileOperation::kWrite, .error = 0, .keep_bytes = 100'000});
  write(plan);
  EXPECT_EQ(Checkpoint::open(folder.path()).find("t")->bytes, 40 * kMiB);
}

TEST(SafetensorsWriterDeathTest, WrongByteCountsAreOurBug) {
  GTEST_FLAG_SET(death_test_style, "fast");  // no thread is alive here; the other style would leave its folders behind
  TestFolder folder;
  const std::string path = folder.file("model.safetensors");
  const std::string data(8, 'x');
  EXPECT_DEATH(
      {
        SafetensorsWriter writer(path, {{"t", DType::kF32, {1}}});
        writer.append(data.data(), 8);
      },
      "4 bytes more");
  EXPECT_DEATH(
      {
        SafetensorsWriter writer(path, {{"t", DType::kF32, {1}}});
        writer.close();
      },
      "of 4100 bytes");
}

TEST(Checkpoint, OpensTheSharedModel) {
  const std::string folder = FLEXGEN_SOURCE_DIR "/../shared/models/tinystories-656k";
  if (!std::filesystem::exists(folder + "/model.safetensors")) GTEST_SKIP() << folder << " is not here";
  EXPECT_GT(Checkpoint::open(folder).tensors().size(), 10u);
}

}  // namespace
}  // namespace flexgen::checkpoint_test
