#include "batch/chat_line.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "batch/batch_line.h"
#include "batch/batch_output.h"
#include "batch/fake_runner.h"
#include "batch/kept_record.h"
#include "text/xml_calls.h"

namespace flexgen::chat_line_test {
namespace {

using Json = nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

const ByteTokenizer kTokenizer(true);
constexpr const char* kTemplate =
    "<s>{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}{{ mood }}{{ reasoning_effort }}";

ModelLimits limits_with(const std::string& source) {
  ModelLimits limits{257, 400, &kTokenizer};
  limits.chat = std::make_shared<const ChatTemplate>(std::map<std::string, std::string>{{"default", source}}, "a file", ChatTemplate::SpecialTokens());
  return limits;
}

std::string line_with(const std::string& body) { return R"({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {)" + body + "}}"; }
const std::string kHello = R"("messages": [{"role": "user", "content": "Hi"}])";

BatchRequest good(const std::string& body, const ModelLimits& limits = limits_with(kTemplate)) {
  auto parsed = parse_batch_line(line_with(body), limits);
  if (auto* error = std::get_if<LineError>(&parsed)) ADD_FAILURE() << body << ": " << error->message;
  return parsed.index() == 0 ? std::get<BatchRequest>(parsed) : BatchRequest{};
}

LineError bad(const std::string& body, const ModelLimits& limits = limits_with(kTemplate)) {
  auto parsed = parse_batch_line(line_with(body), limits);
  if (parsed.index() == 0) ADD_FAILURE() << body << " is taken";
  return parsed.index() == 1 ? std::get<LineError>(parsed) : LineError{};
}

/// The prompt as text; <s> is the token that begins one.
std::string prompt_of(const BatchRequest& request) { return kTokenizer.decode(request.prompts.at(0).tokens, false); }

TEST(ChatLine, ConversationsAreWrittenOutAndNoTokenIsPutBefore) {
  const BatchRequest request = good(kHello + R"(, "max_completion_tokens": 8)");
  EXPECT_EQ(prompt_of(request), "<s>[user]Hi[assistant]");
  EXPECT_EQ(request.prompts[0].tokens[0], 256);
  EXPECT_NE(request.prompts[0].tokens[1], 256);
  EXPECT_EQ(request.params.max_tokens, 8);
  EXPECT_FALSE(request.open_ended);
  EXPECT_EQ(request.doubled_bos, 0);
  EXPECT_EQ(good(kHello + R"(, "add_special_tokens": true)").doubled_bos, 1);
  // Without a number an answer may take what the model has left.
  const BatchRequest open = good(kHello);
  EXPECT_TRUE(open.open_ended);
  EXPECT_EQ(open.params.max_tokens, 400 - std::ssize(open.prompts[0].tokens));
}

TEST(ChatLine, FieldsOfTheConversation) {
  EXPECT_EQ(prompt_of(good(kHello + R"(, "chat_template_kwargs": {"mood": "glad"})")), "<s>[user]Hi[assistant]glad");
  EXPECT_EQ(prompt_of(good(kHello + R"(, "add_generation_prompt": false)")), "<s>[user]Hi");
  EXPECT_EQ(prompt_of(good(R"("messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "I am"}], "continue_final_message": true)")),
            "<s>[user]Hi[assistant]I am");
  EXPECT_EQ(prompt_of(good(R"("messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}])")),
            "<s>[user]a\nb[assistant]");
  // Tools keep the order of their members.
  const std::string tools =
      R"([{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"z": 1, "a": {"deep": [[[[[[[[1]]]]]]]]}}}}])";
  EXPECT_EQ(prompt_of(good(kHello + R"(, "tools": )" + tools)), "<s>" + tools + "[user]Hi[assistant]");
  EXPECT_EQ(prompt_of(good(kHello + R"(, "tools": [], "tool_choice": "none")")), "<s>[user]Hi[assistant]");
  const BatchRequest sampled = good(
      kHello +
      R"(, "n": 3, "stop": ["x"], "logprobs": true, "top_logprobs": 2, "temperature": 0, "seed": 5, "reasoning_effort": "low", "user": "u", "stream": false)");
  EXPECT_EQ(sampled.num_sequences(), 3);
  EXPECT_EQ(sampled.params.top_logprobs, 2);
  EXPECT_THAT(sampled.params.stop, ElementsAre("x"));
  EXPECT_EQ(good(kHello + R"(, "logprobs": false)").params.top_logprobs, -1);
}

TEST(ChatLine, AnAnswerIsATextOfItsOwnUnlessItGoesOnWithAMessage) {
  EXPECT_TRUE(good(kHello).params.answers_afresh);
  EXPECT_TRUE(good(kHello + R"(, "add_generation_prompt": false)").params.answers_afresh);
  EXPECT_FALSE(good(R"("messages": [{"role": "assistant", "content": "I am"}], "continue_final_message": true)").params.answers_afresh);
  const BatchRequest prefixed = good(R"("messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "I am", "prefix": true}])");
  EXPECT_EQ(prompt_of(prefixed), "<s>[user]Hi[assistant]I am");
  EXPECT_FALSE(prefixed.params.answers_afresh);
  EXPECT_EQ(prompt_of(good(R"("messages": [{"role": "assistant", "content": "I am", "prefix": false}])")), "<s>[assistant]I am[assistant]");
  // As OpenAI's own answers have them.
  EXPECT_EQ(
      prompt_of(good(
          R"("messages": [{"role": "assistant", "content": "I am", "refusal": null, "annotations": [], "audio": null, "function_call": null, "tool_calls": []}])")),
      "<s>[assistant]I am[assistant]");
}

TEST(ChatLine, BareBodiesAreConversationsToo) {
  auto parsed =
      parse_batch_line("{" + kHello + R"(, "tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": {"b": {"c": {"d": {"e": {}}}}}}}}]})",
                       limits_with(kTemplate));
  ASSERT_EQ(parsed.index(), 0u) << std::get<LineError>(parsed).message;
  EXPECT_THAT(prompt_of(std::get<BatchRequest>(parsed)), HasSubstr("[user]Hi"));
  parsed = parse_batch_line(R"({"messages": [{"role": "user"}]})", limits_with(kTemplate));
  EXPECT_EQ(std::get<LineError>(parsed).param, "messages");
}

TEST(ChatLine, AConversationThatIsCutKeepsItsFirstToken) {
  EXPECT_EQ(prompt_of(good(kHello + R"(, "truncate_prompt_tokens": 5)")), "<s>ant]");
  EXPECT_EQ(prompt_of(good(kHello + R"(, "truncate_prompt_tokens": 1)")), "]");
  EXPECT_EQ(prompt_of(good(kHello + R"(, "truncate_prompt_tokens": 5)", limits_with("{{ messages[0].content }} or not"))), "r not");
}

TEST(ChatLine, WhatCannotBeHonouredIsRefusedByName) {
  struct Case {
    std::string body, code, what;
  };
  const std::string tool = R"("tools": [{"type": "function", "function": {"name": "f"}}])";
  for (const auto& [body, code, what] : std::initializer_list<Case>{
           {"", "invalid_value", "body.messages is missing"},
           {R"("messages": [])", "invalid_value", "is empty"},
           {R"("messages": "Hi")", "invalid_value", "must be a list of objects, not 'Hi'"},
           {R"("messages": ["Hi"])", "invalid_value", "its item 0 is none"},
           {R"("messages": [{"content": "Hi"}])", "invalid_value", "messages[0]: role is missing"},
           {R"("messages": [{"role": "user", "content": "a"}, {"role": "user"}])", "invalid_value", "messages[1]: content is missing"},
           {R"("messages": [{"role": "user", "content": 5}])", "invalid_value", "must be a text or a list of parts"},
           {R"("messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])", "unsupported_parameter",
            "type 'image_url'; only \"text\" is supported"},
           {R"("messages": [{"role": "user", "content": [{"type": "text"}]}])", "invalid_value", "has no text"},
           {R"("messages": [{"role": "assistant", "function_call": {"name": "f"}}])", "unsupported_parameter", "'function_call'"},
           {R"("messages": [{"role": "assistant", "tool_calls": [{"id": "x"}]}])", "invalid_value", "tool_calls"},
           {kHello + R"(, "tools": [{"type": "web_search"}])", "unsupported_parameter", "only tools of the type"},
           {kHello + R"(, "tools": [{"type": "function"}])", "invalid_value", "body.tools"},
           {kHello + ", " + tool + R"(, "tool_choice": "required")", "invalid_value",
            "body.tool_choice cannot be honoured: how this model's chat template writes calls is not known"},
           {kHello + ", " + tool + R"(, "tool_choice": "some")", "unsupported_parameter", "not 'some'"},
           {kHello + ", " + tool + R"(, "tool_choice": {"type": "allowed_tools"})", "unsupported_parameter", "\"required\" or {"},
           {kHello + ", " + tool + R"(, "tool_choice": {"type": "function", "function": {"name": "g"}})", "invalid_value",
            "names the function 'g', which is not in tools"},
           {kHello + R"(, "tools": [{"type": "function", "function": {"name": "f", "strict": true}}])", "invalid_value",
            "body.tools has a function with strict, which cannot be honoured"},
           {kHello + R"(, "tools": [{"type": "function", "function": {"name": "f", "strict": 1}}])", "invalid_value", "strict"},
           {kHello + R"(, "tool_choice": "auto")", "invalid_value", "needs tools"},
           {kHello + R"(, "response_format": {"type": "json_schema", "json_schema": {}})", "invalid_value", "response_format"},
           {kHello + R"(, "chat_template_kwargs": {"messages": []})", "invalid_value", "field of the body"},
           {kHello + R"(, "chat_template_kwargs": 5)", "invalid_value", "must be an object, not 5"},
           {kHello + R"(, "chat_template": "x")", "unsupported_parameter", "--chat-template"},
           {kHello + R"(, "continue_final_message": true, "add_generation_prompt": true)", "invalid_value", "give one"},
           {R"("messages": [{"role": "assistant", "content": "I", "prefix": true}, {"role": "user", "content": "a"}])", "invalid_value",
            "messages[0]: prefix is true; only the last"},
           {R"("messages": [{"role": "user", "content": "I", "prefix": true}])", "invalid_value", "only of the role assistant"},
           {R"("messages": [{"role": "assistant", "content": "I", "prefix": 1}])", "invalid_value", "messages[0]: prefix must be true or false"},
           {R"("messages": [{"role": "assistant", "content": "I", "prefix": true}], "continue_final_message": false)", "invalid_value",
            "body.continue_final_message is false"},
           {R"("messages": [{"role": "assistant", "content": "I", "prefix": true}], "add_generation_prompt": true)", "invalid_value",
            "by the last message's prefix"},
           {kHello + R"(, "top_logprobs": 3)", "invalid_value", "logprobs is not true"},
           {kHello + R"(, "logprobs": 3)", "invalid_value", "true or false"},
           {kHello + R"(, "logprob_token_ids": [5])", "invalid_value", "give logprobs true too"},
           {kHello + R"(, "prompt": "x")", "unsupported_parameter", "'prompt', which is a field of /v1/completions"},
           {kHello + R"(, "echo": true)", "unsupported_parameter", "'echo'"},
           {kHello + R"(, "functions": [{}])", "unsupported_parameter", "give tools"},
           {kHello + R"(, "message": [])", "unsupported_parameter", "not known"},
           {kHello + R"(, "max_completion_tokens": 4000)", "context_length_exceeded", "positions"},
           {R"("messages": [{"role": "user", "content": ")" + std::string(500, 'x') + "\"}]", "context_length_exceeded", "positions"}}) {
    const LineError error = bad(body);
    EXPECT_EQ(error.code, code) << body;
    EXPECT_THAT(error.message, HasSubstr(what)) << body;
  }
  const LineError raised = bad(kHello, limits_with("{{ raise_exception('no users') }}"));
  EXPECT_THAT(raised.message, HasSubstr("the chat template refuses the conversation: no users"));
  EXPECT_EQ(raised.param, "body.messages");
  EXPECT_THAT(bad(kHello, limits_with("\n{{ messages.x.y }}")).message, HasSubstr("line 2: 'list object' has no attribute 'x'"));
  ModelLimits none{257, 400, &kTokenizer};
  EXPECT_THAT(bad(kHello, none).message, HasSubstr("the model has none; give one with --chat-template FILE"));
  none.no_chat = "it is broken";
  EXPECT_THAT(bad(kHello, none).message, HasSubstr("it is broken"));
}

TEST(ChatLine, WhatTheTemplatePassesOverIsRefusedByName) {
  // As many templates on the Hub are: roles that it does not know are left out without a word.
  const ModelLimits plain = limits_with(
      "{% for m in messages %}{% if m.role == 'system' and loop.first %}{{ m.content }}\n{% elif m.role == 'user' or m.role == 'assistant' %}[{{ m.role "
      "}}]{{ m.content }}{% endif %}{% endfor %}");
  const std::string user = R"({"role": "user", "content": "Hi"})", tool = R"(, "tools": [{"type": "function", "function": {"name": "f"}}])";
  struct Case {
    std::string body, param, what;
  };
  for (const auto& [body, param, what] : std::initializer_list<Case>{
           {kHello + tool, "body.tools", "'tools', which the model's chat template never looks at"},
           {kHello + tool + R"(, "tool_choice": "auto")", "body.tools", "'tools'"},
           {kHello + R"(, "documents": [{"text": "x"}])", "body.documents", "'documents'"},
           {kHello + R"(, "reasoning_effort": "low")", "body.reasoning_effort", "'reasoning_effort'"},
           {kHello + R"(, "chat_template_kwargs": {"enable_thinking": false})", "body.chat_template_kwargs", "holds 'enable_thinking'"},
           {R"("messages": [{"role": "developer", "content": "Be brief."}, )" + user + "]", "body.messages", "messages[0] has the role 'developer', which"},
           {R"("messages": [)" + user + R"(, {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}])", "body.messages",
            "messages[1] has the role 'system', which"},
           {R"("messages": [)" + user + R"(, {"role": "tool", "content": "5"}])", "body.messages", "messages[1] has the role 'tool'"},
           {R"("messages": [)" + user + R"(, {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}])",
            "body.messages", "messages[1] has tool_calls, which"},
           {R"("messages": [)" + user + R"(, {"role": "assistant", "content": "", "refusal": "I cannot."}])", "body.messages", "'refusal'"}}) {
    const LineError error = bad(body, plain);
    EXPECT_EQ(error.param, param) << body;
    EXPECT_THAT(error.message, HasSubstr(what)) << body;
  }
  for (const std::string& body : {kHello + tool + R"(, "tool_choice": "none")", kHello + R"(, "documents": [], "tools": [])",
                                  R"("messages": [{"role": "system", "content": "a"}, )" + user + "]",
                                  R"("messages": [)" + user + R"(, {"role": "assistant", "content": "b", "refusal": null, "tool_calls": []}])",
                                  R"("messages": [)" + user + R"(, {"role": "developer", "content": ""}])"})
    good(body, plain);
  // Tools that nothing is to come of choose the template all the same.
  ModelLimits two = plain;
  const std::string said = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}";
  two.chat = std::make_shared<const ChatTemplate>(
      std::map<std::string, std::string>{{"default", said + "{{ mood }}"}, {"tool_use", said + "{% if tools %}{{ place }}{% endif %}"}}, "a file",
      ChatTemplate::SpecialTokens());
  const std::string none = kHello + tool + R"(, "tool_choice": "none", "chat_template_kwargs": )";
  EXPECT_EQ(prompt_of(good(none + R"({"place": "here"})", two)), "[user]Hihere");
  EXPECT_THAT(bad(none + R"({"mood": "glad"})", two).message, HasSubstr("holds 'mood'"));
  EXPECT_THAT(bad(R"("messages": [{"role": "system", "content": "a"}, )" + user + "]", limits_with("{{ messages[-1].content }}")).message,
              HasSubstr("messages[0] has the role 'system'"));
  // A template that writes any role does so with these.
  for (const char* role : {"developer", "tool", "critic"})
    EXPECT_EQ(prompt_of(good(fmt::format(R"("messages": [{{"role": "{}", "content": "Hi"}}])", role))), fmt::format("<s>[{}]Hi[assistant]", role));
}

TEST(ChatLine, LargeOnesAreRefusedWithinBounds) {
  std::string many = "\"messages\": [", deep = "\"messages\": [{\"role\": \"user\", \"content\": ";
  for (int i = 0; i < 100'000; ++i) many += (i > 0 ? "," : "") + std::string(R"({"role":"user","content":"x"})");
  EXPECT_THAT(bad(many + "]").message, HasSubstr("is too large"));
  EXPECT_THAT(bad(deep + std::string(5000, '[') + std::string(5000, ']') + "}]").message,
              HasSubstr("is too large: it may hold 200000 values, 100 levels deep"));
  EXPECT_EQ(bad(deep + "1e999}]").message, "body.messages is '1e999', which is out of range");
}

TEST(ChatLine, WithoutATokenizerTextsAreCountedForAPlan) {
  ModelLimits planning{257, 400, nullptr, 4};
  auto parsed = parse_batch_line(line_with(R"("messages": [{"role": "user", "content": "12345678"}], "max_tokens": 3)"), planning);
  ASSERT_EQ(parsed.index(), 0u);
  EXPECT_EQ(std::get<BatchRequest>(parsed).prompts[0].tokens.size(), 3u);
  EXPECT_TRUE(std::get<BatchRequest>(parsed).estimated);
  const auto tokens_of = [&](const std::string& text) {
    return std::get<BatchRequest>(parse_batch_line(line_with(fmt::format(R"("messages": [{{"role": "user", "content": "{}"}}])", text)), planning))
        .prompts[0]
        .tokens;
  };
  const std::vector<int32_t> one = tokens_of("abcdefgh1234"), other = tokens_of("abcdefgh5678");  // begin alike
  EXPECT_TRUE(std::equal(one.begin(), one.begin() + 2, other.begin()));
  EXPECT_NE(one[2], other[2]);
  EXPECT_NE(one[0], one[1]);
}

TEST(ChatLine, ForcedCallsAreGrammars) {
  if (const auto why = why_no_grammars()) GTEST_SKIP() << *why;
  const ModelLimits hermes = limits_with("{{ messages[0].content }}{{ '' if tools }}{# <tool_call> #}"),
                    thinks = limits_with("{{ messages[0].content }}{{ '' if tools }}<think>{# <tool_call> </think> #}");
  const std::string tools =
      kHello +
      R"(, "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {"const": 5}}, "required": ["x"]}}}, )"
      R"({"type": "function", "function": {"name": "g"}}])";
  const std::string strict = kHello + R"(, "tools": [{"type": "function", "function": {"name": "f", "strict": true}}])";
  const auto grammar = [&](const std::string& body) { return good(tools + body, hermes).params.grammar; };
  EXPECT_EQ(grammar(""), nullptr);
  EXPECT_EQ(grammar(R"(, "tool_choice": "none")"), nullptr);
  const auto required = grammar(R"(, "tool_choice": "required")"), named = grammar(R"(, "tool_choice": {"type": "function", "function": {"name": "g"}})");
  ASSERT_TRUE(required && named);
  EXPECT_EQ(required->kind, GrammarSpec::Kind::kStructure);
  EXPECT_EQ(required, grammar(R"(, "tool_choice": "required")")) << "one in memory";
  EXPECT_THAT(required->text, testing::AllOf(HasSubstr(R"("const":5)"), HasSubstr("star")));
  EXPECT_THAT(named->text, testing::Not(HasSubstr(R"("const":5)")));
  EXPECT_THAT(grammar(R"(, "tool_choice": "required", "parallel_tool_calls": false)")->text, testing::Not(HasSubstr("star")));
  EXPECT_FALSE(good(tools + R"(, "tool_choice": "required")", hermes).params.skip_special_tokens) << "marks may be special tokens";
  EXPECT_THAT(good(strict, hermes).params.grammar->text, HasSubstr("triggered_tags"));
  EXPECT_THAT(good(strict, thinks).params.grammar->text, HasSubstr("triggered_tags"));
  EXPECT_THAT(good(strict, thinks).params.grammar->before, HasSubstr("</think>"));
  EXPECT_THAT(good(tools + R"(, "tool_choice": "required")", thinks).params.grammar->before, HasSubstr("</think>"));
  const std::string schema = R"(, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer"}}})";
  const BatchRequest structured = good(kHello + schema, thinks);
  EXPECT_EQ(structured.params.grammar->kind, GrammarSpec::Kind::kJsonSchema);
  EXPECT_THAT(structured.params.grammar->before, HasSubstr("</think>"));
  EXPECT_TRUE(structured.chat->structured);
  EXPECT_EQ(structured.params.grammar, good(kHello + schema, thinks).params.grammar) << "one in memory";
  EXPECT_EQ(good(kHello + schema, hermes).params.grammar->before, "");
  EXPECT_THAT(good(strict + schema, thinks).params.grammar->instead, testing::AllOf(HasSubstr("</think>"), HasSubstr("<tool_call>")));
  EXPECT_THAT(bad(tools + R"(, "tool_choice": "required", "response_format": {"type": "json_object"})", hermes).message, HasSubstr("give one"));
  EXPECT_THAT(bad(tools + R"(, "tool_choice": "required", "ignore_eos": true)", hermes).message, HasSubstr("body.ignore_eos"));
  ModelLimits planning{257, 400, nullptr, 4};
  auto parsed = parse_batch_line(line_with(tools + R"(, "tool_choice": "required")"), planning);
  ASSERT_EQ(parsed.index(), 0u) << std::get<LineError>(parsed).message;
  EXPECT_TRUE(std::get<BatchRequest>(parsed).params.keeps_logits()) << "what a plan counts";
}

/// One mark is a special token.
class SpecialMark : public ByteTokenizer {
 public:
  explicit SpecialMark(std::string mark) : ByteTokenizer(true), mark_(std::move(mark)) {}
  std::vector<int32_t> encode(std::string_view text, bool add) const override {
    return text == mark_ ? std::vector<int32_t>{256} : ByteTokenizer::encode(text, add);
  }

 private:
  std::string mark_;
};

TEST(ChatLine, MarksThatAreSpecialTokensStayInTheText) {
  const std::string tool = R"(, "tools": [{"type": "function", "function": {"name": "f"}}])";
  const auto leaves_out = [&](const char* mark, const char* shown, const std::string& fields) {
    const SpecialMark tokenizer(mark);
    ModelLimits limits = limits_with(fmt::format("{{{{ messages[0].content }}}}{{{{ '' if tools }}}}{{# {} #}}", shown));
    limits.tokenizer = &tokenizer;
    return good(kHello + fields, limits).params.skip_special_tokens;
  };
  EXPECT_TRUE(leaves_out("<s>", "<tool_call> </think>", tool));
  EXPECT_FALSE(leaves_out("</think>", "</think>", ""));
  EXPECT_FALSE(leaves_out("[THINK]", "[THINK] [/THINK]", ""));
  EXPECT_FALSE(leaves_out("<channel|>", "<|channel>thought <channel|>", ""));
  EXPECT_FALSE(leaves_out("<tool_call>", "<tool_call>", tool));
  EXPECT_FALSE(leaves_out("<|tool_call|>", "<|tool_call|>", tool));
  EXPECT_FALSE(leaves_out("</arg_value>", "<tool_call> <arg_key> <arg_value>", tool));
  EXPECT_FALSE(leaves_out("<|\"|>", "<|tool_call> <tool_call|> <|\"|>", tool));
  EXPECT_TRUE(leaves_out("<tool_call>", "<tool_call>", "")) << "nothing is a call";
}

class ChatRecord : public testing::Test {
 protected:
  /// The record of one answer to a line.
  Json record(const BatchRequest& request, const std::string& text, FinishReason reason = FinishReason::kStop) const {
    Completion completion;
    completion.text = text;
    completion.reason = reason;
    for (char c : text) completion.tokens.push_back(static_cast<unsigned char>(c));
    for (int32_t token : completion.tokens) completion.logprobs.push_back({token, -0.5f, {{token, -0.5f}, {65, -1.25f}}});
    const std::string line =
        answer_record({"model", 7, &kTokenizer}, RecordId{}, request, std::vector<Completion>(static_cast<size_t>(request.num_sequences()), completion));
    EXPECT_EQ(read_record(std::string_view(line).substr(0, line.size() - 1)).index(), 0u) << line;
    return Json::parse(line);
  }
};

TEST_F(ChatRecord, HasOpenAIsForm) {
  const Json body = record(good(kHello + R"(, "n": 2)"), "Yes.")["response"]["body"];
  EXPECT_EQ(body["object"], "chat.completion");
  EXPECT_THAT(body["id"].get<std::string>(), testing::StartsWith("chatcmpl-"));
  EXPECT_EQ(body["usage"]["completion_tokens"], 8);
  ASSERT_EQ(body["choices"].size(), 2u);
  const Json& choice = body["choices"][1];
  EXPECT_EQ(choice["index"], 1);
  EXPECT_EQ(choice["message"], Json::parse(R"({"role": "assistant", "content": "Yes.", "refusal": null})"));
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_TRUE(choice["logprobs"].is_null());
  EXPECT_FALSE(choice.contains("text"));
  EXPECT_EQ(record(good(kHello), "cut", FinishReason::kLength)["response"]["body"]["choices"][0]["finish_reason"], "length");
}

TEST_F(ChatRecord, HasLogprobsInTheFormOfChat) {
  const Json logprobs = record(good(kHello + R"(, "logprobs": true, "top_logprobs": 2)"), "ab")["response"]["body"]["choices"][0]["logprobs"];
  ASSERT_EQ(logprobs["content"].size(), 2u);
  EXPECT_EQ(
      logprobs["content"][1],
      Json::parse(
          R"({"token": "b", "logprob": -0.5, "bytes": [98], "top_logprobs": [{"token": "b", "logprob": -0.5, "bytes": [98]}, {"token": "A", "logprob": -1.25, "bytes": [65]}]})"));
  EXPECT_TRUE(record(good(kHello + R"(, "logprobs": true)"), "a")["response"]["body"]["choices"][0]["logprobs"]["content"][0]["top_logprobs"].empty());
  // Tokens by id take the place of the best, however many of these were asked for.
  for (const char* top : {"", R"(, "top_logprobs": 1)"})
    EXPECT_EQ(record(good(kHello + R"(, "logprobs": true, "logprob_token_ids": [97, 65])" + top),
                     "a")["response"]["body"]["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
                  .size(),
              2u)
        << top;
}

TEST_F(ChatRecord, PartsThoughtsAndCalls) {
  const ModelLimits qwen = limits_with("{% for m in messages %}{{ m.content }}{% endfor %}{{ '' if tools }}{# <tool_call> </think> #}{{ '<think>' if begin }}");
  const std::string tool = R"(, "tools": [{"type": "function", "function": {"name": "f"}}])";
  const std::string answer = "<think>hm</think><tool_call>{\"name\": \"f\", \"arguments\": {\"x\": 1}}</tool_call>";
  const BatchRequest asked = good(kHello + tool, qwen);
  Json choice = record(asked, answer)["response"]["body"]["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  EXPECT_EQ(choice["message"]["reasoning_content"], "hm");
  EXPECT_TRUE(choice["message"]["content"].is_null());
  ASSERT_EQ(choice["message"]["tool_calls"].size(), 1u);
  const Json& call = choice["message"]["tool_calls"][0];
  EXPECT_EQ(call["function"], Json::parse(R"({"name": "f", "arguments": "{\"x\": 1}"})"));
  EXPECT_EQ(call["type"], "function");
  EXPECT_THAT(call["id"].get<std::string>(), testing::MatchesRegex("call_[0-9a-f]{24}"));
  EXPECT_EQ(record(asked, answer)["response"]["body"]["choices"][0], choice);  // the same names each time
  // No two calls of an answer have the same name, and the first choice's are those of a line with one.
  const Json two = record(good(kHello + tool + R"(, "n": 2)", qwen), answer)["response"]["body"]["choices"];
  EXPECT_EQ(two[0]["message"]["tool_calls"][0]["id"], call["id"]);
  EXPECT_NE(two[1]["message"]["tool_calls"][0]["id"], call["id"]);
  // Lines that ask for the same get the same choices, names too, whichever of them was computed.
  BatchRequest same = good(kHello + tool + R"(, "temperature": 0)", qwen);
  const Json first = record(same, answer)["response"]["body"]["choices"];
  same.custom_id = "another";
  EXPECT_EQ(record(same, answer)["response"]["body"]["choices"], first);
  // With tool_choice none, or without tools, nothing is a call.
  EXPECT_EQ(record(good(kHello + tool + R"(, "tool_choice": "none")", qwen), answer)["response"]["body"]["choices"][0]["finish_reason"], "stop");
  EXPECT_FALSE(record(good(kHello, qwen), answer)["response"]["body"]["choices"][0]["message"].contains("tool_calls"));
  // A prompt that ends within a thought.
  const BatchRequest begun = good(kHello + R"(, "chat_template_kwargs": {"begin": true})", qwen);
  EXPECT_TRUE(begun.chat->begins_in_thought);
  EXPECT_EQ(record(begun, "hm")["response"]["body"]["choices"][0]["message"],
            Json::parse(R"({"role": "assistant", "content": null, "refusal": null, "reasoning_content": "hm", "reasoning": "hm"})"));
  // One that goes on within a thought, or behind it.
  const auto gone_on = [&](const std::string& said) {
    return good(R"("messages": [{"role": "assistant", "content": ")" + said + R"("}], "continue_final_message": true)", qwen);
  };
  EXPECT_EQ(record(gone_on("<think> so"), "hm</think>Yes.")["response"]["body"]["choices"][0]["message"]["content"], "Yes.");
  EXPECT_EQ(record(gone_on("<think> so</think>"), "hm</think>Yes.")["response"]["body"]["choices"][0]["message"]["content"], "hm</think>Yes.");
  // Mistral's mark is a special token, so these stay in the text; its templates want names of nine characters.
  const BatchRequest mistral = good(kHello + tool, limits_with("{{ messages[0].content }}{{ '' if tools }}{# [TOOL_CALLS] #}"));
  EXPECT_FALSE(mistral.params.skip_special_tokens);
  EXPECT_EQ(record(mistral, R"([TOOL_CALLS] [{"name": "f", "arguments": {}}])")["response"]["body"]["choices"][0]["message"]["tool_calls"][0]["id"]
                .get<std::string>()
                .size(),
            9u);
  EXPECT_FALSE(mistral.unread_calls);
  // gpt-oss: channels, by marks that are special tokens.
  const ModelLimits harmony = limits_with("{{ messages[0].content }}{{ '' if tools }}{# <|channel|> <|message|> #}<|start|>assistant");
  const BatchRequest channels = good(kHello + tool, harmony);
  EXPECT_FALSE(channels.params.skip_special_tokens);
  EXPECT_EQ(channels.chat->begun, "<|start|>assistant");
  const Json said =
      record(channels, R"(<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"x":1})")
          ["response"]["body"]["choices"][0];
  EXPECT_EQ(said["message"]["reasoning_content"], "hm");
  EXPECT_EQ(said["message"]["tool_calls"][0]["function"], Json::parse(R"({"name": "f", "arguments": "{\"x\": 1}"})"));
  EXPECT_EQ(said["finish_reason"], "tool_calls");
  EXPECT_EQ(record(good(kHello, harmony), "<|channel|>final<|message|>Yes.")["response"]["body"]["choices"][0]["message"]["content"], "Yes.");
  if (!why_no_grammars()) {
    const BatchRequest object = good(kHello + R"(, "response_format": {"type": "json_object"})", harmony);
    EXPECT_THAT(object.params.grammar->before, HasSubstr("final"));
    const Json answered =
        record(object, "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>{}")["response"]["body"]["choices"][0]["message"];
    EXPECT_EQ(answered["content"], "{}");
    EXPECT_EQ(answered["reasoning_content"], "hm");
    const ModelLimits open = limits_with("{{ messages[0].content }}{{ '' if tools }}{# <|channel|> <|message|> #}");
    EXPECT_THAT(bad(kHello + R"(, "response_format": {"type": "json_object"})", open).message, HasSubstr("begin no message of the assistant"));
    const ModelLimits thinks = limits_with("{{ messages[0].content }}<think>{# </think> #}");
    const Json cut =
        record(good(kHello + R"(, "response_format": {"type": "json_object"})", thinks), "hm", FinishReason::kLength)["response"]["body"]["choices"][0];
    EXPECT_EQ(cut["finish_reason"], "length");
    EXPECT_EQ(cut["message"]["content"], nullptr);
    EXPECT_EQ(cut["message"]["reasoning_content"], "hm");
  }
  EXPECT_TRUE(good(kHello + tool).unread_calls);
  EXPECT_FALSE(good(kHello + tool + R"(, "tool_choice": "none")").unread_calls);
  EXPECT_FALSE(good(kHello).unread_calls);
}

/// The types are no part of the prompt.
TEST_F(ChatRecord, InXmlTheSchemaSaysWhatAValueIs) {
  const ModelLimits xml = limits_with("{{ messages[0].content }}{{ '' if tools }}{# <tool_call> <function= <parameter= #}");
  const auto typed = [&](const std::string& type) {
    return good(kHello + R"(, "temperature": 0, "tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {"type": ")" +
                    type + R"("}}}}}])",
                xml);
  };
  const auto x_of = [&](const BatchRequest& request) {
    const Json told = record(request, "<tool_call>\n<function=f>\n<parameter=x>\n5\n</parameter>\n</function>\n</tool_call>")["response"]["body"]["choices"][0];
    return told["message"]["tool_calls"][0]["function"]["arguments"].get<std::string>();
  };
  EXPECT_EQ(x_of(typed("integer")), R"({"x": 5})");
  EXPECT_EQ(x_of(typed("string")), R"({"x": "5"})");
  EXPECT_NE(typed("integer").answers_id, typed("string").answers_id) << "the template does not tell them apart";
  EXPECT_EQ(typed("integer").answers_id, typed("integer").answers_id);
  const auto optional = [&](const std::string& listed) { return typed(R"(integer", "enum": [")" + listed + R"("], "format": ")"); };
  EXPECT_EQ(x_of(optional("5")), R"({"x": "5"})");
  EXPECT_NE(optional("5").answers_id, optional("none").answers_id) << "what is listed";
  if (why_no_grammars()) return;
  const auto forced = [&](const std::string& choice) {
    return good(
        kHello +
            R"(, "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "allOf": [{"properties": {"x": {"type": "string"}}},
                {"properties": {"x": {"type": ["string", "null"]}}}]}}}], "tool_choice": )" +
            choice,
        xml);
  };
  EXPECT_EQ(x_of(forced(R"("required")")), R"({"x": "5"})");
  EXPECT_EQ(forced(R"("required")").chat->types->functions.at("f").at("x").types, kTextType) << "what the grammar holds it to";
  EXPECT_EQ(forced(R"("auto")").chat->types->functions.at("f").at("x").types, kTextType | kNullType);
}

TEST_F(ChatRecord, WhatIsToldOfThePromptStandsBesideTheChoices) {
  const BatchRequest asked = good(kHello + R"(, "n": 2, "return_token_ids": true, "prompt_logprobs": 0)");
  const Json body = record(asked, "Yes.")["response"]["body"];
  ASSERT_EQ(body["choices"].size(), 2u);
  EXPECT_EQ(body["prompt_token_ids"], Json(asked.prompts[0].tokens));
  EXPECT_EQ(body["prompt_logprobs"], Json::array());
  EXPECT_EQ(body["usage"]["completion_tokens"], 8);
  for (const Json& choice : body["choices"]) {
    EXPECT_EQ(choice["token_ids"].size(), 4u);
    EXPECT_FALSE(choice.contains("prompt_token_ids") || choice.contains("prompt_logprobs"));
  }
}

TEST(ChatLine, EffortTurnsThoughtsOnOrOffWhereTheTemplateKnowsNothingElse) {
  const ModelLimits qwen = limits_with("{{ messages[0].content }}{% if enable_thinking is defined %}{{ enable_thinking }}{% endif %}"),
                    both = limits_with("{{ messages[0].content }}{{ reasoning_effort }}{{ enable_thinking }}");
  const auto text = [&](const std::string& fields, const ModelLimits& limits) { return prompt_of(good(kHello + ", " + fields, limits)); };
  EXPECT_EQ(text(R"("reasoning_effort": "none")", qwen), "HiFalse");
  EXPECT_EQ(text(R"("reasoning_effort": "low")", qwen), "HiTrue");
  EXPECT_EQ(text(R"("reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": false})", qwen), "HiFalse");
  EXPECT_EQ(text(R"("reasoning_effort": null)", qwen), "Hi");
  EXPECT_EQ(text(R"("reasoning_effort": "low")", both), "Hilow");
}

}  // namespace
}  // namespace flexgen::chat_line_test
