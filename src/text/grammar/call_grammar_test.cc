// Grammars of calls, form by form: what they take is read as calls, and nothing else is taken.

#include "text/grammar/call_grammar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "text/grammar/marked_bytes.h"
#include "text/grammar/thoughts_grammar.h"

namespace flexgen::call_grammar_test {
namespace {

using testing::HasSubstr;

const CallableFunction kAdd{"add", R"({"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}}, "required": ["x", "y"]})", true};
const CallableFunction kStop{"stop", "", true};

class CallGrammars : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (const auto why = why_no_grammars()) GTEST_SKIP() << *why;
    compiler = GrammarCompiler::create(tokenizer, tokenizer.vocab_size(), {256}, 1 << 20);
  }
  bool takes(const WantedCalls& wanted, std::string_view text) { return follows(call_grammar(wanted, &tokenizer), text); }
  bool follows(const GrammarSpec& spec, std::string_view text) {
    auto matcher = compiler->start(spec);
    std::vector<int32_t> tokens = tokenizer.encode(text, false);
    tokens.push_back(256);
    for (int32_t token : tokens) {
      const bool allowed = may_come(matcher->mask(), token);
      EXPECT_EQ(matcher->accept(token), allowed);
      if (!allowed) return false;
    }
    EXPECT_TRUE(matcher->ended());
    return true;
  }
  /// Taken, and read as so many calls, the first of `add`.
  void expect_calls(const WantedCalls& wanted, std::string_view text, size_t count) {
    EXPECT_TRUE(takes(wanted, text)) << text;
    const ChatAnswer answer = read_chat_answer(text, {.calls = wanted.form});
    ASSERT_EQ(answer.calls.size(), count) << text;
    EXPECT_EQ(answer.calls[0].name, "add");
    EXPECT_EQ(answer.calls[0].arguments, R"({"x": 1, "y": -2})");
  }

  MarkedBytes tokenizer{GetParam()};
  std::unique_ptr<GrammarCompiler> compiler;
};

INSTANTIATE_TEST_SUITE_P(Marks, CallGrammars, testing::Bool(), [](const auto& is_special) { return is_special.param ? "SpecialTokens" : "Text"; });

constexpr const char* kHermes = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"x\": 1, \"y\": -2}}\n</tool_call>";

TEST_P(CallGrammars, OfHermesAndQwen) {
  const WantedCalls two{{kAdd, kStop}, CallForm::kHermes}, one{{kAdd, kStop}, CallForm::kHermes, true};
  const std::string stop = "\n<tool_call>\n{\"name\": \"stop\", \"arguments\": {}}\n</tool_call>";
  expect_calls(two, kHermes, 1);
  expect_calls(two, kHermes + stop + stop, 3);
  EXPECT_TRUE(takes(one, kHermes));
  EXPECT_FALSE(takes(one, kHermes + stop));
  for (const char* text :
       {"", "Well.", "<tool_call>\n{\"name\": \"other\", \"arguments\": {}}\n</tool_call>",
        "<tool_call>\n{\"name\": \"stop\", \"arguments\": {\"x\": 1}}\n</tool_call>",
        "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"x\": 1}}\n</tool_call>", "<tool_call>\n{\"name\": \"stop\", \"arguments\": {}}\n"})
    EXPECT_FALSE(takes(two, text)) << text;
}

TEST_P(CallGrammars, OfLlama) {
  const WantedCalls wanted{{kAdd, kStop}, CallForm::kLlama};
  expect_calls(wanted, R"({"name": "add", "parameters": {"x": 1, "y": -2}})", 1);
  EXPECT_FALSE(takes(wanted, R"({"name": "stop", "parameters": {}}; {"name": "stop", "parameters": {}})")) << "its templates know one";
  EXPECT_FALSE(takes(wanted, R"({"name": "stop", "arguments": {}})"));
}

TEST_P(CallGrammars, OfMistral) {
  expect_calls({{kAdd, kStop}, CallForm::kMistral}, R"([TOOL_CALLS] [{"name": "add", "arguments": {"x": 1, "y": -2}}, {"name": "stop", "arguments": {}}])", 2);
  EXPECT_FALSE(takes({{kStop}, CallForm::kMistral, true}, R"([TOOL_CALLS] [{"name": "stop", "arguments": {}}, {"name": "stop", "arguments": {}}])"));
  EXPECT_FALSE(takes({{kStop}, CallForm::kMistral}, "[TOOL_CALLS] []"));
  expect_calls({{kAdd, kStop}, CallForm::kMistralNamed}, R"([TOOL_CALLS]add[ARGS]{"x": 1, "y": -2}[TOOL_CALLS]stop[ARGS]{})", 2);
  expect_calls({{kAdd, kStop}, CallForm::kMistralNumbered}, R"([TOOL_CALLS]add[CALL_ID]abcDEF789[ARGS]{"x": 1, "y": -2})", 1);
  EXPECT_FALSE(takes({{kStop}, CallForm::kMistralNumbered}, "[TOOL_CALLS]stop[CALL_ID]short[ARGS]{}"));
}

TEST_P(CallGrammars, OfCommand) {
  const std::string add = R"({"tool_call_id": "0", "tool_name": "add", "parameters": {"x": 1, "y": -2}})",
                    stop = R"({"tool_call_id": "1", "tool_name": "stop", "parameters": {}})";
  const auto calls = [](const std::string& within) { return "<|START_ACTION|>[\n    " + within + "\n]<|END_ACTION|>"; };
  WantedCalls wanted{{kAdd, kStop}, CallForm::kCommand};
  expect_calls(wanted, calls(add), 1);
  expect_calls(wanted, calls(add + ",\n    " + stop + ",\n    " + stop), 3);
  EXPECT_FALSE(takes({{kAdd, kStop}, CallForm::kCommand, true}, calls(add + ",\n    " + stop)));
  EXPECT_FALSE(takes(wanted, "<|START_ACTION|>[\n]<|END_ACTION|>"));
  EXPECT_FALSE(takes(wanted, "Well." + calls(add)));
  wanted.forced = false;
  expect_calls(wanted, "Well." + calls(add + ",\n    " + stop), 2);
  EXPECT_FALSE(takes(wanted, "Well." + calls(R"({"tool_call_id": "0", "tool_name": "add", "parameters": {}})")));
  wanted.one_call = true;
  expect_calls(wanted, "Well." + calls(add), 1);
}

TEST_P(CallGrammars, OfListsBehindAMark) {
  const std::string add = R"({"name": "add", "arguments": {"x": 1, "y": -2}})", stop = R"({"name": "stop", "arguments": {}})";
  for (const CallForm form : {CallForm::kGranite, CallForm::kPhi, CallForm::kHunyuan}) {
    const JsonMarks& marks = *json_marks(form);
    const auto calls = [&](const std::string& within) { return std::string(marks.begin) + within + std::string(marks.end); };
    WantedCalls wanted{{kAdd, kStop}, form};
    expect_calls(wanted, calls("[" + add + ", " + stop + "]"), 2);
    for (const std::string& text :
         {calls("[]"), calls(add), calls("[" + add + "] Well."), "Well." + calls("[" + add + "]"), calls(R"([{"name": "add", "arguments": {}}])")})
      EXPECT_FALSE(takes(wanted, text)) << text;
    wanted.forced = false;
    expect_calls(wanted, "Well." + calls("[" + add + "]"), 1);
    EXPECT_FALSE(takes(wanted, calls(R"([{"name": "add", "arguments": {}}])")));
    wanted.one_call = true;
    EXPECT_FALSE(takes(wanted, calls("[" + add + ", " + stop + "]")));
  }
}

/// A call in XML, with what stands before it and behind it.
struct XmlCase {
  CallForm form;
  const char *begin, *add, *stop, *between, *end;
};
const XmlCase kXmlCases[] = {
    {CallForm::kQwenXml, "<tool_call>\n", "<function=add>\n<parameter=x>\n1\n</parameter>\n<parameter=y>\n-2\n</parameter>\n</function>\n",
     "<function=stop>\n</function>\n", "</tool_call>\n<tool_call>\n", "</tool_call>"},
    {CallForm::kSeedXml, "<seed:tool_call>\n", "<function=add>\n<parameter=x>1</parameter>\n<parameter=y>-2</parameter>\n</function>\n",
     "<function=stop>\n</function>\n", "</seed:tool_call>\n<seed:tool_call>\n", "</seed:tool_call>"},
    {CallForm::kMiniMax, "<minimax:tool_call>\n",
     "<invoke name=\"add\">\n<parameter name=\"x\">1</parameter>\n<parameter name=\"y\">-2</parameter>\n</invoke>\n", "<invoke name=\"stop\">\n</invoke>\n", "",
     "</minimax:tool_call>"},
    {CallForm::kGlm, "<tool_call>", "add\n<arg_key>x</arg_key>\n<arg_value>1</arg_value>\n<arg_key>y</arg_key>\n<arg_value>-2</arg_value>\n", "stop\n",
     "</tool_call>\n<tool_call>", "</tool_call>"},
    {CallForm::kGlm, "<tool_call>", "add<arg_key>x</arg_key><arg_value>1</arg_value><arg_key>y</arg_key><arg_value>-2</arg_value>", "stop",
     "</tool_call><tool_call>", "</tool_call>"}};

TEST_P(CallGrammars, OfXml) {
  for (const XmlCase& one : kXmlCases) {
    const std::string begin = one.begin, add = one.add, stop = one.stop, between = one.between, end = one.end,
                      half = add.substr(0, add.find('2') - 1) + add.substr(add.find('2') + 1);
    WantedCalls wanted{{kAdd, kStop}, one.form};
    expect_calls(wanted, begin + add + end, 1);
    expect_calls(wanted, begin + add + between + stop + between + stop + end, 3);
    for (const std::string& text : {begin + end, begin + half + end, "Well." + begin + stop + end, begin + stop, begin + stop + end + "."})
      EXPECT_FALSE(takes(wanted, text)) << text;
    wanted.one_call = true;
    EXPECT_FALSE(takes(wanted, begin + stop + between + stop + end));
    wanted.forced = wanted.one_call = false;
    expect_calls(wanted, "Well, < 3.\n" + begin + add + between + stop + end, 2);
    EXPECT_FALSE(takes(wanted, begin + half + end));
    EXPECT_TRUE(takes(wanted, "Well."));
    wanted.functions = {{"add", "", false}};
    EXPECT_TRUE(takes(wanted, begin + add + end)) << "any arguments";
  }
}

/// What a value's text may be, by its schema.
TEST_P(CallGrammars, ValuesOfXml) {
  const auto value = [&](const std::string& schema, const std::string& text) {
    const std::string whole = R"({"type": "object", "properties": {"v": )" + schema +
                              R"(}, "required": ["v"], "$defs": {"N": {"type": "integer"}, "L": {"type": "array", "items": {"$ref": "#/$defs/N"}}}})";
    return takes({{{"f", whole, true}}, CallForm::kQwenXml}, "<tool_call>\n<function=f>\n<parameter=v>\n" + text + "\n</parameter>\n</function>\n</tool_call>");
  };
  const std::string text = R"({"type": "string"})";
  for (const char* any : {"", "5", "a\nb\n", "\"quoted\" \\ {", "a < b </param", "\xc3\xa9"}) EXPECT_TRUE(value(text, any)) << any;
  EXPECT_FALSE(value(text, "a</parameter>b"));
  const std::string kinds = R"({"enum": ["<=", "b c"]})";
  EXPECT_TRUE(value(kinds, "<="));
  EXPECT_FALSE(value(kinds, "<"));
  EXPECT_TRUE(value(R"({"const": "x"})", "x"));
  EXPECT_TRUE(value(R"({"enum": [1, true, null]})", "true"));
  EXPECT_FALSE(value(R"({"enum": [1, true, null]})", "2"));
  for (const char* one : {"a b", "1", "null", R"({"k":[1]})"}) EXPECT_TRUE(value(R"({"enum": ["a b", 1, null, {"k": [1]}]})", one)) << one;
  EXPECT_TRUE(value(R"({"type": "string", "format": "date"})", "2026-11-30"));
  EXPECT_FALSE(value(R"({"type": "string", "format": "date"})", "soon"));
  EXPECT_TRUE(value(R"({"type": "string", "pattern": "^.{2}$"})", "ab"));
  EXPECT_FALSE(value(R"({"type": "string", "pattern": "^.{2}$"})", "a<"));
  EXPECT_TRUE(value(R"({"type": "string", "minLength": 2, "maxLength": 3})", "abc"));
  EXPECT_FALSE(value(R"({"type": "string", "minLength": 2, "maxLength": 3})", "abcd"));
  EXPECT_FALSE(value(R"({"type": "string", "minLength": 2})", "a"));
  EXPECT_TRUE(value(R"({"type": "integer", "minimum": 3})", "4"));
  EXPECT_FALSE(value(R"({"type": "integer", "minimum": 3})", "2"));
  EXPECT_TRUE(value(R"({"$ref": "#/$defs/L"})", "[1, 2]"));
  EXPECT_FALSE(value(R"({"$ref": "#/$defs/L"})", "[\"1\"]"));
  EXPECT_TRUE(value(R"({"type": "object", "properties": {"a": {"type": "string"}}})", "{\"a\": \"x\"}"));
  EXPECT_TRUE(value(R"({"type": ["string", "null"]})", "null"));
  EXPECT_TRUE(value(R"({"type": ["string", "null"], "minLength": 9})", "null"));
  EXPECT_FALSE(value(R"({"type": ["string", "null"], "minLength": 9})", "nil"));
  for (const char* either : {R"({"type": ["string", "object"]})", R"({"anyOf": [{"type": "string"}, {"type": "object", "additionalProperties": true}]})"})
    for (const char* one : {"a [", R"({"k": [1]})"}) EXPECT_TRUE(value(either, one)) << either;
  EXPECT_TRUE(value(R"({"type": ["string", "array"]})", "[1]"));
  EXPECT_TRUE(value("{}", "anything [1"));
}

// The reader took its types from the schema as it was given, so that what the grammar let through was read as another value.
TEST_P(CallGrammars, WhatXmlIsHeldToIsReadAsItsSchemaHasIt) {
  const auto read = [&](const std::string& schema, const std::string& text) {
    AnswerForm form{.calls = CallForm::kQwenXml};
    ParameterTypes types;
    const std::string call = "<tool_call>\n<function=f>\n<parameter=v>\n" + text + "\n</parameter>\n</function>\n</tool_call>";
    EXPECT_TRUE(follows(call_grammar({{{"f", schema, true}}, CallForm::kQwenXml}, &tokenizer, &types), call)) << schema;
    form.types = std::make_shared<const ParameterTypes>(std::move(types));
    const ChatAnswer answer = read_chat_answer(call, form);
    return answer.calls.empty() ? "no call" : answer.calls[0].arguments;
  };
  const auto with_value = [](const std::string& schema, const std::string& more = "") {
    return R"({"type": "object", "properties": {"v": )" + schema + "}" + more + "}";
  };
  const std::string text = R"({"type": "string"})", defs = R"(, "$defs": {"a/b c": {"type": "string"}, "N": {"type": ["string", "null"]}})";
  for (const std::string& schema :
       {R"({"type": "object", "allOf": [{"properties": {"v": )" + text + R"(}, "required": ["v"]}, {"properties": {"b": {"type": "string"}}}]})",
        R"({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/B"}, "B": )" + with_value(text) + "}}", with_value(R"({"$ref": "#/$defs/a~1b%20c"})", defs),
        with_value(R"({"$ref": "urn:x#/$defs/a~1b c"})", defs + R"(, "$id": "urn:x")"), with_value(R"({"$ref": "#/$defs/N", "type": "string"})", defs)})
    for (const char* one : {"12345", "null"}) EXPECT_EQ(read(schema, one), fmt::format(R"({{"v": "{}"}})", one)) << schema;
  const std::string none = R"({"v": "none"})";
  EXPECT_EQ(read(with_value(R"({"type": ["string", "null"], "enum": ["none", "auto"]})"), "none"), none);
  EXPECT_EQ(read(with_value(R"({"type": "string", "nullable": true, "enum": ["none", "auto", null]})"), "none"), none);
  EXPECT_EQ(read(with_value(R"({"type": ["string", "integer"], "enum": ["1", "2"]})"), "1"), R"({"v": "1"})");
  const std::string optional = with_value(R"({"anyOf": [{"enum": ["none", "low"], "type": "string"}, {"type": "null"}]})");
  EXPECT_EQ(read(optional, "none"), none);
  EXPECT_EQ(read(optional, "null"), R"({"v": null})");
}

TEST_P(CallGrammars, ParametersOfXmlMayBeLeftOut) {
  const CallableFunction f{"f", R"({"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": "string"}}, "required": ["b"]})", true};
  const auto taken = [&](const std::string& arguments) {
    return takes({{f}, CallForm::kSeedXml}, "<seed:tool_call>\n<function=f>\n" + arguments + "</function>\n</seed:tool_call>");
  };
  const std::string a = "<parameter=a>true</parameter>\n", b = "<parameter=b>x</parameter>\n";
  EXPECT_TRUE(taken(a + b));
  EXPECT_TRUE(taken(b));
  EXPECT_FALSE(taken(a));
  EXPECT_FALSE(taken(b + a)) << "in the schema's order";
}

TEST_P(CallGrammars, BesideTextOnlyWhatFollowsAMarkIsHeld) {
  WantedCalls wanted{{kAdd, kStop}, CallForm::kHermes, false, false};
  wanted.functions[1].strict = false;
  EXPECT_TRUE(takes(wanted, "Well, {\"x\"."));
  EXPECT_TRUE(takes(wanted, ""));
  expect_calls(wanted, kHermes, 1);
  expect_calls(wanted, std::string("I look.\n") + kHermes + "\n" + kHermes, 2);
  EXPECT_FALSE(takes(wanted, "<tool_call>\n{\"name\": \"add\", \"arguments\": {}}\n</tool_call>"));
  EXPECT_TRUE(takes(wanted, "<tool_call>\n{\"name\": \"stop\", \"arguments\": {\"any\": [1]}}\n</tool_call>")) << "it is not strict";
  EXPECT_TRUE(takes(wanted, std::string(kHermes) + " and text"));
  wanted.one_call = true;
  EXPECT_TRUE(takes(wanted, kHermes));
  EXPECT_FALSE(takes(wanted, std::string(kHermes) + "\n" + kHermes));
  wanted.one_call = false;
  wanted.form = CallForm::kMistral;
  expect_calls(wanted, R"(Well.[TOOL_CALLS] [{"name": "add", "arguments": {"x": 1, "y": -2}}, {"name": "stop", "arguments": {}}])", 2);
  EXPECT_FALSE(takes(wanted, R"(Well.[TOOL_CALLS] [{"name": "add", "arguments": {}}])"));
  wanted.form = CallForm::kMistralNamed;
  expect_calls(wanted, R"(Well.[TOOL_CALLS]add[ARGS]{"x": 1, "y": -2})", 1);
  EXPECT_FALSE(takes(wanted, R"(Well.[TOOL_CALLS]add[ARGS]{"x": 1})"));
}

/// Where a grammar does not ask for them by name.
TEST_P(CallGrammars, SpecialTokensAreNoText) {
  using Kind = GrammarSpec::Kind;
  for (const GrammarSpec& spec :
       {GrammarSpec{Kind::kRegex, "[\\s\\S]*", {}}, GrammarSpec{Kind::kRegex, "[^a]+", {}}, GrammarSpec{Kind::kJsonSchema, R"({"type": "string"})", {}},
        GrammarSpec{Kind::kEbnf, "root ::= [^\"]*", {}}, call_grammar({{kAdd}, CallForm::kLlama}, &tokenizer)}) {
    auto matcher = compiler->start(spec);
    if (spec.kind == Kind::kJsonSchema) {
      EXPECT_TRUE(matcher->accept('"'));
    }
    const TokenMask mask = matcher->mask();
    for (int32_t token = 257; token < tokenizer.vocab_size(); ++token)
      if (GetParam()) {
        EXPECT_FALSE(may_come(mask, token)) << spec.text;
      }
  }
}

TEST_P(CallGrammars, OfLlamaBesideText) {
  const WantedCalls wanted{{kAdd, kStop}, CallForm::kLlama, false, false};
  expect_calls(wanted, R"({"name": "add", "parameters": {"x": 1, "y": -2}})", 1);
  for (const char* text : {"", "Well.", "\n<b>{\"name\": 1}</b>", "1"}) {
    EXPECT_TRUE(takes(wanted, text)) << text;
    EXPECT_TRUE(read_chat_answer(text, {.calls = CallForm::kLlama}).calls.empty());
  }
  for (const char* text :
       {R"({"name": "add", "parameters": {}})", R"( {"name": "add", "parameters": {}})", R"(<|python_tag|>{"name": "add", "parameters": {}})", "{"})
    EXPECT_FALSE(takes(wanted, text)) << text;
}

TEST_P(CallGrammars, OfHarmonyBesideText) {
  const WantedCalls wanted{{kAdd, kStop}, CallForm::kHarmony, false, false};
  const std::string thought = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant",
                    says = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant",
                    call = "<|channel|>commentary to=functions.add <|constrain|>json<|message|>", answer = "<|channel|>final<|message|>Well.";
  for (const std::string& before : {std::string(), thought, says, thought + says}) {
    EXPECT_TRUE(takes(wanted, before + answer)) << before;
    EXPECT_TRUE(takes(wanted, before + call + R"({"x": 1, "y": -2})")) << before;
    EXPECT_FALSE(takes(wanted, before + call + "{}")) << before;
  }
  EXPECT_FALSE(takes(wanted, answer + "<|end|><|start|>assistant" + call + "{}")) << "a second message would be held to nothing";
}

AnswerForm in_thought(ThoughtMarks marks) { return {.thinks = true, .marks = marks, .begins_in_thought = true}; }

TEST_P(CallGrammars, AnswersStandBehindThoughts) {
  AnswerForm form = in_thought(kUsualThoughtMarks);
  const GrammarSpec answers[] = {{GrammarSpec::Kind::kJsonSchema, R"({"type": "integer"})", {}},
                                 {GrammarSpec::Kind::kChoice, "", {"12", "x"}},
                                 {GrammarSpec::Kind::kRegex, "[0-9]{2}", {}},
                                 {GrammarSpec::Kind::kEbnf, "root ::= [0-9]+", {}}};
  for (const GrammarSpec& answer : answers) {
    const GrammarSpec whole = behind_thoughts(answer, HeldAnswer::kContent, &tokenizer, &form);
    for (const char* text : {"</think>12", "Hm: \"7\" </thin <</think>\n\n12", "\xc3\xa9\n</think>\n12"}) {
      EXPECT_TRUE(follows(whole, text)) << text << whole.text;
      EXPECT_EQ(read_chat_answer(text, form).content, "12");
      EXPECT_EQ(settled_chat_answer(text, form).content, "12");
    }
    for (const char* text : {"12", "Hm.", "Hm.</think>", "Hm.</think>Well: 12", "a</think>b</think>12", "a</think>\n\n\n12"})
      EXPECT_FALSE(follows(whole, text)) << text;
  }
  EXPECT_EQ(read_chat_answer("Hm.", form).content, std::nullopt);
  EXPECT_EQ(settled_chat_answer("Hm.</think>\n", form).content, std::nullopt);
  AnswerForm plain;
  EXPECT_EQ(behind_thoughts(answers[0], HeldAnswer::kContent, &tokenizer, &plain), answers[0]);
}

TEST_P(CallGrammars, AnswersStandWithinTheirMarks) {
  AnswerForm form = in_thought(kThoughtMarks.back());
  const GrammarSpec whole = behind_thoughts({GrammarSpec::Kind::kChoice, "", {"12"}}, HeldAnswer::kContent, &tokenizer, &form);
  const std::string text = "Hm.<|END_THINKING|>\n<|START_RESPONSE|>\n12<|END_RESPONSE|>";
  EXPECT_TRUE(follows(whole, text));
  EXPECT_EQ(read_chat_answer(text, form).content, "12");
  EXPECT_FALSE(follows(whole, "Hm.<|END_THINKING|>12"));
}

TEST_P(CallGrammars, CallsStandBehindThoughts) {
  AnswerForm form = in_thought(kUsualThoughtMarks);
  form.calls = CallForm::kHermes;
  for (const bool forced : {true, false}) {
    const GrammarSpec calls =
        behind_thoughts(call_grammar({{kAdd, kStop}, CallForm::kHermes, false, forced}, &tokenizer), HeldAnswer::kCalls, &tokenizer, &form);
    const std::string text = std::string("A <tool_call>?</think>\n\n") + kHermes;
    EXPECT_TRUE(follows(calls, text)) << "in thoughts a mark begins no call";
    EXPECT_EQ(read_chat_answer(text, form).calls.size(), 1u);
    EXPECT_EQ(follows(calls, "Hm.</think>Well."), !forced);
    EXPECT_FALSE(follows(calls, "Hm.</think><tool_call>\n{\"name\": \"add\", \"arguments\": {}}\n</tool_call>"));
  }
}

TEST_P(CallGrammars, AnswersOfHarmonyAreItsFinalMessage) {
  const GrammarSpec answer{GrammarSpec::Kind::kJsonSchema, R"({"type": "integer"})", {}};
  const auto whole = [&](const char* begun) {
    AnswerForm form{.channels = true, .begun = begun};
    return behind_thoughts(answer, HeldAnswer::kContent, &tokenizer, &form);
  };
  const std::string end = "<|channel|>final<|message|>12", thought = "<|message|>Hm.<|end|><|start|>assistant";
  EXPECT_TRUE(follows(whole("<|start|>assistant"), end));
  EXPECT_TRUE(follows(whole("<|start|>assistant"), "<|channel|>analysis" + thought + end));
  EXPECT_FALSE(follows(whole("<|start|>assistant"), "<|channel|>final<|message|>Well."));
  EXPECT_FALSE(follows(whole("<|start|>assistant"), "<|channel|>commentary" + thought + end));
  EXPECT_TRUE(follows(whole("<|start|>assistant<|channel|>final<|message|>"), "12"));
  EXPECT_TRUE(follows(whole("<|start|>assistant<|channel|>analysis<|message|>"), "Hm.<|end|><|start|>assistant" + end));
  EXPECT_THROW(whole("<|start|>assistant<|channel|>commentary<|message|>"), Error);
  EXPECT_THROW(whole(""), Error);
}

TEST_P(CallGrammars, CallsMayComeInsteadOfAnAnswer) {
  GrammarSpec either{GrammarSpec::Kind::kJsonSchema, R"({"type": "integer"})", {}};
  either.instead = call_grammar({{kAdd}, CallForm::kHermes}, &tokenizer).text;
  EXPECT_TRUE(follows(either, "12"));
  EXPECT_TRUE(follows(either, kHermes));
  EXPECT_FALSE(follows(either, std::string("12") + kHermes));
  AnswerForm form = in_thought(kThoughtMarks.back());
  const GrammarSpec thinks = behind_thoughts(either, HeldAnswer::kContent, &tokenizer, &form);
  EXPECT_TRUE(follows(thinks, "Hm.<|END_THINKING|><|START_RESPONSE|>12<|END_RESPONSE|>"));
  EXPECT_TRUE(follows(thinks, std::string("Hm.<|END_THINKING|>") + kHermes));
  EXPECT_FALSE(follows(thinks, kHermes));
}

TEST(CallGrammar, WhatCannotBeHonouredIsRefusedByName) {
  const auto why = [](CallableFunction function, CallForm form = CallForm::kHermes, bool forced = true) -> std::string {
    try {
      call_grammar({{std::move(function)}, form, false, forced}, nullptr);
    } catch (const Error& error) {
      return error.what();
    }
    return "taken";
  };
  EXPECT_THAT(why(kAdd, CallForm::kNone), HasSubstr("is not known"));
  EXPECT_THAT(why(kAdd, CallForm::kGemma), HasSubstr("are read, but not held"));
  const auto why_xml = [&](const char* schema) { return why({"f", schema, true}, CallForm::kGlm); };
  EXPECT_THAT(why_xml(R"({"type": "object", "properties": {"a": {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 3}]}}})"),
              HasSubstr("'f', whose parameters cannot be followed: the parameter 'a' may be a text, or another value"));
  EXPECT_THAT(why_xml(R"({"type": "object", "properties": {"a": {"enum": ["1", 1]}}})"), HasSubstr("has the text '1' in 'enum', beside another value"));
  EXPECT_THAT(why_xml(R"({"type": "object", "properties": {"a": {"enum": ["</arg_value>"]}}})"),
              HasSubstr("the parameter 'a' has a value in 'enum' with '</arg_value>'"));
  EXPECT_THAT(why_xml(R"({"type": "object", "properties": {"a": {"type": "string", "pattern": "^<b>$"}}})"), HasSubstr("'<' is not supported"));
  EXPECT_THAT(why_xml(R"({"type": "object", "properties": {"a<b": {}}})"), HasSubstr("the parameter 'a<b' has a name"));
  EXPECT_THAT(why_xml(R"({"type": "object", "properties": {" a": {}}})"), HasSubstr("the parameter ' a' has a name"));
  EXPECT_EQ(why_xml(R"({"type": "object", "properties": {"a": {"type": "array", "items": {"$ref": "#/properties/a"}}}})"), "taken");
  EXPECT_THAT(why_xml(R"({"type": "object", "properties": {"a": {"type": "array", "items": {"$ref": "#"}}}})"), HasSubstr("has the $ref '#'"));
  EXPECT_THAT(why_xml(R"({"type": "object", "minProperties": 1})"), HasSubstr("'minProperties' at the top"));
  EXPECT_THAT(why({"a b", "", true}), HasSubstr("whose name"));
  EXPECT_THAT(why({"f", R"({"type": "string"})", true}), HasSubstr("'f', whose parameters cannot be followed: it must be of the type"));
  EXPECT_THAT(why({"f", R"({"type": "object", "properties": {"a": {"not": {}}}})", true}), HasSubstr("properties/a"));
  EXPECT_EQ(why({"f", R"({"type": "object", "properties": {}})", true}), "taken");
  for (const char* none :
       {R"("required": ["a"], "additionalProperties": false)", R"("not": {"maxProperties": 0})", R"("if": {"minProperties": 1}, "then": {})",
        R"("unevaluatedProperties": {})", R"("propertys": {"a": {}})", R"("properties": {}, "required": ["a"], "unevaluatedProperties": false)"})
    EXPECT_THAT(why({"f", fmt::format(R"({{"type": "object", {}}})", none), true}), HasSubstr("'f', whose parameters cannot be followed")) << none;
  EXPECT_THAT(why({"f", R"({"anyOf": [{"type": "object"}, {"type": "null"}]})", true}), HasSubstr("it must be of the type"));
}

// They stood for none, whatever else they said.
TEST_P(CallGrammars, FollowParametersWithoutPropertiesOfTheirOwn) {
  const auto arguments = [&](const char* parameters, const std::string& given) {
    return takes({{{"f", parameters, true}}, CallForm::kLlama}, R"({"name": "f", "parameters": )" + given + "}");
  };
  const std::string city = R"({"city": "Oslo"})", as_value = R"({"city":"Oslo"})";
  for (const char* parameters :
       {R"({"type": "object", "oneOf": [{"properties": {"city": {"enum": ["Oslo"]}}, "required": ["city"]}]})",
        R"({"type": "object", "anyOf": [{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}, {"const": {"zip": 1}}]})",
        R"({"type": "object", "allOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": {"type": "object", "properties": {"city": {}}, "required": ["city"]}}})",
        R"({"$ref": "#/$defs/A", "$defs": {"A": {"type": "object", "properties": {"city": {}, "next": {"$ref": "#/$defs/A"}}, "required": ["city"]}}})",
        R"({"type": "object", "minProperties": 1})", R"({"type": "object", "enum": [{"city": "Oslo"}]})", R"({"type": "object", "const": {"city": "Oslo"}})"}) {
    EXPECT_TRUE(arguments(parameters, city) || arguments(parameters, as_value)) << parameters;
    EXPECT_FALSE(arguments(parameters, "{}")) << parameters;
  }
  for (const char* none : {"", "{}", R"({"type": "object"})", R"({"title": "t", "type": "object", "properties": {}, "required": []})"}) {
    EXPECT_TRUE(arguments(none, "{}")) << none;
    EXPECT_FALSE(arguments(none, city)) << none;
  }
}

TEST(CallGrammar, PatternsOfAllFunctionsAreBoundedTogether) {
  const auto functions = [](int count) {
    WantedCalls wanted;
    for (int i = 0; i < count; ++i)
      wanted.functions.push_back({fmt::format("f{}", i), R"({"type": "object", "properties": {"a": {"type": "string", "pattern": "^[a-z]{2000}$"}}})", true});
    wanted.form = CallForm::kHermes;
    return wanted;
  };
  EXPECT_NO_THROW(call_grammar(functions(4), nullptr));
  try {
    call_grammar(functions(5), nullptr);
    ADD_FAILURE() << "taken";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::AllOf(HasSubstr("'f4'"), HasSubstr("properties/a"), HasSubstr("8192")));
  }
}

}  // namespace
}  // namespace flexgen::call_grammar_test
