#include <cstdio>
#include <iostream>
#include <iterator>

#include "app/commands.h"
#include "base/error.h"

namespace flexgen {
namespace {

/// One request in, its text out.
class OneRequest : public RequestSource, public CompletionSink {
 public:
  explicit OneRequest(Request request) : request_(std::move(request)) {}
  std::optional<Request> next() override { return std::exchange(request_, std::nullopt); }
  int64_t remaining() const override { return request_ ? 1 : 0; }
  void accept(Completion completion) override { text_ = std::move(completion.text); }
  const std::string& text() const { return text_; }

 private:
  std::optional<Request> request_;
  std::string text_;
};

}  // namespace

int generate_command(const GenerateOptions& options) {
  std::string prompt = options.prompt;
  if (prompt == "-") prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
  Engine engine(engine_options(options.engine, options.model));
  const ModelConfig& config = engine.model().config();

  Request request;
  request.params = options.params;
  request.prompt = engine.tokenizer()->encode(prompt, true);
  auto tokens = static_cast<int64_t>(request.prompt.size());
  if (tokens == 0) fail_user("the prompt is empty, and the model has no token to start from; give some text");
  for (int32_t token : request.prompt)
    if (token < 0 || token >= config.vocab_size)
      fail_user("the tokenizer makes token {} of the prompt, but the model has ids from 0 to {}; the checkpoint's files do not fit together",
                token, config.vocab_size - 1);
  if (tokens + request.params.max_tokens > config.max_positions)
    fail_user("the prompt has {} tokens and --max-tokens is {}, {} together, but the model has {} positions; shorten the prompt or "
              "lower --max-tokens", tokens, request.params.max_tokens, tokens + request.params.max_tokens, config.max_positions);

  Workload workload;
  workload.add(tokens, request.params.max_tokens, request.params.temperature > 0, false);
  engine.prepare(workload);
  OneRequest io(std::move(request));
  const std::atomic<bool> stop{false};
  engine.run(io, io, stop);
  std::string text = io.text() + "\n";
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) fail_io("cannot write to stdout");
  return kExitDone;
}

}  // namespace flexgen
