#include "batch/input_form.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "io/packed_bytes.h"

namespace flexgen::input_form_test {
namespace {

using testing::HasSubstr;

const std::string kRequest = R"({"custom_id": "a", "body": {"prompt": "x \"{[ y", "n": 1}})";
const std::string kPretty = "{\n  \"custom_id\": \"a\",\n  \"body\": {\n    \"prompt\": \"x \\\"{[ y\",\n    \"n\": 1\n  }\n}";
const std::string kCompact = R"({"custom_id":"a","body":{"prompt":"x \"{[ y","n":1}})";

TEST(InputForm, TextFormsAreTold) {
  const auto form = [](const std::string& text) { return text_form(text); };
  for (const std::string& mark : {std::string(), std::string("\xef\xbb\xbf"), std::string("\n \r\n")}) {
    EXPECT_EQ(form(mark + kRequest), TextForm::kLines);
    EXPECT_EQ(form(mark + kRequest + "\n" + kRequest + "\n"), TextForm::kLines);
    EXPECT_EQ(form(mark + kRequest + "\r\n" + kRequest + "\r\n"), TextForm::kLines);
    EXPECT_EQ(form(mark + "[" + kRequest + ", " + kRequest + "]"), TextForm::kArray);
    EXPECT_EQ(form(mark + "[\n" + kPretty + ",\n" + kPretty + "\n]\n"), TextForm::kArray);
    EXPECT_EQ(form(mark + kPretty), TextForm::kValues);
    EXPECT_EQ(form(mark + kPretty + "\n" + kPretty + "\n"), TextForm::kValues);
  }
  EXPECT_EQ(form("[]"), TextForm::kArray);
  EXPECT_EQ(form(kRequest + "\r" + kRequest + "\r"), TextForm::kCarriageReturns);
  EXPECT_EQ(form("broken\r" + kRequest), TextForm::kCarriageReturns);
  EXPECT_EQ(form(kRequest + "\r"), TextForm::kLines);  // a CRLF whose LF comes next
  EXPECT_EQ(form(kRequest + " " + kRequest), TextForm::kValues);
  // Broken lines among lines.
  for (const std::string broken : {"{\"custom_id\": \"torn", "{", "{\"a\": 1", "[1", "[[[", "[1, 2]", "{}{}", "nothing", "}", "\"", "[{\"a\": 1}]"})
    EXPECT_EQ(form(broken + "\n" + kRequest + "\n" + kRequest + "\n"), TextForm::kLines) << broken;
  EXPECT_EQ(text_form("[" + kRequest + "," + kRequest), TextForm::kArray);
}

/// The form of a text whose first request is longer than what is looked at by itself.
TEST(InputForm, ALongFirstRequestIsLookedAtWhole) {
  constexpr size_t kFront = 100, kMost = 1000;
  const auto form = [&](const std::string& text) {
    TextBytes bytes(text, text.size());
    FrontBytes front(bytes, kFront);
    const TextForm found = text_form(front, kMost);
    EXPECT_EQ(all_of(front, 64), text) << "nothing is lost";
    return found;
  };
  const std::string text = std::string(200, 'x'), request = "{\"prompt\": \"" + text + "\"}", pretty = "{\n  \"prompt\": \"" + text + "\"\n}";
  EXPECT_EQ(form(request + request + request), TextForm::kValues);
  EXPECT_EQ(form(pretty + "\n" + pretty), TextForm::kValues);
  EXPECT_EQ(form(request + "\r" + request + "\r"), TextForm::kCarriageReturns);
  EXPECT_EQ(form(request + "\n" + request + "\n"), TextForm::kLines);
  EXPECT_EQ(form("{\"prompt\": \"" + std::string(2000, 'x') + "\"}\n"), TextForm::kLines);
}

TEST(InputForm, ValuesBecomeLines) {
  const auto lines = [](const std::string& text, TextForm form) {
    std::string first;
    for (const size_t piece : {size_t{1}, size_t{7}, text.size()}) {
      TextBytes bytes(text, piece);
      const std::string given = all_of(*values_as_lines(bytes, form, "FILE"), piece);
      if (!first.empty()) {
        EXPECT_EQ(given, first);
      }
      first = given;
    }
    return first;
  };
  const std::string both = kCompact + "\n" + kCompact + "\n";
  EXPECT_EQ(lines("[" + kRequest + "," + kPretty + "]", TextForm::kArray), both);
  EXPECT_EQ(lines("\xef\xbb\xbf \n[\r\n" + kPretty + "\r\n,\r\n" + kRequest + "\r\n]\r\n", TextForm::kArray), both);
  EXPECT_EQ(lines(kPretty + "\n\n" + kPretty, TextForm::kValues), both);
  EXPECT_EQ(lines(kRequest + kPretty, TextForm::kValues), both);
  EXPECT_EQ(lines("[]", TextForm::kArray), "");
  EXPECT_EQ(lines("[1, \"a b\", [2, 3] , null,true]", TextForm::kArray), "1\n\"a b\"\n[2,3]\nnull\ntrue\n");
  // What is broken stays so: without the blanks these would be other numbers and words.
  EXPECT_EQ(lines("[[1, 2 \t 3, 4], {\"a\": - 1,\n\"b\": tr ue}]", TextForm::kArray), "[1,2 3,4]\n{\"a\":- 1,\"b\":tr ue}\n");
  EXPECT_EQ(lines("{\n\"a\": 1\n2\n}", TextForm::kValues), "{\"a\":1 2}\n");

  const auto error_of = [](const std::string& text, TextForm form) {
    try {
      TextBytes bytes(text);
      all_of(*values_as_lines(bytes, form, "FILE"));
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("none");
  };
  EXPECT_THAT(error_of("[" + kRequest, TextForm::kArray), HasSubstr("ends before its array does"));
  EXPECT_THAT(error_of("[{\"a\": 1", TextForm::kArray), HasSubstr("ends before its array does"));
  EXPECT_THAT(error_of("[{}\n{}]", TextForm::kArray), HasSubstr("line 2, byte 5: there is '{'"));
  EXPECT_THAT(error_of("[{},]", TextForm::kArray), HasSubstr("']' where a request must begin"));
  EXPECT_THAT(error_of("[{}] {}", TextForm::kArray), HasSubstr("behind the array's end"));
  EXPECT_THAT(error_of("[{\"a\n\": 1}]", TextForm::kArray), HasSubstr("within a text"));
  EXPECT_THAT(error_of("{\n}\n{\n", TextForm::kValues), HasSubstr("ends within a request"));
  EXPECT_THAT(error_of("{\n}\n,{\n}", TextForm::kValues), HasSubstr("','"));
}

TEST(InputForm, PackedFormsAreTold) {
  EXPECT_EQ(packed_form(gzipped(kRequest)), PackedForm::kGzip);
  EXPECT_EQ(packed_form(zstd_packed(kRequest)), PackedForm::kZstd);
  EXPECT_EQ(packed_form(wide(u"\xfeff" + units(kRequest), false)), PackedForm::kUtf16Little);
  EXPECT_EQ(packed_form(wide(u"\xfeff" + units(kRequest), true)), PackedForm::kUtf16Big);
  EXPECT_EQ(packed_form(wide(units(kRequest), false)), PackedForm::kUtf16Little);
  EXPECT_EQ(packed_form(wide(units(kRequest), true)), PackedForm::kUtf16Big);
  EXPECT_EQ(packed_form(wide(units("\n " + kRequest), false)), PackedForm::kUtf16Little);
  EXPECT_EQ(packed_form(wide(units("\n " + kRequest), true)), PackedForm::kUtf16Big);
  for (const std::string& text : {kRequest, std::string(), "\xef\xbb\xbf" + kRequest, std::string("{"), std::string("P*M")})
    EXPECT_EQ(packed_form(text), PackedForm::kPlain);
}

TEST(InputForm, WhatIsNoneIsNamed) {
  using namespace std::string_literals;
  const std::vector<std::pair<std::string, std::string>> forms{{"id,prompt\n1,hello\n", "CSV"},
                                                               {"prompt;answer\nwhat, ever;x\n", "CSV"},
                                                               {"\"id\"\t\"text\"\n", "CSV"},
                                                               {"PAR1\x15\x04", "Parquet"},
                                                               {"\xfd"
                                                                "7zXZ\0\0"s,
                                                                "xz"},
                                                               {"BZh91AY&SY", "bzip2"},
                                                               {"PK\x03\x04", "zip"},
                                                               {"%PDF-1.7", "PDF"},
                                                               {"<html>", "HTML"},
                                                               {"<?xml version", "XML"},
                                                               {"ARROW1\0\0"s, "Arrow"},
                                                               {"{'prompt': 'x'}\n", "json.dumps"},
                                                               {"\xff\xfe\0\0{\0\0\0"s, "UTF-32"},
                                                               {"GGUF\3\0\0\0"s, "GGUF"},
                                                               {gzipped("x"), "twice"},
                                                               {"{\0\0\0\"\0\0\0"s, "UTF-32"},
                                                               {"\0\0\0{\0\0\0\""s, "UTF-32"},
                                                               {"\"my prompt\",\"max tokens\"\n\"a, b\",3\n", "CSV"},
                                                               {"[{'prompt': 'x'}]", "json.dumps"},
                                                               {"\x1e{\"prompt\": 1}\n", "RS character"},
                                                               {"\x80\x04\x95\x01\0"s, "no text"},
                                                               {std::string(100, '\0'), "no text"}};
  for (const auto& [front, word] : forms) EXPECT_THAT(other_form(front, "in.jsonl"), HasSubstr(word));
  EXPECT_THAT(other_form("prompt\nhello\n", "in.csv"), HasSubstr("CSV"));
  EXPECT_THAT(other_form("- prompt: hello\n", "in.yaml"), HasSubstr("YAML"));
  EXPECT_THAT(other_form("hello\n", "in.txt"), HasSubstr("text and not JSON"));
  for (const std::string& text : {kRequest, "[" + kRequest + "]", kPretty, std::string(), "\xef\xbb\xbf" + kRequest, "no json, at all\n"s,
                                  "id,prompt\n" + kRequest, "<b>\n" + kRequest, "{'a': 1}\n" + kRequest, "hello\n"s})
    EXPECT_EQ(other_form(text, "in.jsonl"), "") << text;
  EXPECT_EQ(other_form(kRequest, "in.csv"), "");
}

}  // namespace
}  // namespace flexgen::input_form_test
