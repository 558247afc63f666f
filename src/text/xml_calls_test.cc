#include "text/xml_calls.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>

#include "text/chat_answer.h"
#include "text/grammar/parameter_types.h"
#include "text/jinja/json_values.h"

namespace flexgen::xml_calls_test {
namespace {

constexpr const char* kTools =
    R"([{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "$defs": {"Size": {"type": "integer"}}, "properties": {
    "text": {"type": "string"}, "size": {"$ref": "#/$defs/Size"}, "ratio": {"type": "number"}, "on": {"type": "boolean"}, "list": {"type": "array"}, "map": {"type": "object"},
    "maybe": {"type": ["string", "null"]}, "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]}, "kind": {"enum": ["1", "2"]}, "level": {"anyOf": [{"enum": ["none", "1"]}, {"type": ["null", "integer"]}]}, "any": {}}}}}])";

AnswerForm form_of(CallForm form) {
  return {.calls = form, .types = std::make_shared<const ParameterTypes>(parameter_types(jinja::parse_json_value(kTools, 1000)))};
}

/// The calls, and the content.
std::string shown(std::string_view text, const AnswerForm& form) {
  const ChatAnswer answer = read_chat_answer(text, form);
  std::string out = answer.content ? "[" + *answer.content + "]" : "";
  for (const ToolCall& call : answer.calls) out += call.name + call.arguments;
  return out;
}

std::string qwen(const std::string& key, const std::string& value) {
  return "<tool_call>\n<function=f>\n<parameter=" + key + ">\n" + value + "\n</parameter>\n</function>\n</tool_call>";
}

TEST(XmlCalls, ValuesAreOfTheTypesOfTheSchema) {
  const AnswerForm form = form_of(CallForm::kQwenXml);
  const auto value = [&](const std::string& key, const std::string& text) {
    const std::string all = shown(qwen(key, text), form), before = "f{\"" + key + "\": ";
    EXPECT_TRUE(all.starts_with(before) && all.ends_with('}')) << all;
    return all.substr(before.size(), all.size() - before.size() - 1);
  };
  EXPECT_EQ(value("text", "5"), R"("5")");
  EXPECT_EQ(value("text", "null"), R"("null")");
  EXPECT_EQ(value("text", "  a\n\"b\"\n"), R"("  a\n\"b\"\n")") << "one line end at each end is none of it";
  EXPECT_EQ(value("size", " 12 "), "12");
  EXPECT_EQ(value("size", "123456789012345678901234567890"), "123456789012345678901234567890");
  EXPECT_EQ(value("size", "twelve"), R"("twelve")");
  EXPECT_EQ(value("ratio", "1.50"), "1.50");
  EXPECT_EQ(value("ratio", "NaN"), R"("NaN")");
  EXPECT_EQ(value("on", "True"), "true");
  EXPECT_EQ(value("on", "false"), "false");
  EXPECT_EQ(value("on", "None"), "null");
  EXPECT_EQ(value("on", "maybe"), R"("maybe")");
  EXPECT_EQ(value("list", R"([1, "a"])"), R"([1, "a"])");
  EXPECT_EQ(value("list", "['it\\'s', \"b\", True, None]"), R"(["it's", "b", true, null])") << "as Python writes it";
  EXPECT_EQ(value("list", "[1, 2"), R"("[1, 2")");
  EXPECT_EQ(value("map", R"({"a": {"b": "</parameter>\n</function>"}})"), R"({"a": {"b": "</parameter>\n</function>"}})");
  EXPECT_EQ(value("maybe", "null"), "null");
  EXPECT_EQ(value("maybe", "5"), R"("5")");
  EXPECT_EQ(value("either", "5"), "5");
  EXPECT_EQ(value("either", "five"), R"("five")");
  EXPECT_EQ(value("either", R"("5")"), R"("\"5\"")");
  EXPECT_EQ(value("kind", "1"), R"("1")");
  EXPECT_EQ(value("level", "none"), R"("none")") << "it is listed";
  EXPECT_EQ(value("level", "1"), R"("1")");
  EXPECT_EQ(value("level", "2"), "2");
  EXPECT_EQ(value("level", "None"), "null");
  for (const char* key : {"any", "unknown"}) {
    EXPECT_EQ(value(key, "5"), "5");
    EXPECT_EQ(value(key, R"({"x": 1})"), R"({"x": 1})");
    EXPECT_EQ(value(key, "a b"), R"("a b")");
  }
  EXPECT_EQ(shown(qwen("text", "5"), {.calls = CallForm::kQwenXml}), R"(f{"text": 5})") << "without tools nothing is known";
}

TEST(XmlCalls, OfQwen) {
  const AnswerForm form = form_of(CallForm::kQwenXml);
  const std::string call = "<tool_call>\n<function=f>\n<parameter=text>\nOslo\n</parameter>\n<parameter=size>\n3\n</parameter>\n</function>\n</tool_call>";
  const std::string read = R"(f{"text": "Oslo", "size": 3})";
  EXPECT_EQ(shown(call, form), read);
  EXPECT_EQ(shown("I look.\n\n" + call + "\n" + call, form), "[I look.\n\n]" + read + read);
  EXPECT_EQ(shown("<tool_call><function=f></function>", form), "f{}") << "its end may be a token that is left out";
  EXPECT_EQ(shown("<tool_call>\n<function=g>\n</function>\n<function=h>\n</function>\n</tool_call>", form), "g{}h{}");
  EXPECT_EQ(shown("Well.\n<function=f>\n<parameter=size>\n3\n</parameter>\n</function>\n</tool_call>", form), "[Well.\n]f{\"size\": 3}");
  EXPECT_EQ(shown(qwen("text", "<a>\n</parameter>\n</a>"), form), R"(f{"text": "<a>\n</parameter>\n</a>"})") << "within a text a mark is one by what follows";
  AnswerForm held = form, one = form;
  held.held_calls = one.one_call = true;
  EXPECT_EQ(shown("<function=f></function>", held), "[<function=f></function>]") << "a grammar holds what begins with the mark";
  EXPECT_EQ(shown(call + call, one), read);
  EXPECT_EQ(shown(call, {}), "[" + call + "]");
  for (const std::string broken : {"<tool_call>\n<function=f>\n<parameter=text>\nOslo", "<tool_call>\n<function=f>\n<parameter=text>\nOslo\n</parameter>\n",
                                   "<tool_call>\n<function=>\n</function>\n</tool_call>", "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>",
                                   "<tool_call>", "<tool_call>\n<function=f>\nwords\n</function>\n</tool_call>", "The mark is <function= here"})
    EXPECT_EQ(shown(broken, form), "[" + broken + "]");
}

TEST(XmlCalls, OfSeed) {
  const AnswerForm form = form_of(CallForm::kSeedXml);
  EXPECT_EQ(shown("<seed:tool_call>\n<function=f>\n<parameter=text>a\nb</parameter>\n<parameter=list>['x']</parameter>\n</function>\n</seed:tool_call>", form),
            R"(f{"text": "a\nb", "list": ["x"]})");
  EXPECT_EQ(shown(qwen("text", "a"), {.calls = CallForm::kSeedXml, .held_calls = true}), "[" + qwen("text", "a") + "]");
}

TEST(XmlCalls, OfMiniMax) {
  const AnswerForm form = form_of(CallForm::kMiniMax);
  const std::string calls =
      "\n<minimax:tool_call>\n<invoke name=\"f\">\n<parameter name=\"text\">a</parameter>\n<parameter name=\"size\">3</parameter>\n</invoke>\n<invoke name='g'>\n</invoke>\n"
      "</minimax:tool_call>";
  EXPECT_EQ(shown(calls, form), R"(f{"text": "a", "size": 3}g{})");
  EXPECT_EQ(shown("<minimax:tool_call>\n<invoke name=\"f\">\n</minimax:tool_call>", form), "[<minimax:tool_call>\n<invoke name=\"f\">\n</minimax:tool_call>]");
}

TEST(XmlCalls, OfGlm) {
  const AnswerForm form = form_of(CallForm::kGlm);
  const std::string first =
                        "<tool_call>f\n<arg_key>text</arg_key>\n<arg_value>\n 5</arg_value>\n<arg_key>size</arg_key>\n<arg_value> 5 </arg_value>\n</tool_call>",
                    later = "<tool_call>f<arg_key>on</arg_key><arg_value>true</arg_value></tool_call>";
  EXPECT_EQ(shown("\n" + first + "\n<tool_call>g\n</tool_call>", form), R"(f{"text": "\n 5", "size": 5}g{})");
  EXPECT_EQ(shown("Well." + later + later, form), R"([Well.]f{"on": true}f{"on": true})") << "as GLM-4.7 writes it";
  for (const std::string broken : {"<tool_call>f\n<arg_key>text</arg_key>\n<arg_value>5</arg_value>\n", "<tool_call>\n</tool_call>", "<tool_call>f",
                                   "<tool_call>f\n<arg_key>text</arg_key>\n</tool_call>"})
    EXPECT_EQ(shown(broken, form), "[" + broken + "]") << "cut off";
}

TEST(XmlCalls, LongAnswersAreReadInLinearTime) {
  const auto seconds = [](const std::string& text, CallForm form, size_t count) {
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_EQ(read_chat_answer(text, form_of(form)).calls.size(), count);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  std::string lists = "<tool_call>\n<function=f>\n", calls;
  for (int i = 0; i < 50'000; ++i) lists += "<parameter=list>\n[\n</parameter>\n";
  for (int i = 0; i < 50'000; ++i) calls += "<tool_call>g\n</tool_call>\n";
  EXPECT_LT(seconds(lists + "</function>\n</tool_call>", CallForm::kQwenXml, 1), 20);
  EXPECT_LT(seconds(calls, CallForm::kGlm, 50'000), 20);
}

TEST(XmlCalls, WorkOnSchemasIsBounded) {
  std::string options, values, properties;
  for (int i = 0; i < 250; ++i) options += R"({"$ref": "#/$defs/E"},)";
  for (int i = 0; i < 20'000; ++i) values += fmt::format(R"("{}",)", i);
  for (int i = 0; i < 3000; ++i) properties += fmt::format(R"("p{}": {{"$ref": "#/$defs/A"}},)", i);
  const std::string parameters =
      R"({"properties": {)" + properties + R"("z": {}}, "$defs": {"A": {"anyOf": [)" + options + R"({"type": "null"}]}, "E": {"enum": [)" + values + "1]}}}";
  const auto begin = std::chrono::steady_clock::now();
  const ParameterTypes types = parameter_types(jinja::parse_json_value(R"([{"function": {"name": "f", "parameters": )" + parameters + "}}]", 100'000));
  EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), 20);
  EXPECT_EQ(types.functions.at("f").at("p2999").types, kNullType | kTextType | kIntegerType | kNumberType);
}

TEST(XmlCalls, SchemasThatLeadBackToThemselvesEnd) {
  const std::string parameters =
      R"({"properties": {"a": {"$ref": "#/properties/a"}, "b": {"anyOf": [{"$ref": "#/properties/b"}, {"$ref": "#/properties/b"}, {"type": "string"}]}}})";
  const ParameterTypes types = parameter_types(jinja::parse_json_value(R"([{"function": {"name": "f", "parameters": )" + parameters + "}}]", 1000));
  EXPECT_EQ(types.functions.at("f").at("a").types, 0);
}

}  // namespace
}  // namespace flexgen::xml_calls_test
