#include "serve/answer_call.h"

#include <gtest/gtest.h>

#include "batch/byte_tokenizer.h"

namespace flexgen::answer_call_test {
namespace {

/// A call of a server that ends before it answers.
class UnreadCall : public HttpCall {
 public:
  explicit UnreadCall(std::string body) : body_(std::move(body)) {}
  const std::string& method() const override { return method_; }
  const std::string& path() const override { return path_; }
  std::string header(const std::string&) const override { return ""; }
  std::string query(const std::string&) const override { return ""; }
  std::string wrong_query(const std::vector<std::string>&) const override { return ""; }
  HttpBody body(int64_t) override { return {{}, {}, body_}; }
  bool form(int64_t, const std::function<void(const HttpPart&)>&, const std::function<void(std::string_view)>&) override { return false; }
  bool gone() const override { return false; }
  void answer(int, const std::string&, std::string, const std::vector<std::pair<std::string, std::string>>&) override {}
  void stream(const std::string&, std::function<void(const HttpWrite&, const HttpGone&)> run) override { run_ = std::move(run); }
  /// The call is over.
  void let_go() { run_ = nullptr; }

 private:
  std::string method_ = "POST", path_ = "/v1/completions", body_;
  std::function<void(const HttpWrite&, const HttpGone&)> run_;
};

TEST(AnswerCall, AStreamThatNeverBeginsIsGivenUp) {
  const ByteTokenizer tokenizer;
  RequestQueue queue(8);
  ServeMetrics metrics("fake");
  ServeContext context{{256, 1000, &tokenizer}, "fake", 0, kMaxLineBytes, true, queue, metrics};
  UnreadCall drawn(R"({"prompt":"a","max_tokens":4,"stream":true})"), waiting(R"({"prompt":"b","max_tokens":4,"stream":true})");
  for (UnreadCall* call : {&drawn, &waiting}) answer_call(*call, Endpoint::kText, context);
  const std::optional<Request> request = queue.next();
  ASSERT_TRUE(request);
  EXPECT_FALSE(queue.is_cancelled(request->key));
  for (UnreadCall* call : {&drawn, &waiting}) call->let_go();
  EXPECT_TRUE(queue.is_cancelled(request->key));
  EXPECT_FALSE(queue.next());
  EXPECT_EQ(queue.num_cancelled(), 1) << "the one that waited";
  EXPECT_NE(metrics.text({}).find(R"(finished_reason="abort",model_name="fake"} 2)"), std::string::npos) << metrics.text({});
}

}  // namespace
}  // namespace flexgen::answer_call_test
