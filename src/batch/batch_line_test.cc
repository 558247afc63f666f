#include "batch/batch_line.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>
#include <set>

#include "batch/batch_fields.h"
#include "batch/fake_runner.h"
#include "batch/text_offsets.h"
#include "text/grammar/grammar.h"

namespace flexgen::batch_line_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const ByteTokenizer kTokenizer;
const ModelLimits kLimits{256, 100, &kTokenizer};

std::string line_with(const std::string& body) { return R"({"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {)" + body + "}}"; }
BatchRequest good(const std::string& body) {
  auto parsed = parse_batch_line(line_with(body), kLimits);
  if (auto* error = std::get_if<LineError>(&parsed)) ADD_FAILURE() << body << ": " << error->message;
  return parsed.index() == 0 ? std::get<BatchRequest>(parsed) : BatchRequest{};
}

TEST(BatchLine, Defaults) {
  BatchRequest request = good(R"("prompt": "Hi", "model": "any", "user": "u", "stream": false, "suffix": null, "logit_bias": {})");
  EXPECT_EQ(request.custom_id, "a");
  EXPECT_EQ(request.num_sequences(), 1);
  EXPECT_THAT(request.prompts[0].tokens, ElementsAre('H', 'i'));
  EXPECT_EQ(request.params.max_tokens, 16);
  EXPECT_EQ(request.params.temperature, 1);
  EXPECT_EQ(request.params.top_p, 1);
  EXPECT_EQ(request.params.top_k, 0);
  EXPECT_EQ(request.params.top_logprobs, -1);
  EXPECT_FALSE(request.params.echo);
  EXPECT_FALSE(request.params.ignore_eos);
}

TEST(BatchLine, TakesEveryField) {
  BatchRequest request = good(
      R"("prompt": [1, 2], "max_tokens": 0, "temperature": 0.5, "top_p": 0.9, "top_k": -1, "seed": -5, "stop": ["x", "yy"],
         "n": 2, "best_of": 2, "logprobs": 20, "echo": true, "presence_penalty": 0.0, "frequency_penalty": 0, "ignore_eos": true)");
  EXPECT_EQ(request.params.max_tokens, 0);
  EXPECT_EQ(request.params.temperature, 0.5);
  EXPECT_EQ(request.params.top_p, 0.9);
  EXPECT_EQ(request.params.top_k, 0);
  EXPECT_EQ(request.params.seed, static_cast<uint64_t>(-5));
  EXPECT_THAT(request.params.stop, ElementsAre("x", "yy"));
  EXPECT_EQ(request.n, 2);
  EXPECT_EQ(request.params.top_logprobs, 20);
  EXPECT_TRUE(request.params.echo);
  EXPECT_TRUE(request.params.ignore_eos);
}

/// Tables whose rows differ are written so.
TEST(BatchLine, WhatIsNullIsLeftOut) {
  for (const char* text :
       {R"({"prompt": "hi", "messages": null, "max_tokens": 3, "custom_id": null})",
        R"({"custom_id": null, "method": null, "url": null, "body": null, "prompt": "hi", "max_tokens": 3})",
        R"({"custom_id": "a", "method": "POST", "url": "/v1/completions", "note": null, "prompt": null, "body": {"prompt": "hi", "max_tokens": 3}})"}) {
    const auto parsed = parse_batch_line(text, kLimits);
    ASSERT_TRUE(std::holds_alternative<BatchRequest>(parsed)) << text << std::get<LineError>(parsed).message;
    EXPECT_THAT(std::get<BatchRequest>(parsed).prompts[0].tokens, ElementsAre('h', 'i'));
    EXPECT_EQ(std::get<BatchRequest>(parsed).params.max_tokens, 3);
  }
  EXPECT_TRUE(std::holds_alternative<LineError>(
      parse_batch_line(R"({"custom_id": null, "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}})", kLimits)));
}

TEST(BatchLine, WholeTokenIdsMayHaveAPoint) {
  const BatchRequest request = good(R"("prompt": [5.0, 1], "stop_token_ids": [7.0])");
  EXPECT_THAT(request.prompts[0].tokens, ElementsAre(5, 1));
  EXPECT_THAT(request.params.stop_token_ids, ElementsAre(7));
  for (const char* bad :
       {R"("prompt": [5.5])", R"("prompt": [1e300])", R"("prompt": "x", "stop_token_ids": [-1.0])", R"("prompt": "x", "stop_token_ids": [7.5])"})
    EXPECT_TRUE(std::holds_alternative<LineError>(parse_batch_line(line_with(bad), kLimits))) << bad;
}

TEST(BatchLine, FormsOfPrompt) {
  EXPECT_EQ(good(R"("prompt": ["a", "bc"])").prompts.size(), 2u);
  BatchRequest lists = good(R"("prompt": [[1], [2, 255]])");
  ASSERT_EQ(lists.prompts.size(), 2u);
  EXPECT_THAT(lists.prompts[1].tokens, ElementsAre(2, 255));
  EXPECT_EQ(good(R"("prompt": "x", "stop": "end")").params.stop.size(), 1u);
}

TEST(BatchLine, NulEndsNoLine) {
  const std::string nul(1, '\0'), first = line_with(R"("prompt": "x")"), second = line_with(R"("prompt": "y")"), bare = R"({"prompt": "x"})";
  for (const std::string& line : {first + nul, first + nul + second, first.substr(0, 20) + nul + first.substr(20), bare + nul, bare + nul + bare,
                                  line_with(R"("prompt": "x", "temperature": 1e999)") + nul + second}) {
    const auto parsed = parse_batch_line(line, kLimits);
    ASSERT_EQ(parsed.index(), 1u) << line;
    EXPECT_EQ(std::get<LineError>(parsed).code, "invalid_json");
    EXPECT_THAT(std::get<LineError>(parsed).message, HasSubstr(fmt::format("at byte {} of the line: a NUL byte", line.find('\0') + 1)));
  }
  for (const std::string& body : {bare + nul, bare + nul + bare}) {
    const auto parsed = parse_call_body(body, Endpoint::kText, "name", kLimits);
    ASSERT_EQ(parsed.index(), 1u);
    EXPECT_THAT(std::get<LineError>(parsed).message, HasSubstr(fmt::format("at byte {} of the body: a NUL byte", bare.size() + 1)));
  }
}

TEST(BatchLine, CountedPromptsAreThoseOfTheCall) {
  const auto counted = [](const std::string& fields) {
    const auto parsed = parse_counted_body("{" + fields + "}", kLimits);
    if (const auto* error = std::get_if<LineError>(&parsed)) return error->message;
    return std::to_string(std::get<CountedBody>(parsed).tokens.size());
  };
  const std::string prompt = R"("prompt": ")" + std::string(300, 'a') + '"', cut = R"(, "truncate_prompt_tokens": )";
  EXPECT_EQ(counted(prompt), "300");
  EXPECT_EQ(counted(prompt + cut + "7"), "7");
  EXPECT_EQ(counted(prompt + cut + "-1"), "84") << "of 100 positions, 16 for the answer";
  EXPECT_EQ(counted(prompt + R"(, "max_completion_tokens": 30)" + cut + "-1.0"), "70");
  EXPECT_EQ(counted(prompt + R"(, "max_tokens": 1000)" + cut + "-1"), "1");
  EXPECT_EQ(counted(prompt + R"(, "max_tokens": "x")"), "300") << "as ever";
  EXPECT_THAT(counted(prompt + R"(, "max_tokens": "x")" + cut + "-1"), HasSubstr("max_tokens"));
  EXPECT_THAT(counted(prompt + cut + "0"), HasSubstr("truncate_prompt_tokens is 0"));
  EXPECT_EQ(counted(R"("prompt": "ab")" + cut + "-1"), "2");
}

// A body alone on a line is put within a line of the format: it must not end that.
TEST(BatchLine, BareLinesAreReadAsTheyStand) {
  for (const std::string line : {R"({"prompt": "x"}, "method": "POST")", R"({"prompt": "x"}})", R"({"prompt": "x"}{"prompt": "y"})"}) {
    const auto parsed = parse_batch_line(line, kLimits);
    ASSERT_EQ(parsed.index(), 1u) << line;
    EXPECT_THAT(std::get<LineError>(parsed).message, HasSubstr("not valid JSON at byte 16 of the line"));
  }
}

TEST(BatchLine, SequencesDiffer) {
  BatchRequest request = good(R"("prompt": ["a", "b"], "n": 3, "seed": 7)");
  EXPECT_EQ(request.num_sequences(), 6);
  EXPECT_EQ(request.sequence(0).params.seed, 7u);
  EXPECT_NE(request.sequence(1).params.seed, request.sequence(2).params.seed);
  EXPECT_THAT(request.sequence(3).prompt, ElementsAre('b'));
  EXPECT_EQ(request.sequence(3).params.seed, 7u);  // a prompt in a list is as good as one on a line of its own
  BatchRequest unseeded = good(R"("prompt": ["a", "a"])");
  EXPECT_NE(unseeded.sequence(0).params.seed, unseeded.sequence(1).params.seed);
  EXPECT_EQ(unseeded.sequence(1).params.seed, good(R"("prompt": ["a", "a"])").sequence(1).params.seed);
}

TEST(BatchLine, WhatEndsAnAnswer) {
  const BatchRequest request = good(R"("prompt": "x", "min_tokens": 3, "stop_token_ids": [7, 255], "include_stop_str_in_output": true,
    "skip_special_tokens": false, "spaces_between_special_tokens": false)");
  EXPECT_EQ(request.params.min_tokens, 3);
  EXPECT_THAT(request.params.stop_token_ids, ElementsAre(7, 255));
  EXPECT_TRUE(request.params.include_stop);
  EXPECT_FALSE(request.params.skip_special_tokens);
  EXPECT_TRUE(request.params.keeps_logits());
  const BatchRequest plain = good(R"("prompt": "x", "min_tokens": 0, "stop_token_ids": [], "include_stop_str_in_output": false, "skip_special_tokens": true,
    "spaces_between_special_tokens": true, "add_special_tokens": true)");
  EXPECT_FALSE(plain.params.keeps_logits() && plain.params.temperature == 0);
  EXPECT_EQ(plain.params.min_tokens, 0);
  EXPECT_TRUE(plain.params.skip_special_tokens);
  EXPECT_FALSE(plain.params.include_stop);
}

TEST(BatchLine, WhatChangesTheLogits) {
  const SamplingParams params = good(R"("prompt": "x", "repetition_penalty": 1.25, "presence_penalty": -0.5, "frequency_penalty": 2, "min_p": 0.1,
    "logit_bias": {"5": -1000, "7": 0, "9": 2.5}, "bad_words": ["ab", " c"])")
                                    .params;
  EXPECT_EQ(params.repetition_penalty, 1.25);
  EXPECT_EQ(params.presence_penalty, -0.5);
  EXPECT_EQ(params.frequency_penalty, 2);
  EXPECT_EQ(params.min_p, 0.1);
  EXPECT_THAT(params.logit_bias, ElementsAre(std::pair<int32_t, float>(5, -100), std::pair<int32_t, float>(9, 2.5f)));
  // Where a blank before a word makes it longer, as with bytes, the word alone is banned.
  EXPECT_THAT(params.bad_words, ElementsAre(ElementsAre('a', 'b'), ElementsAre('c')));
}

TEST(BatchLine, MaxCompletionTokensIsMaxTokens) {
  EXPECT_EQ(good(R"("prompt": "x", "max_completion_tokens": 64)").params.max_tokens, 64);
  EXPECT_EQ(good(R"("prompt": "x", "max_completion_tokens": 64, "max_tokens": 64)").params.max_tokens, 64);
  EXPECT_EQ(good(R"("prompt": "x", "max_completion_tokens": 64, "max_tokens": null)").params.max_tokens, 64);
  EXPECT_EQ(good(R"("prompt": "x", "max_tokens": 256, "max_new_tokens": 64)").params.max_tokens, 64);  // as lm-eval sends a task's own
}

TEST(BatchLine, PromptsMayBeTruncated) {
  EXPECT_THAT(good(R"("prompt": "abcdef", "truncate_prompt_tokens": 2)").prompts[0].tokens, ElementsAre('e', 'f'));
  EXPECT_THAT(good(R"("prompt": "ab", "truncate_prompt_tokens": 5)").prompts[0].tokens, ElementsAre('a', 'b'));
  EXPECT_THAT(good(R"("prompt": [[1, 2, 3], [4]], "truncate_prompt_tokens": 2)").prompts[0].tokens, ElementsAre(2, 3));
  EXPECT_EQ(good(R"("prompt": ")" + std::string(300, 'a') + R"(", "max_tokens": 20, "truncate_prompt_tokens": -1)").prompts[0].tokens.size(), 80u);
  const ByteTokenizer with_bos(true);  // which stays
  const auto prompt_of = [&](const std::string& fields, int64_t max_positions = 100, bool tokenizer = true) {
    auto parsed = parse_batch_line(line_with(fields), {257, max_positions, tokenizer ? &with_bos : nullptr});
    if (const auto* error = std::get_if<LineError>(&parsed)) ADD_FAILURE() << error->message;
    return parsed.index() == 0 ? std::get<BatchRequest>(parsed).prompts[0].tokens : std::vector<int32_t>();
  };
  EXPECT_THAT(prompt_of(R"("prompt": "abcdef", "truncate_prompt_tokens": 3)"), ElementsAre(256, 'e', 'f'));
  const std::string ids = R"("prompt": [256, 1, 2, 3, 4, 5, 6, 7, 8], "max_tokens": 1, "truncate_prompt_tokens": )";
  EXPECT_THAT(prompt_of(ids + "3"), ElementsAre(256, 7, 8));
  EXPECT_THAT(prompt_of(ids + "1"), ElementsAre(8));
  EXPECT_THAT(prompt_of(ids + "9"), ElementsAre(256, 1, 2, 3, 4, 5, 6, 7, 8));
  EXPECT_THAT(prompt_of(ids + "-1", 5), ElementsAre(256, 6, 7, 8)) << "more ids than the model has positions";
  EXPECT_THAT(prompt_of(ids + "-1", 5, false), ElementsAre(5, 6, 7, 8)) << "nobody says what a BOS is";
  EXPECT_THAT(prompt_of(R"("prompt": [1, 256, 3], "truncate_prompt_tokens": 1)"), ElementsAre(3));
}

TEST(BatchLine, PromptLogprobs) {
  const BatchRequest request = good(R"("prompt": "x", "max_tokens": 0, "prompt_logprobs": 3)");
  EXPECT_TRUE(request.params.scores_prompt());
  EXPECT_EQ(request.params.top_prompt_logprobs(), 3);
  EXPECT_EQ(good(R"("prompt": "x", "echo": true, "logprobs": 5, "prompt_logprobs": 3)").params.top_prompt_logprobs(), 5);
  EXPECT_THAT(good(R"("prompt": "x", "logprobs": 0, "logprob_token_ids": [9, 3, 9])").params.logprob_token_ids, ElementsAre(9, 3));
  // A server has memory for fewer.
  ModelLimits limits = kLimits;
  limits.max_logprob_ids = 1;
  const auto parsed = parse_batch_line(line_with(R"("prompt": "x", "logprobs": 0, "logprob_token_ids": [9, 3])"), limits);
  ASSERT_EQ(parsed.index(), 1u);
  EXPECT_THAT(std::get<LineError>(parsed).message, HasSubstr("holds 2 token ids; a server has memory for 1"));
}

// As vLLM and OpenAI have them.
TEST(BatchLine, FieldsThatChangeNothingMayStay) {
  // clang-format off
  for (const char* field : {R"("suffix": "")", R"("response_format": {"type": "text"})", R"("repetition_penalty": 1.0)", R"("min_p": 0.0)", R"("min_tokens": 0)",
                            R"("skip_special_tokens": true)", R"("spaces_between_special_tokens": true)", R"("include_stop_str_in_output": false)", R"("use_beam_search": false)", R"("num_beams": 1)",
                            R"("length_penalty": 1.0)", R"("early_stopping": false)", R"("add_special_tokens": true)", R"("logprobs": false)", R"("stream_options": {})",
                            R"("stream_options": {"include_usage": false})", R"("stop_token_ids": [])", R"("stop": [])", R"("store": false)", R"("metadata": {})", R"("metadata": {"a": "b"})",
                            R"("service_tier": "auto")", R"("user": "u")", R"("safety_identifier": "u")", R"("prompt_cache_key": "k")", R"("bad_words": [])", R"("logit_bias": {})",
                            R"("logit_bias": {"5": 0})", R"("presence_penalty": 0)", R"("best_of": 1)", R"("priority": 0)", R"("guided_json": null)", R"("guided_choice": null)",
                            R"("structured_outputs": null)",
                            R"("allowed_token_ids": null)", R"("truncate_prompt_tokens": null)", R"("prompt_logprobs": null)", R"("logprob_token_ids": null)",
                            R"("return_token_ids": false)", R"("return_tokens_as_token_ids": false)", R"("request_id": "r")", R"("cache_salt": "s")", R"("kv_transfer_params": null)",
                            R"("vllm_xargs": {})", R"("thinking_token_budget": -1)", R"("prompt_embeds": null)", R"("detokenize": true)", R"("truncation_side": "left")", R"("echo": false)",
                            R"("stream": false)", R"("top_k": 0)", R"("top_k": -1)", R"("top_p": 1)", R"("seed": null)", R"("n": 1)", R"("n": 1.0)", R"("top_k": 0.0)", R"("response_format": {"type": "text", "json_schema": null})", R"("tools": [])", R"("nobody_knows": null)",
                            R"("media_io_kwargs": {})", R"("return_prompt_text": false)"}) {
    // clang-format on
    const auto plain = good(R"("prompt": "x", "temperature": 0)"), same = good(R"("prompt": "x", "temperature": 0, )" + std::string(field));
    EXPECT_EQ(same.params.keeps_logits(), plain.params.keeps_logits()) << field;
    EXPECT_EQ(same.params.max_tokens, plain.params.max_tokens) << field;
  }
}

TEST(BatchLine, SpecialTokensMayBeLeftToThePrompt) {
  const ByteTokenizer with_bos(true);
  auto parsed = [&](const std::string& body) { return std::get<BatchRequest>(parse_batch_line(line_with(body), {257, 100, &with_bos})); };
  EXPECT_THAT(parsed(R"("prompt": "a")").prompts[0].tokens, ElementsAre(256, 'a'));
  EXPECT_EQ(parsed(R"("prompt": "a")").prompts[0].num_added, 1);
  EXPECT_THAT(parsed(R"("prompt": "a", "add_special_tokens": false)").prompts[0].tokens, ElementsAre('a'));
  EXPECT_EQ(parsed(R"("prompt": "a", "add_special_tokens": false)").prompts[0].num_added, 0);
  EXPECT_EQ(parsed(R"("prompt": ["a", "<s>b"])").doubled_bos, 1);
  EXPECT_EQ(parsed(R"("prompt": ["a", "<s>b"], "add_special_tokens": false)").doubled_bos, 0);
  EXPECT_EQ(parsed(R"("prompt": [[256, 256, 1]])").doubled_bos, 0);  // who gives ids means them
}

TEST(BatchLine, ABatchMayBeForOneModel) {
  ModelLimits limits{257, 100, &kTokenizer};
  limits.model = "m";
  for (const char* named : {"", R"(, "model": "m")", R"(, "model": "")", R"(, "model": null)"}) {
    EXPECT_EQ(parse_batch_line(line_with(std::string(R"("prompt": "x")") + named), limits).index(), 0u) << named;
    EXPECT_EQ(parse_batch_line(std::string(R"({"prompt": "x")") + named + "}", limits).index(), 0u) << named;
  }
  const auto error = std::get<LineError>(parse_batch_line(line_with(R"("prompt": "x", "model": "n")"), limits));
  EXPECT_EQ(error.code, "model_not_found");
  EXPECT_EQ(error.param, "body.model");
}

TEST(BatchLine, TheTokenizerMayPutTwoTokensBeforeAText) {
  const auto tokenizer = Tokenizer::from_json(R"({"added_tokens": [{"id": 0, "content": "[g]", "special": true}, {"id": 1, "content": "<s>", "special": true}],
    "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[g]", "type_id": 0}}, {"SpecialToken": {"id": "<s>", "type_id": 0}},
      {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"[g]": {"id": "[g]", "ids": [0]}, "<s>": {"id": "<s>", "ids": [1]}}},
    "model": {"type": "BPE", "merges": [], "vocab": {"[g]": 0, "<s>": 1, "a": 2, "b": 3, "c": 4}}})",
                                              "test");
  const auto request_of = [&](const std::string& fields) { return std::get<BatchRequest>(parse_batch_line(line_with(fields), {5, 6, tokenizer.get()})); };
  const auto tokens_of = [&](const std::string& fields) { return request_of(fields + R"(, "max_tokens": 1)").prompts[0].tokens; };
  const BatchRequest echoed = request_of(R"("prompt": "abc", "max_tokens": 1, "echo": true)");
  const BatchPrompt& prompt = echoed.prompts[0];
  EXPECT_EQ(prompt.num_added, 2);
  EXPECT_THAT(text_offsets_in(*tokenizer, prompt.tokens, prompt.text, prompt.num_added), ElementsAre(0, 0, 0, 1, 2));
  EXPECT_EQ(request_of(R"("prompt": ["[g]<s>a", "<s>a", "[g]a"], "max_tokens": 1)").doubled_bos, 1);
  EXPECT_THAT(tokens_of(R"("prompt": "abc", "truncate_prompt_tokens": 3)"), ElementsAre(0, 1, 4));
  EXPECT_THAT(tokens_of(R"("prompt": "abc", "truncate_prompt_tokens": 2)"), ElementsAre(3, 4)) << "no room for another token";
  EXPECT_THAT(tokens_of(R"("prompt": [0, 1, 2, 3, 4, 2, 3, 4], "truncate_prompt_tokens": -1)"), ElementsAre(0, 1, 2, 3, 4))
      << "more ids than the model has positions";
  EXPECT_THAT(tokens_of(R"("prompt": [0, 1, 2, 3, 4, 2, 3], "truncate_prompt_tokens": 4)"), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(tokens_of(R"("prompt": [0, 2, 1, 3, 4, 2, 3], "truncate_prompt_tokens": 2)"), ElementsAre(2, 3));
}

TEST(BatchLine, EmptyPromptIsFineWithBos) {
  ByteTokenizer with_bos(true);
  auto parsed = parse_batch_line(line_with(R"("prompt": "")"), {257, 100, &with_bos});
  ASSERT_EQ(parsed.index(), 0u);
  EXPECT_THAT(std::get<BatchRequest>(parsed).prompts[0].tokens, ElementsAre(256));
}

TEST(BatchLine, TokensBeyondTheModelAreRefused) {
  ByteTokenizer with_bos(true);  // knows token 256, the model doesn't
  auto parsed = parse_batch_line(line_with(R"("prompt": "x")"), {256, 100, &with_bos});
  ASSERT_EQ(parsed.index(), 1u);
  EXPECT_THAT(std::get<LineError>(parsed).message, HasSubstr("256"));
}

struct BadBody {
  const char *body, *code, *message;
  friend std::ostream& operator<<(std::ostream& out, const BadBody& bad) { return out << bad.body; }
};
class BadBodies : public testing::TestWithParam<BadBody> {};

TEST_P(BadBodies, GiveAnError) {
  auto parsed = parse_batch_line(line_with(GetParam().body), kLimits);
  ASSERT_EQ(parsed.index(), 1u) << GetParam().body;
  const LineError& error = std::get<LineError>(parsed);
  EXPECT_EQ(error.custom_id, error.code == "invalid_json" ? "" : "a");
  EXPECT_EQ(error.code, GetParam().code) << error.message;
  EXPECT_THAT(error.message, HasSubstr(GetParam().message));
}

TEST(BatchLine, LongRegularExpressionsAreRefused) {  // they take long to compile
  auto parsed = parse_batch_line(line_with(R"("prompt": "x", "guided_regex": ")" + std::string(20'000, '.') + '"'), kLimits);
  ASSERT_EQ(parsed.index(), 1u);
  EXPECT_THAT(std::get<LineError>(parsed).message, HasSubstr("guided_regex is longer than"));
}

INSTANTIATE_TEST_SUITE_P(
    BatchLine, BadBodies,
    testing::Values(
        BadBody{R"("max_tokens": 3)", "invalid_value", "body.prompt"}, BadBody{R"("prompt": "")", "invalid_value", "empty"},
        BadBody{R"("prompt": [])", "invalid_value", "empty"}, BadBody{R"("prompt": [[]])", "invalid_value", "empty"},
        BadBody{R"("prompt": ["a", ""])", "invalid_value", "empty"}, BadBody{R"("prompt": 5)", "invalid_value", "body.prompt"},
        BadBody{R"("prompt": ["a", 5])", "invalid_value", "mix"}, BadBody{R"("prompt": [5, "a"])", "invalid_value", "token id"},
        BadBody{R"("prompt": [256])", "invalid_value", "256"}, BadBody{R"("prompt": [-1])", "invalid_value", "-1"},
        BadBody{R"("prompt": [1.5])", "invalid_value", "1.5"}, BadBody{R"("prompt": [[1], 2])", "invalid_value", "mix"},
        BadBody{R"("prompt": "x", "max_tokens": 0)", "invalid_value", "echo"}, BadBody{R"("prompt": "x", "max_tokens": -1)", "invalid_value", "max_tokens"},
        BadBody{R"("prompt": "x", "max_tokens": 16.5)", "invalid_value", "max_tokens"},
        BadBody{R"("prompt": "x", "max_tokens": 99999999999999999999)", "invalid_value", "max_tokens"},
        BadBody{R"("prompt": "x", "max_tokens": 18446744073709551615)", "invalid_value", "max_tokens"},
        BadBody{R"("prompt": "xyz", "max_tokens": 98)", "context_length_exceeded", "3 tokens and max_tokens is 98, 101 together, but the model has 100"},
        BadBody{R"("prompt": "x", "temperature": 3)", "invalid_value", "temperature"},
        BadBody{R"("prompt": "x", "temperature": "hot")", "invalid_value", "'hot'"},
        BadBody{R"("prompt": "x", "temperature": 1e999)", "invalid_value", "body.temperature is '1e999', which is out of range"},
        BadBody{R"("prompt": [1, -1e400])", "invalid_value", "body.prompt is '-1e400', which is out of range"},
        BadBody{R"("prompt": [1, 2.5])", "invalid_value", "2.5, which is not a token id"}, BadBody{R"("prompt": [NaN])", "invalid_json", "JSON has no NaN"},
        BadBody{R"("prompt": "x", "top_p": -Infinity)", "invalid_json", "Infinity"}, BadBody{R"("prompt": "x", "max_tokens": -0)", "invalid_value", "is 0"},
        BadBody{R"("prompt": "x", "max_tokens": 2147483647)", "context_length_exceeded", "2147483648 together"},
        BadBody{R"("prompt": "x", "max_tokens": 2147483648)", "invalid_value", "max_tokens"},
        BadBody{R"("prompt": "x", "seed": 1e-3)", "invalid_value", "seed"}, BadBody{R"("prompt": "x", "seed": 18446744073709551616)", "invalid_value", "seed"},
        BadBody{R"("prompt": {"a": ["x"]})", "invalid_value", "body.prompt must be"},
        BadBody{R"("prompt": [{"a": 5}])", "invalid_value", "an object, which is not a token id"},
        BadBody{R"("prompt": [[1, [2]]])", "invalid_value", "an array"}, BadBody{R"("prompt": [["a"]])", "invalid_value", "'a'"},
        BadBody{R"("prompt": ["a", {}])", "invalid_value", "mix"}, BadBody{R"("prompt": true)", "invalid_value", "body.prompt"},
        BadBody{R"("prompt": null)", "invalid_value", "missing"}, BadBody{R"("prompt": "x", "prompt": [1])", "invalid_json", "'prompt' comes twice"},
        BadBody{R"("prompt": "x", "logit_bias": {"5": 1, "5": 2})", "invalid_json", "body.logit_bias has an object in which '5' comes twice"},
        BadBody{R"("prompt": "x", "structured_outputs": {"choice": ["a"], "choice": ["b"]})", "invalid_json",
                "body.structured_outputs has an object in which 'choice' comes twice"},
        BadBody{R"("prompt": "x", "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object", "type": "null"}}})", "invalid_json",
                "body.response_format has an object in which 'type' comes twice"},
        BadBody{R"("prompt": "x", "top_p": 0)", "invalid_value", "top_p"}, BadBody{R"("prompt": "x", "top_k": -2)", "invalid_value", "top_k"},
        BadBody{R"("prompt": "x", "seed": 1.5)", "invalid_value", "seed"}, BadBody{R"("prompt": "x", "stop": [""])", "invalid_value", "stop"},
        BadBody{R"("prompt": "x", "stop": [1])", "invalid_value", "stop"},
        BadBody{R"("prompt": "x", "stop": ["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"])", "invalid_value", "16"},
        BadBody{R"("prompt": "x", "n": 0)", "invalid_value", "body.n"}, BadBody{R"("prompt": "x", "n": 129)", "invalid_value", "body.n"},
        BadBody{R"("prompt": "x", "logprobs": 21)", "invalid_value", "logprobs"}, BadBody{R"("prompt": "x", "logprobs": true)", "invalid_value", "logprobs"},
        BadBody{R"("prompt": "x", "echo": 1)", "invalid_value", "echo"}, BadBody{R"("prompt": "x", "stream": true)", "unsupported_parameter", "stream"},
        BadBody{R"("prompt": "x", "stream_options": {"include_usage": true})", "unsupported_parameter", "stream_options"},
        BadBody{R"("prompt": "x", "n": 3, "best_of": 2)", "invalid_value", "less than n (3)"},
        BadBody{R"("prompt": "x", "best_of": 129)", "invalid_value", "best_of"},
        BadBody{R"("prompt": "x", "presence_penalty": 2.5)", "invalid_value", "presence_penalty"},
        BadBody{R"("prompt": "x", "frequency_penalty": "no")", "invalid_value", "frequency_penalty"},
        BadBody{R"("prompt": "x", "repetition_penalty": 0)", "invalid_value", "repetition_penalty"},
        BadBody{R"("prompt": "x", "min_p": 1.5)", "invalid_value", "min_p"}, BadBody{R"("prompt": "x", "logit_bias": {"256": 1})", "invalid_value", "'256'"},
        BadBody{R"("prompt": "x", "logit_bias": {"x": 1})", "invalid_value", "'x'"},
        BadBody{R"("prompt": "x", "logit_bias": {"5": "1"})", "invalid_value", "token 5"},
        BadBody{R"("prompt": "x", "logit_bias": {"5": 1, "05": 2})", "invalid_value", "twice"},
        BadBody{R"("prompt": "x", "logit_bias": [5])", "invalid_value", "logit_bias"},
        BadBody{R"("prompt": "x", "bad_words": "no")", "invalid_value", "bad_words"},
        BadBody{R"("prompt": "x", "bad_words": [""])", "invalid_value", "bad_words"},
        BadBody{R"("prompt": "x", "stop_token_ids": [256])", "invalid_value", "256"},
        BadBody{R"("prompt": "x", "stop_token_ids": 3)", "invalid_value", "stop_token_ids"},
        BadBody{R"("prompt": "x", "min_tokens": 17)", "invalid_value", "more than max_tokens (16)"},
        BadBody{R"("prompt": "x", "logprob_token_ids": [5])", "invalid_value", "needs logprobs"},
        BadBody{R"("prompt": "x", "prompt_logprobs": -1)", "invalid_value", "prompt_logprobs"},
        BadBody{R"("prompt": "x", "truncate_prompt_tokens": 0)", "invalid_value", "truncate_prompt_tokens"},
        BadBody{R"("prompt": "x", "max_tokens": 3, "max_completion_tokens": 4)", "invalid_value", "max_completion_tokens"},
        BadBody{R"("prompt": "x", "max_completion_tokens": -4)", "invalid_value", "max_completion_tokens"},
        BadBody{R"("prompt": "x", "add_special_tokens": 1)", "invalid_value", "add_special_tokens"},
        BadBody{R"("prompt": "x", "use_beam_search": true)", "unsupported_parameter", "beam search"},
        BadBody{R"("prompt": "x", "num_beams": 4)", "unsupported_parameter", "beam search"},
        BadBody{R"("prompt": "x", "response_format": {"type": "json_object", "schema": {}, "json_schema": {"schema": {}}})", "invalid_value",
                "response_format"},
        BadBody{R"("prompt": "x", "response_format": {"type": "text", "schema": {}})", "invalid_value", "response_format"},
        BadBody{R"("prompt": "x", "response_format": {"type": "grammar"})", "invalid_value", "response_format"},
        BadBody{R"("prompt": "x", "guided_json": {"type": "object", "not": {}})", "invalid_value", "guided_json"},
        BadBody{R"("prompt": "x", "guided_regex": "a(")", "invalid_value", "guided_regex"},
        BadBody{R"("prompt": "x", "guided_choice": ["a"], "guided_regex": "a")", "invalid_value", "and so does guided_"},
        BadBody{R"("prompt": "x", "guided_choice": {})", "invalid_value", "must be a list of texts"},
        BadBody{R"("prompt": "x", "guided_choice": [])", "invalid_value", "guided_choice must be a list of 1 to"},
        BadBody{R"("prompt": "x", "structured_outputs": {"choice": []})", "invalid_value", "structured_outputs.choice must be a list of 1 to"},
        BadBody{R"("prompt": "x", "guided_grammar": "start: \"a\" | \"b\"")", "invalid_value",
                why_no_grammars() ? "guided_grammar" : "Lark's grammars are not read"},
        BadBody{R"("prompt": "x", "structured_outputs": {})", "invalid_value", "structured_outputs says nothing of the answer"},
        BadBody{R"("prompt": "x", "structured_outputs": {"json": null, "json_object": false, "disable_any_whitespace": true})", "invalid_value",
                "says nothing"},
        BadBody{R"("prompt": "x", "response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": "yes", "schema": {}}})", "invalid_value",
                "json_schema.strict, which must be true or false"},
        BadBody{R"("prompt": "x", "seed": 18446744073709551616)", "invalid_value", "must be an integer of 64 bits"},
        BadBody{R"("prompt": "x", "prediction": {"type": "content"})", "unsupported_parameter", "is a field of /v1/chat/completions"},
        BadBody{R"("prompt": "x", "structured_outputs": {"choice": ["a"], "tag": 1})", "invalid_value", "structured_outputs.tag"},
        BadBody{R"("prompt": "x", "messages": [{"role": "user"}])", "unsupported_parameter", "chat"},
        BadBody{R"("prompt": "x", "logprobs": 1, "top_logprobs": 5)", "unsupported_parameter", "logprobs is the number"},
        BadBody{R"("prompt": "x", "store": true)", "unsupported_parameter", "store"}, BadBody{R"("prompt": "x", "metadata": 5)", "invalid_value", "metadata"},
        BadBody{R"("prompt": "x", "suffix": "y")", "unsupported_parameter", "suffix"}, BadBody{R"("prompt": "x", "model": 5)", "invalid_value", "model"},
        BadBody{R"("prompt": "x", "max_token": 5)", "unsupported_parameter", "'max_token'"},
        BadBody{R"("prompt": "x", "n": 1, "n": 2)", "invalid_json", "twice"}));

TEST(BatchLine, BadLines) {
  const std::string body = R"("body": {"prompt": "x"}})";
  struct Case {
    std::string line, code, custom_id;
  };
  std::vector<Case> cases = {
      {"not json", "invalid_json", ""},
      {"[1, 2]", "invalid_json", ""},
      {"{\"custom_id\": \"a\"", "invalid_json", ""},
      {"{\"custom_id\": \"\xff\xfe\"}", "invalid_json", ""},
      {R"({"custom_id": "a", "custom_id": "b"})", "invalid_json", ""},
      {R"({"method": "POST", "url": "/v1/completions", )" + body, "invalid_custom_id", ""},
      {R"({"custom_id": 5, "method": "POST", "url": "/v1/completions", )" + body, "invalid_custom_id", ""},
      {R"({"custom_id": "", "method": "POST", "url": "/v1/completions", )" + body, "invalid_custom_id", ""},
      {R"({"custom_id": ")" + std::string(513, 'i') + R"(", "method": "POST", "url": "/v1/completions", )" + body, "invalid_custom_id", ""},
      {R"({"custom_id": "a", "method": "GET", "url": "/v1/completions", )" + body, "invalid_value", "a"},
      {R"({"custom_id": "a", "url": "/v1/completions", )" + body, "invalid_value", "a"},
      {R"({"custom_id": "a", "method": "POST", )" + body, "invalid_value", "a"},
      {R"({"custom_id": "a", "method": "POST", "url": "/v1/embeddings", )" + body, "unsupported_endpoint", "a"},
      {R"({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "x"}]}})",
       "unsupported_endpoint", "a"},
      {R"({"custom_id": "a", "method": "POST", "url": "/v1/completions"})", "invalid_value", "a"},
      {R"({"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": []})", "invalid_value", "a"},
      {R"({"custom_id": "a", "extra": 1, "method": "POST", "url": "/v1/completions", )" + body, "unsupported_parameter", "a"},
  };
  for (const Case& c : cases) {
    auto parsed = parse_batch_line(c.line, kLimits);
    ASSERT_EQ(parsed.index(), 1u) << c.line;
    EXPECT_EQ(std::get<LineError>(parsed).code, c.code) << c.line;
    EXPECT_EQ(std::get<LineError>(parsed).custom_id, c.custom_id) << c.line;
    EXPECT_LT(std::get<LineError>(parsed).message.size(), 400u);
  }
}

TEST(BatchLine, AnswersAreTheSameOnlyUnderTheSameGrammar) {
  if (why_no_grammars()) GTEST_SKIP() << *why_no_grammars();
  std::set<std::array<uint8_t, 12>> ids;
  const std::vector<const char*> asked = {
      R"("structured_outputs": {"choice": ["a", "b"]})",       R"("structured_outputs": {"choice": ["b", "a"]})",
      R"("structured_outputs": {"choice": ["ab"]})",           R"("structured_outputs": {"regex": "ab"})",
      R"("structured_outputs": {"json_object": true})",        R"("structured_outputs": {"json_object": true, "disable_any_whitespace": true})",
      R"("structured_outputs": {"json": {"type": "object"}})", R"("response_format": {"type": "text"})"};
  for (const char* field : asked) ids.insert(good(std::string(R"("prompt": "x", "temperature": 0, )") + field).answers_id.value());
  EXPECT_EQ(ids.size(), asked.size());
  const std::string choice = std::string(R"("prompt": "x", "temperature": 0, )") + asked[0];
  EXPECT_EQ(good(choice).answers_id, good(choice + R"(, "seed": 5)").answers_id);
  EXPECT_EQ(good(choice).answers_id, good(choice + R"(, "user": "u7", "metadata": {"row": "7"}, "stream": false, "suffix": null)").answers_id);
  // The schema beside its type, as llama.cpp has it.
  for (const char* type : {"json_object", "json_schema"})
    EXPECT_EQ(*good(fmt::format(R"("prompt": "x", "response_format": {{"type": "{}", "schema": {{"type": "null"}}}})", type)).params.grammar,
              *good(R"("prompt": "x", "guided_json": {"type": "null"})").params.grammar);
}

TEST(BatchLine, BestOfMoreThanN) {
  BatchRequest request = good(R"("prompt": ["a", "b"], "n": 2, "best_of": 5, "seed": 3, "echo": true)");
  EXPECT_TRUE(request.chooses());
  EXPECT_EQ(request.num_sequences(), 10);
  EXPECT_THAT(request.sequence(5).prompt, ElementsAre('b'));
  EXPECT_EQ(request.sequence(5).params.seed, 3u);
  EXPECT_NE(request.sequence(6).params.seed, 3u);
  EXPECT_EQ(request.sequence(0).params.top_logprobs, 0);  // they are chosen by their logprobs
  EXPECT_FALSE(request.sequence(0).params.scores_prompt());
  EXPECT_EQ(request.params.top_logprobs, -1);
  EXPECT_EQ(good(R"("prompt": "a", "best_of": 5, "logprobs": 3, "echo": true)").sequence(0).params.top_prompt_logprobs(), 3);
  EXPECT_FALSE(good(R"("prompt": "a", "n": 2, "best_of": 2)").chooses());
}

TEST(BatchLine, ABodyAloneIsARequest) {
  const auto bare = [](const std::string& text) { return parse_batch_line(text, kLimits); };
  BatchRequest request = std::get<BatchRequest>(bare(R"({"prompt": "Hi", "max_tokens": 3, "temperature": 0, "model": "any"})"));
  EXPECT_EQ(request.custom_id, "");
  EXPECT_EQ(request.params.max_tokens, 3);
  EXPECT_THAT(request.prompts[0].tokens, ElementsAre('H', 'i'));
  request = std::get<BatchRequest>(bare(R"({"custom_id": "mine", "prompt": [[1], [2]], "seed": 4})"));
  EXPECT_EQ(request.custom_id, "mine");
  EXPECT_EQ(request.prompts.size(), 2u);
  // More values than a line's tree may have: they are prompts.
  std::string ids = "1";
  for (int i = 0; i < 6000; ++i) ids += ",1";
  EXPECT_EQ(std::get<BatchRequest>(parse_batch_line(R"({"prompt": [)" + ids + "]}", {256, 10000, &kTokenizer})).prompts[0].tokens.size(), 6001u);

  const auto error = [&](const std::string& text) { return std::get<LineError>(bare(text)); };
  EXPECT_EQ(error(R"({"prompt": "x", "max_tokens": -1})").param, "max_tokens");
  EXPECT_THAT(error(R"({"prompt": "x", "max_tokens": -1})").message, testing::StartsWith("max_tokens must be"));
  EXPECT_THAT(error(R"({"prompt": "x", "label": 1})").message, testing::StartsWith("the line has the field 'label'"));
  EXPECT_EQ(error(R"({"prompt": "x", "custom_id": 5})").code, "invalid_custom_id");
  EXPECT_EQ(error(R"({"prompt": "x", "prompt": "y"})").code, "invalid_json");
  EXPECT_EQ(error(R"({"prompt": "x", "url": "/v1/completions"})").code, "invalid_custom_id");  // a request that lacks parts
  EXPECT_EQ(error(R"({"prompt": null})").param, "prompt");
  // Of files that were joined.
  EXPECT_EQ(std::get<BatchRequest>(bare("\xef\xbb\xbf{\"prompt\": \"x\"}")).prompts.size(), 1u);
  for (const char* other : {R"({"text": "x"})", R"({"instruction": "x", "output": "y"})", R"({"requests": []})"}) {
    EXPECT_EQ(error(other).code, "invalid_custom_id");
    EXPECT_THAT(error(other).message, testing::HasSubstr("neither prompt nor messages"));
  }
}

TEST(BatchLine, UnknownFieldsAreToldWithWhatIsMeant) {
  const auto message = [](const std::string& fields) { return std::get<LineError>(parse_batch_line(R"({"prompt": "x", )" + fields + "}", kLimits)).message; };
  EXPECT_THAT(message(R"("temprature": 0)"), testing::HasSubstr("'temprature', which is not known; did you mean 'temperature'?"));
  EXPECT_THAT(message(R"("Top-P": 1)"), testing::HasSubstr("did you mean 'top_p'?"));
  EXPECT_THAT(message(R"("max_length": 5)"), testing::HasSubstr("max_tokens counts"));
  EXPECT_THAT(message(R"("extra_body": {"top_k": 5})"), testing::HasSubstr("stand in the body itself"));
  EXPECT_THAT(message(R"("label": 5)"), testing::HasSubstr("leave it out"));
}

// Tables whose column has gaps, and some programs, write 64.0.
TEST(BatchLine, WholeNumbersMayBeWrittenWithAPoint) {
  const BatchRequest request = good(R"("prompt": "x", "max_tokens": 64.0, "top_k": 1e1, "seed": -7.0, "logprobs": 2.0)");
  EXPECT_EQ(request.params.max_tokens, 64);
  EXPECT_EQ(request.params.top_k, 10);
  EXPECT_EQ(request.params.seed, good(R"("prompt": "x", "seed": -7)").params.seed);
  EXPECT_EQ(request.params.top_logprobs, 2);
  for (const char* fields : {R"("max_tokens": 64.5)", R"("max_tokens": 1e300)", R"("seed": 1e300)", R"("seed": 0.5)", R"("n": -1.0)"})
    EXPECT_TRUE(std::holds_alternative<LineError>(parse_batch_line(R"({"prompt": "x", )" + std::string(fields) + "}", kLimits))) << fields;
}

TEST(BatchLine, DeepNestingIsHarmless) {
  for (const char* opening : {"[", "{\"a\":"}) {
    std::string deep;
    while (deep.size() < 4000000) deep += opening;
    auto parsed = parse_batch_line(line_with("\"prompt\": " + deep), kLimits);
    ASSERT_EQ(parsed.index(), 1u);
    EXPECT_EQ(std::get<LineError>(parsed).code, "invalid_json");
  }
  std::string closed = line_with("\"prompt\": " + std::string(1000000, '[') + std::string(1000000, ']'));
  EXPECT_THAT(std::get<LineError>(parse_batch_line(closed, kLimits)).message, HasSubstr("levels deep"));
}

TEST(BatchLine, MinusZeroIsZero) {
  EXPECT_THAT(good(R"("prompt": [-0, 5])").prompts[0].tokens, ElementsAre(0, 5));
  EXPECT_EQ(good(R"("prompt": "x", "temperature": -0.0)").params.temperature, 0);
  EXPECT_EQ(good(R"("prompt": "x", "temperature": 1e-320)").params.temperature, 0);  // its inverse would be infinite
}

TEST(BatchLine, ANumberOutOfRangeDoesNotHideTheCustomId) {
  auto parsed = parse_batch_line(
      R"({"body": {"prompt": "a \"1e999", "top_p": 1e999, "x": 1E+400}, "custom_id": "last", "method": "POST", "url": "/v1/completions"})", kLimits);
  EXPECT_EQ(std::get<LineError>(parsed).custom_id, "last");
  EXPECT_EQ(std::get<LineError>(parsed).param, "body.x");  // a field that is not known comes first
  parsed = parse_batch_line(
      R"({"body": {"prompt": "a", "top_p": )" + std::string(400, '9') + R"(.0}, "custom_id": "last", "method": "POST", "url": "/v1/completions"})", kLimits);
  EXPECT_EQ(std::get<LineError>(parsed).custom_id, "last");
  EXPECT_EQ(std::get<LineError>(parsed).param, "body.top_p");
}

TEST(BatchLine, LongLinesTakeLinearTime) {
  struct Case {
    std::string before, item, after, code;
  };
  const std::vector<Case> cases = {
      {R"("prompt": "x", "x": [)", "{}", "]", "unsupported_parameter"},
      {R"("prompt": "x", "stop": [)", "{}", "]", "invalid_value"},
      {R"("prompt": "x", "logit_bias": [)", "[]", "]", "invalid_value"},
      {R"("prompt": "x", "user": {"a": [)", "1", "]}", "invalid_value"},
      {R"("prompt": [)", "{}", "]", "invalid_value"},
      {R"("prompt": [)", "[]", "]", "invalid_value"},
      {R"("prompt": [)", "[1]", "]", "invalid_value"},
      {R"("prompt": [)", "1", "]", "context_length_exceeded"},
      {R"("prompt": [[)", "1", "]]", "context_length_exceeded"},
      {R"("prompt": [)", "\"\"", "]", "invalid_value"},
      {R"("prompt": [)", "1e400", "]", "invalid_value"},
      {R"("prompt": [{"a": [)", "[1]", "]}]", "invalid_value"},
  };
  for (const Case& c : cases) {
    auto seconds = [&](size_t bytes) {
      std::string body = c.before + c.item;
      while (body.size() + 200 < bytes) body += "," + c.item;
      const std::string line = line_with(body + c.after);
      const std::clock_t start = std::clock();
      const auto parsed = parse_batch_line(line, kLimits);
      EXPECT_EQ(std::get<LineError>(parsed).code, c.code) << c.before << c.item;
      EXPECT_EQ(std::get<LineError>(parsed).custom_id, "a");
      return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    };
    const double eighth = seconds(kMaxLineBytes / 8);
    EXPECT_LT(seconds(kMaxLineBytes), 40 * eighth + 0.5) << c.before << c.item;
  }
}

TEST(BatchLine, WhatIsTooLargeIsNamed) {
  std::string bias = R"("prompt": "x", "logit_bias": {"0": 0)";
  for (int i = 1; i < 5000; ++i) bias += fmt::format(R"(,"{}": 0)", i);
  auto parsed = parse_batch_line(line_with(bias + "}"), kLimits);
  EXPECT_EQ(std::get<LineError>(parsed).param, "body.logit_bias");
  EXPECT_THAT(std::get<LineError>(parsed).message, HasSubstr("4096 values"));
}

TEST(BatchLine, ATextMayNotBeLongerThanMemoryIsThereFor) {
  const std::string text(static_cast<size_t>(kMaxTextBytes) + 1, 'a');
  const auto error = std::get<LineError>(parse_batch_line(line_with("\"prompt\":\"" + text + "\""), kLimits));
  EXPECT_EQ(error.param, "body.prompt");
  EXPECT_NE(error.message.find("give longer ones as token ids"), std::string::npos) << error.message;
}

TEST(BatchLine, WhatTellsABareLineApartIsFoundBehindAnyNumberOfValues) {
  std::string ids = "0";
  for (int64_t i = 0; i < 5000; ++i) ids += ",0";
  EXPECT_EQ(custom_id_of(R"({"prompt": [)" + ids + R"(], "custom_id": "b"})"), "b");
  EXPECT_EQ(custom_id_of(R"({"prompt": "x", "custom_id": null})"), "");
  const auto conversation = std::get<LineError>(parse_batch_line(R"({"tools": [[)" + ids + R"(]], "messages": [{"role": "user", "content": "Hi"}]})", kLimits));
  EXPECT_NE(conversation.code, "invalid_custom_id") << conversation.message;
}

TEST(BatchLine, TooManyPrompts) {
  std::string many = "\"prompt\": [\"a\"";
  for (int64_t i = 0; i < kMaxPromptsPerLine; ++i) many += ",\"a\"";
  EXPECT_EQ(std::get<LineError>(parse_batch_line(line_with(many + "]"), kLimits)).code, "invalid_value");
}

}  // namespace
}  // namespace flexgen::batch_line_test
