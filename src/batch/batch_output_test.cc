#include "batch/batch_output.h"
#include "batch/kept_record.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "batch/fake_runner.h"
#include "text/grammar/grammar.h"

namespace flexgen::batch_output_test {
namespace {

const ByteTokenizer kTokenizer;
const RecordContext kContext{"opt-125m", 1700000000, &kTokenizer};
const RecordId kId{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x00, 0x11, 0x22, 0x33};

BatchRequest request_of(const std::string& body) {
  auto parsed = parse_batch_line(R"({"custom_id":"a","method":"POST","url":"/v1/completions","body":{)" + body + "}}", {256, 1000, &kTokenizer});
  return std::get<BatchRequest>(parsed);
}
Completion completion_of(const std::string& text) {
  Completion completion;
  completion.text = text;
  completion.tokens = kTokenizer.encode(text, false);
  return completion;
}

TEST(BatchOutput, Answer) {
  Completion completion = completion_of("yes");
  EXPECT_EQ(
      answer_record(kContext, kId, request_of(R"("prompt":"Is it?")"), std::span(&completion, 1)),
      with_checksum(
          R"({"id":"batch_req_0123456789abcdef00112233","custom_id":"a","response":{"status_code":200,)"
          R"("request_id":"req_0123456789abcdef00112233","body":{"id":"cmpl-0123456789abcdef00112233",)"
          R"("object":"text_completion","created":1700000000,"model":"opt-125m","choices":[{"index":0,"text":"yes",)"
          R"("logprobs":null,"finish_reason":"length","stop_reason":null}],"usage":{"prompt_tokens":6,"completion_tokens":3,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":0}}}},)"
          R"("error":null})"
          "\n"));
}

TEST(BatchOutput, ErrorLine) {
  InputLine line;
  line.number = 7;
  line.id = kId;
  EXPECT_EQ(error_record(line, {"line-7", "invalid_json", "not valid JSON", ""}),
            with_checksum(R"({"id":"batch_req_0123456789abcdef00112233","custom_id":"line-7","response":null,)"
                          R"("error":{"code":"invalid_json","message":"not valid JSON","param":null,"line":7}})"
                          "\n"));
}

TEST(BatchOutput, SeveralPromptsAndChoices) {
  BatchRequest request = request_of(R"("prompt":["ab","c"],"n":2)");
  std::vector<Completion> completions;
  for (const char* text : {"1", "2", "3", "4"}) completions.push_back(completion_of(text));
  completions[3].reason = FinishReason::kStop;
  auto json = nlohmann::json::parse(answer_record(kContext, kId, request, completions));
  const auto& body = json["response"]["body"];
  ASSERT_EQ(body["choices"].size(), 4u);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(body["choices"][i]["index"], i);
    EXPECT_EQ(body["choices"][i]["text"], std::to_string(i + 1));
  }
  EXPECT_EQ(body["choices"][3]["finish_reason"], "stop");
  EXPECT_EQ(body["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(body["usage"]["completion_tokens"], 4);
}

TEST(BatchOutput, EchoWithLogprobs) {
  BatchRequest request = request_of(R"("prompt":"ab","echo":true,"logprobs":1)");
  Completion completion = completion_of("cd");
  float nan = std::numeric_limits<float>::quiet_NaN();
  completion.prompt_logprobs = {{'a', nan, {}}, {'b', -0.1f, {{'b', -0.1f}}}};
  completion.logprobs = {{'c', -2.5f, {{'x', -0.5f}}}, {'d', -std::numeric_limits<float>::infinity(), {{'e', 0.0f}}}};
  auto json = nlohmann::json::parse(answer_record(kContext, kId, request, std::span(&completion, 1)));
  const auto& choice = json["response"]["body"]["choices"][0];
  EXPECT_EQ(choice["text"], "abcd");
  EXPECT_EQ(choice["logprobs"].dump(), R"({"text_offset":[0,1,2,3],"token_logprobs":[null,-0.1,-2.5,-9999.0],"tokens":["a","b","c","d"],)"
                                       R"("top_logprobs":[null,{"b":-0.1},{"c":-2.5,"x":-0.5},{"d":-9999.0,"e":0.0}]})");
}

TEST(BatchOutput, EchoOfTokenIdsIsTheirText) {
  BatchRequest request = request_of(R"("prompt":[72,105],"echo":true,"max_tokens":0)");
  Completion completion;
  auto json = nlohmann::json::parse(answer_record(kContext, kId, request, std::span(&completion, 1)));
  EXPECT_EQ(json["response"]["body"]["choices"][0]["text"], "Hi");
}

TEST(BatchOutput, TokenIdsAreGivenWhereTheyAreAskedForOrNothingElseTells) {
  const auto choice_of = [](const RecordContext& context, const std::string& fields) {
    const std::string line = R"({"custom_id":"a","method":"POST","url":"/v1/completions","body":{"prompt":[72,105])" + fields + "}}";
    const BatchRequest request = std::get<BatchRequest>(parse_batch_line(line, {256, 1000, context.tokenizer}));
    Completion completion;
    completion.tokens = {3, 200};
    return nlohmann::json::parse(answer_record(context, kId, request, std::span(&completion, 1)))["response"]["body"]["choices"][0];
  };
  const auto asked = choice_of(kContext, R"(,"return_token_ids":true)");
  EXPECT_EQ(asked["token_ids"].dump(), "[3,200]");
  EXPECT_EQ(asked["prompt_token_ids"].dump(), "[72,105]");
  EXPECT_FALSE(choice_of(kContext, "").contains("token_ids"));
  const RecordContext without{"m", 1, nullptr};
  const auto plain = choice_of(without, "");
  EXPECT_EQ(plain["text"], "");
  EXPECT_EQ(plain["token_ids"].dump(), "[3,200]");
  EXPECT_FALSE(plain.contains("prompt_token_ids"));
  EXPECT_FALSE(choice_of(without, R"(,"return_token_ids":false)").contains("token_ids"));
}

TEST(BatchOutput, OffsetsStayWithinTheText) {  // tokens of a stop string are scored, but their text is cut off
  BatchRequest request = request_of(R"("prompt":"ab","logprobs":0)");
  Completion completion = completion_of("x");
  completion.logprobs = {{'x', -1, {}}, {'y', -1, {}}, {'z', -1, {}}};
  auto json = nlohmann::json::parse(answer_record(kContext, kId, request, std::span(&completion, 1)));
  EXPECT_EQ(json["response"]["body"]["choices"][0]["logprobs"]["text_offset"].dump(), "[0,1,1]");
}

TEST(BatchOutput, SaysWhatEndedTheAnswer) {
  const BatchRequest request = request_of(R"("prompt":"a","n":4,"stop":["x\"y"],"stop_token_ids":[7])");
  std::vector<Completion> completions(4, completion_of("b"));
  for (Completion& completion : completions) completion.reason = FinishReason::kStop;
  completions[1].stop_string = "x\"y";
  completions[2].stop_token = 7;
  completions[3].reason = FinishReason::kLength;
  const auto choices = nlohmann::json::parse(answer_record(kContext, kId, request, completions))["response"]["body"]["choices"];
  EXPECT_EQ(choices[0]["stop_reason"], nullptr);  // the model's own end token
  EXPECT_EQ(choices[1]["stop_reason"], "x\"y");
  EXPECT_EQ(choices[2]["stop_reason"], 7);
  EXPECT_EQ(choices[3]["stop_reason"], nullptr);
  EXPECT_EQ(choices[3]["finish_reason"], "length");
}

TEST(BatchOutput, NotFiniteIsAnErrorThatSaysWhere) {
  const BatchRequest request = request_of(R"("prompt":["ab","c"],"n":2)");
  InputLine line;
  line.number = 3;
  Completion completion;
  completion.reason = FinishReason::kNotFinite;
  completion.prompt_tokens = 1;
  completion.failed_position = 4;
  completion.not_finite_entry = 17;
  const std::string record = error_record(line, no_answer_error(request, completion, 2));
  const auto error = nlohmann::json::parse(record)["error"];
  EXPECT_EQ(error["code"], "not_finite");
  EXPECT_EQ(error["line"], 3);
  const std::string message = error["message"];
  for (const char* part : {"choice 2", "token 4 of the answer", "entry 17", "--compute-dtype"}) EXPECT_NE(message.find(part), std::string::npos) << message;
  EXPECT_TRUE(is_no_answer_record(record));
  EXPECT_FALSE(is_no_answer_record(error_record(line, {"a", "invalid_value", record, ""})));
  EXPECT_FALSE(is_no_answer_record(answer_record(kContext, kId, request, std::vector<Completion>(4, completion_of(record)))));
  completion.prompt_tokens = 2;
  completion.failed_position = 1;
  EXPECT_NE(no_answer_error(request, completion, 0).message.find("token 2 of the prompt"), std::string::npos);
}

TEST(BatchOutput, ADeadEndIsAnErrorOfItsOwn) {
  BatchRequest request = request_of(R"("prompt":"ab")");
  InputLine line;
  line.number = 3;
  Completion completion;
  completion.reason = FinishReason::kDeadEnd;
  completion.prompt_tokens = 2;
  completion.failed_position = 3;
  const LineError forbidden = no_answer_error(request, completion, 0);
  EXPECT_EQ(forbidden.code, "dead_end");
  EXPECT_NE(forbidden.message.find("every token is forbidden for token 2 of the answer"), std::string::npos) << forbidden.message;
  request.params.grammar = std::make_shared<GrammarSpec>();
  const std::string record = error_record(line, no_answer_error(request, completion, 0));
  EXPECT_NE(record.find("what the schema or grammar asks for at token 2 of the answer"), std::string::npos) << record;
  EXPECT_EQ(record.find("finite"), std::string::npos) << record;
  EXPECT_TRUE(is_no_answer_record(record));
  completion.grammar_failure = "too many states";
  const LineError failure = no_answer_error(request, completion, 0);
  EXPECT_EQ(failure.code, "dead_end");
  EXPECT_NE(failure.message.find("cannot be followed at token 2 of the answer, so there is no answer: too many states"), std::string::npos) << failure.message;
}

/// Two tokens with one text.
class SameText : public ByteTokenizer {
 public:
  std::string token_text(int32_t) const override { return "?"; }
};

TEST(BatchOutput, SharedTextsStayApart) {
  SameText tokenizer;
  BatchRequest request = request_of(R"("prompt":"ab","logprobs":2)");
  Completion completion = completion_of("x");
  completion.logprobs = {{5, -2, {{4, -1}, {5, -2}}}};
  auto json = nlohmann::json::parse(answer_record({"m", 0, &tokenizer}, kId, request, std::span(&completion, 1)));
  EXPECT_EQ(json["response"]["body"]["choices"][0]["logprobs"]["top_logprobs"][0].dump(), R"({"?":-2.0,"token_id:4":-1.0})");
}

TEST(BatchOutput, AlwaysValidUtf8AndOneLine) {
  Completion completion = completion_of("a\xff\xc3\n\x01\xe4\xb8");
  std::string record = answer_record(kContext, kId, request_of(R"("prompt":"x")"), std::span(&completion, 1));
  EXPECT_EQ(std::count(record.begin(), record.end(), '\n'), 1);
  EXPECT_TRUE(nlohmann::json::accept(record));
  InputLine line;
  EXPECT_TRUE(nlohmann::json::accept(error_record(line, {"\xff", "c", "bad \xc3\x28", "\xe4"})));
}

}  // namespace
}  // namespace flexgen::batch_output_test
