#include "batch/kept_record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

namespace flexgen::kept_record_test {
namespace {

using OrderedJson = nlohmann::ordered_json;
using testing::HasSubstr;

const std::string kBare =
    R"({"id":"batch_req_00112233445566778899aabb","custom_id":"é\"\n","response":{"status_code":200,"request_id":"req_0",)"
    R"("body":{"id":"cmpl-0","object":"text_completion","created":1700000000,"model":"m","choices":[{"index":0,"text":"a \"b\" ü\u2028","logprobs":)"
    R"({"tokens":["a"],"token_logprobs":[-0.12345678],"top_logprobs":[{"a":-0.12345678,"b":-9999.0}],"text_offset":[0]},"finish_reason":"stop"}],)"
    R"("usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}}},"error":null})";
const std::string kErrorRecord =
    R"({"id":"batch_req_ff112233445566778899aabb","custom_id":"line-7","response":null,"error":{"code":"c","message":"m","param":null,"line":7}})";

std::string sealed(const std::string& record) {
  std::string line = with_checksum(record + "\n");
  line.pop_back();
  return line;
}
KeptRecord kept(const std::string& line) {
  const auto read = read_record(line);
  if (const auto* problem = std::get_if<NoRecord>(&read)) {
    ADD_FAILURE() << problem->reason << ": " << line;
    return {};
  }
  return std::get<KeptRecord>(read);
}
NoRecord refused(const std::string& line) {
  const auto read = read_record(line);
  if (const auto* problem = std::get_if<NoRecord>(&read)) return *problem;
  ADD_FAILURE() << "taken: " << line;
  return {};
}

TEST(KeptRecord, TellsWhatItSays) {
  for (const std::string& line : {kBare, sealed(kBare)}) {
    const KeptRecord record = kept(line);
    EXPECT_EQ(record.id[1], 0x11);
    EXPECT_EQ(record.id[11], 0xbb);
    EXPECT_EQ(record.answer_tokens, 5);
    EXPECT_EQ(record.created, 1700000000);
    EXPECT_EQ(record.model, "m");
  }
  EXPECT_FALSE(kept(kBare).has_checksum);
  EXPECT_TRUE(kept(sealed(kBare)).has_checksum);
  EXPECT_EQ(kept(sealed(kErrorRecord)).answer_tokens, -1);
  EXPECT_EQ(kept(sealed(kErrorRecord)).created, std::nullopt);
}

TEST(KeptRecord, TheSameMeaningInOtherBytes) {
  const std::string line = sealed(kBare);
  const OrderedJson json = OrderedJson::parse(line);
  OrderedJson backwards;
  for (auto it = json.end(); it != json.begin();) {
    --it;
    backwards[it.key()] = it.value();
  }
  OrderedJson without_null = json;
  without_null.erase("error");
  std::string floats = line;
  floats.replace(floats.find("1700000000"), 10, "1.7e9");
  floats.replace(floats.find("-9999.0"), 7, "-9999");
  floats.replace(floats.find("-0.12345678"), 11, "-1.2345678E-1");
  const uint64_t content = kept(line).content;
  for (const std::string& other : {line + "\r", " \t" + line + "  ", json.dump(-1, ' ', true), nlohmann::json::parse(line).dump(), backwards.dump(),
                                   json.dump(1, ' ').replace(1, 1, " "), without_null.dump(), floats}) {
    EXPECT_EQ(kept(other).content, content) << other;
    EXPECT_TRUE(kept(other).has_checksum);
  }
  OrderedJson with_nulls = json;
  with_nulls["checksum"] = nullptr;
  with_nulls["note"] = nullptr;
  EXPECT_EQ(kept(with_nulls.dump()).content, content);
  EXPECT_FALSE(kept(with_nulls.dump()).has_checksum) << "null is as good as left out";
  EXPECT_EQ(kept(kBare).content, content);  // who drops the checksum drops no more
}

TEST(KeptRecord, AnyChangedBitIsSeen) {
  const std::string line = sealed(kBare);
  const uint64_t content = kept(line).content;
  int damaged = 0, no_change = 0;
  for (size_t byte = 0; byte < line.size(); ++byte)
    for (int bit = 0; bit < 8; ++bit) {
      std::string other = line;
      other[byte] = static_cast<char>(other[byte] ^ 1 << bit);
      const auto read = read_record(other);
      if (const auto* record = std::get_if<KeptRecord>(&read)) {
        // Such a change says the same: \u2028 for \u2028 with another case of its digits, e for E, another name for what is null.
        EXPECT_EQ(record->content, content) << other;
        EXPECT_EQ(record->id, kept(line).id);
        EXPECT_TRUE(record->has_checksum);
        ++no_change;
      } else {
        damaged += std::get<NoRecord>(read).kind == NoRecord::kDamaged;
      }
    }
  EXPECT_GT(damaged, 500);
  EXPECT_LT(no_change, 60);
}

TEST(KeptRecord, EveryBeginningIsTorn) {
  const std::string line = sealed(kBare);
  for (size_t bytes = 1; bytes < line.size(); ++bytes) EXPECT_EQ(refused(line.substr(0, bytes)).kind, NoRecord::kTorn) << line.substr(0, bytes);
}

TEST(KeptRecord, WhatIsNoRecordSaysWhy) {
  auto changed = [](const std::function<void(OrderedJson&)>& change) {
    OrderedJson json = OrderedJson::parse(kBare);
    change(json);
    return json.dump();
  };
  const std::vector<std::pair<std::string, std::string>> cases{
      {"my notes", "not JSON"},
      {"[1]", "no JSON object"},
      {"17", "no JSON object"},
      {"{}", "no id"},
      {"null", "no JSON object"},
      {kBare + "x", "not JSON"},
      {kBare + kBare, "not JSON"},
      {kBare.substr(0, 40) + std::string(9, '\0') + kBare.substr(40), "zero bytes (after a power cut?), the first at its byte 41"},
      {kBare + std::string(1, '\0'), fmt::format("zero bytes (after a power cut?), the first at its byte {}", kBare.size() + 1)},
      {kBare + std::string(5000, '\0') + kBare, "zero bytes"},
      {changed([](OrderedJson& j) { j["id"] = "batch_req_00112233445566778899aab"; }), "has the id 'batch_req_00112233445566778899aab'"},
      {changed([](OrderedJson& j) { j["id"] = "batch_req_00112233445566778899AABB"; }), "24 hex digits"},
      {changed([](OrderedJson& j) { j["id"] = 5; }), "no id"},
      {changed([](OrderedJson& j) { j["custom_id"] = nullptr; }), "no custom_id"},
      {changed([](OrderedJson& j) { j["response"] = nullptr; }), "neither"},
      {changed([](OrderedJson& j) { j["error"] = OrderedJson::object(); }), "neither a response nor an error, or both"},
      {changed([](OrderedJson& j) { j["label"] = 1; }), "field 'label'"},
      {changed([](OrderedJson& j) { j["response"]["body"] = OrderedJson::array(); }), "without usage.completion_tokens"},
      {changed([](OrderedJson& j) { j["response"]["body"]["usage"].erase("completion_tokens"); }), "without usage.completion_tokens"},
      {changed([](OrderedJson& j) { j["response"]["body"]["usage"]["completion_tokens"] = -1; }), "without usage.completion_tokens"},
      {changed([](OrderedJson& j) { j["response"]["request_id"] = "req_00112233445566778899aabc"; }),
       "of another line: its request_id is 'req_00112233445566778899aabc'"},
      {R"({"id":"batch_req_00112233445566778899aabb",)" + kBare.substr(1), "'id' twice"},
      {changed([](OrderedJson& j) { j["error"] = OrderedJson::parse(std::string(20, '[') + std::string(20, ']')); }), "nested deeper"},
      {std::string(100000, '['), "no JSON object"},
      {std::string(100000, '{'), "not JSON"},
  };
  for (const auto& [line, why] : cases) {
    EXPECT_THAT(refused(line).reason, HasSubstr(why)) << line.substr(0, 300);
    EXPECT_EQ(refused(line).kind, NoRecord::kForeign) << line.substr(0, 300);
  }
  std::string nested = R"({"error":)";
  for (int i = 0; i < 100000; ++i) nested += R"({"a":)";
  EXPECT_THAT(refused(nested).reason, HasSubstr("nested deeper"));
}

TEST(KeptRecord, PiecesAreSealedAsTheWhole) {
  for (const std::string& text : {kBare, kErrorRecord})
    for (size_t room : {1, 2, 3, 7, 100, 5000}) {
      WholeRecord whole(text + "\n");
      SealedRecord sealed(whole);
      for (int round = 0; round < 2; ++round) {
        std::string read, piece(room, '\0');
        while (const size_t count = sealed.read(piece.data(), piece.size())) read += piece.substr(0, count);
        EXPECT_EQ(read, with_checksum(text + "\n")) << room;
        sealed.rewind();
      }
    }
}

TEST(KeptRecord, LargeAnswersAreRead) {
  OrderedJson json = OrderedJson::parse(kBare);
  json["response"]["body"]["choices"][0]["text"] = std::string(3 << 20, 'x') + "\"";
  const std::string line = sealed(json.dump());
  EXPECT_EQ(kept(line).answer_tokens, 5);
  std::string other = line;
  other[2 << 20] = 'y';
  EXPECT_EQ(refused(other).kind, NoRecord::kDamaged);
}

}  // namespace
}  // namespace flexgen::kept_record_test
