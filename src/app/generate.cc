#include <cstdio>
#include <iostream>
#include <iterator>

#include "app/commands.h"
#include "app/evaluation.h"
#include "app/hardware.h"
#include "app/model_folder.h"
#include "app/plan_table.h"
#include "app/progress.h"
#include "app/special_tokens.h"
#include "app/team.h"
#include "base/error.h"
#include "base/report.h"

namespace flexgen {
namespace {

class OneRequest : public RequestSource, public CompletionSink {
 public:
  explicit OneRequest(Request request) : request_(std::move(request)) {}
  std::optional<Request> next() override { return std::exchange(request_, std::nullopt); }
  int64_t remaining() const override { return request_ ? 1 : 0; }
  void accept(Completion given) override { completion = std::move(given); }
  Completion completion;

 private:
  std::optional<Request> request_;
};

}  // namespace

int generate_command(const GenerateOptions& options) {
  require_alone({}, "generate");
  Engine engine(engine_options(options.engine, find_model(options.model, options.engine.model.revision)));
  std::string text = options.prompt;
  if (text == "-") text.assign(std::istreambuf_iterator<char>(std::cin), {});
  Request request;
  request.params = options.params;
  request.prompt = engine.tokenizer()->encode(text, !options.no_special_tokens);
  if (!options.no_special_tokens && begins_with_two_bos(*engine.tokenizer(), request.prompt)) warn_of_two_bos(*engine.tokenizer(), "the prompt");
  if (request.prompt.empty()) fail_user("the prompt is empty, and this model puts no token before a text");
  auto prompt_size = static_cast<int64_t>(request.prompt.size());
  const ModelConfig& config = engine.model().config();
  for (int32_t id : request.params.stop_token_ids)
    if (id >= config.vocab_size) fail_user("--stop-token-id {}: the model has ids from 0 to {}", id, config.vocab_size - 1);
  for (int32_t id : request.prompt)
    if (id >= config.vocab_size) fail_user("the tokenizer gives the id {}, the model's vocabulary has {}", id, config.vocab_size);
  if (prompt_size + request.params.max_tokens > config.max_positions)
    fail_user("the prompt has {} tokens and --max-tokens is {}: together more than the {} that the model takes", prompt_size,
              request.params.max_tokens, config.max_positions);
  Workload workload;
  workload.add(prompt_size, request.params.max_tokens, request.params.keeps_logits(), false);
  set_hardware(engine, options.engine);
  engine.prepare(workload);
  print_note("{}", plan_table(engine));
  OneRequest one(std::move(request));
  std::atomic<bool> never{false};
  RunReport report;
  {
    ProgressDisplay display([&] { return engine.progress(); });
    report = engine.run(one, one, never);
  }
  print_note("{}{}", report_table(report), prediction_table(engine.plan().prediction, report));
  doubt_if_faster(engine, options.engine, report);
  print_result("{}\n", one.completion.text);
  check_finite({&one.completion, 1}, "answers");
  return kExitDone;
}

}  // namespace flexgen
