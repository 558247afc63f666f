#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/byte_order_mark.h"
#include "base/error.h"
#include "base/log.h"
#include "base/report.h"
#include "batch/batch_line.h"
#include "batch/chat_output.h"
#include "batch/chat_source.h"
#include "batch/grammar_fields.h"
#include "batch/special_tokens.h"
#include "cli/commands.h"
#include "cli/evaluation.h"
#include "cli/json_output.h"
#include "cli/one_prompt.h"
#include "cli/plan_table.h"
#include "cli/progress.h"
#include "io/whole_file.h"
#include "setup/hardware.h"
#include "setup/model_folder.h"
#include "setup/team.h"
#include "text/chat_answer.h"
#include "text/grammar/json_schema.h"
#include "text/grammar/thoughts_grammar.h"
#include "text/jinja/value.h"

namespace flexgen {
namespace {

/// Gives one request, and writes its answer to stdout as it comes.
class OneRequest : public RequestSource, public CompletionSink {
 public:
  /// `before_text`: called once, before the first piece is written.
  OneRequest(Request request, bool writes, std::function<void()> before_text)
      : request_(std::move(request)), writes_(writes), before_text_(std::move(before_text)) {}
  std::optional<Request> next() override { return std::exchange(request_, std::nullopt); }
  int64_t remaining() const override { return request_ ? 1 : 0; }
  bool follows_text() const override { return writes_; }
  void follow(const Completion&, std::string_view text) override { add_text(text); }
  void accept(Completion given) override {
    completion = std::move(given);
    if (writes_) add_text(completion.text);
  }
  Completion completion;

 private:
  void add_text(std::string_view text) {
    if (text.size() <= written_) return;
    if (written_ == 0) before_text_();
    write_result(text.substr(written_));
    written_ = text.size();
  }
  std::optional<Request> request_;
  bool writes_;
  std::function<void()> before_text_;
  size_t written_ = 0;
};

/// All of standard input, but the byte order mark and the line end that editors put around it.
std::string prompt_of_stdin() {
  // A pipe may never end. Beside the text: a byte order mark and a line end.
  const auto most = static_cast<size_t>(kMaxTextBytes), beside = size_t{5};
  std::string text;
  char piece[1 << 16];
  for (size_t n; text.size() <= most + beside && (n = std::fread(piece, 1, sizeof piece, stdin)) > 0;) text.append(piece, n);
  if (std::ferror(stdin)) fail_io("cannot read the prompt from standard input: {}", std::strerror(errno));
  drop_byte_order_mark(&text);
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
  if (text.size() > most)
    fail_user("the prompt on standard input is longer than {}; give a shorter one, or answer many at once with run-batch", format_bytes(kMaxTextBytes));
  return text;
}

/// What the user says, as the model's template writes it out. `form`: how the answer is read.
std::string conversation_text(const ChatTemplate& chat, const GenerateOptions& options, std::string said, AnswerForm* form) {
  std::vector<jinja::Value> messages;
  if (!options.system.empty()) messages.push_back(chat_message("system", options.system));
  messages.push_back(chat_message("user", std::move(said)));
  return chat_prompt(chat, std::move(messages), options.chat_template_kwargs, form);
}

std::string answer_json(const GenerateOptions& options, const AnswerForm& form, const Completion& completion, const RunReport& report) {
  nlohmann::ordered_json json{{"model", options.model}, {"text", completion.text}};
  if (options.chat) {
    const ChatAnswer answer = read_chat_answer(completion.text, form);
    if (answer.reasoning) add_thoughts(*answer.reasoning, &json);
    json["content"] = answer.content ? nlohmann::ordered_json(*answer.content) : nlohmann::ordered_json(nullptr);
  }
  json["finish_reason"] = completion.reason == FinishReason::kStop ? "stop" : "length";
  add_report(report, &json);
  return json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace);
}

/// Throws Error{user} that names the file.
std::shared_ptr<const GrammarSpec> grammar_of_file(const std::string& path, const Engine& engine) {
  if (engine.model().config().eos.empty()) fail_user("--json-schema: the model's config.json names no end token (eos_token_id), by which an answer could end");
  const std::string schema = read_whole_file(path, static_cast<int64_t>(kMaxSchemaBytes));
  try {
    return schema_grammar(schema);
  } catch (const Error& error) {
    fail_user("--json-schema {}: {}", path, error.what());
  }
}

}  // namespace

int generate_command(const GenerateOptions& options) {
  require_alone({}, "generate");
  const std::string model = find_model(options.model, options.engine.model.revision);
  Engine engine(engine_options(options.engine, model));
  std::string text = options.prompt == "-" ? prompt_of_stdin() : options.prompt;
  check_utf8(text, "the prompt");
  AnswerForm form;
  if (options.chat)
    text = conversation_text(*require_chat_template("--chat", model, options.chat_template, *engine.tokenizer()), options, std::move(text), &form);
  const bool adds_special_tokens = !options.no_special_tokens && !options.chat;
  Request request;
  request.params = options.params;
  request.params.answers_afresh = options.chat;
  if (!options.json_schema.empty()) request.params.grammar = grammar_of_file(options.json_schema, engine);
  if (has_special_marks(form, *engine.tokenizer())) request.params.skip_special_tokens = false;
  if (request.params.grammar)
    request.params.grammar = std::make_shared<const GrammarSpec>(behind_thoughts(*request.params.grammar, HeldAnswer::kContent, engine.tokenizer(), &form));
  request.prompt = engine.tokenizer()->encode(text, adds_special_tokens);
  if (adds_special_tokens && begins_with_two_prefixes(*engine.tokenizer(), request.prompt)) warn_of_two_prefixes(*engine.tokenizer(), "the prompt");
  if (request.prompt.empty()) fail_user("the prompt is empty, and this model puts no token before a text");
  auto prompt_size = static_cast<int64_t>(request.prompt.size());
  const ModelConfig& config = engine.model().config();
  check_stop_token_ids(request.params.stop_token_ids, config.vocab_size);
  check_prompt_tokens(request.prompt, config.vocab_size);
  if (prompt_size + request.params.max_tokens > config.max_positions)
    fail_user("the prompt has {} tokens and --max-tokens is {}: together more than the {} that the model takes", prompt_size, request.params.max_tokens,
              config.max_positions);
  Workload workload;
  workload.add(prompt_size, request.params.max_tokens, request.params.keeps_logits(), false);
  set_hardware(engine, options.engine);
  engine.prepare(workload);
  if (options.stats) print_note("{}", plan_table(engine));
  std::optional<ProgressDisplay> display;
  // The bar and the text would write over each other on a terminal.
  OneRequest one(std::move(request), !options.json || !options.json_file.empty(), [&] {
    if (isatty(STDOUT_FILENO) == 1) display.reset();
  });
  std::atomic<bool> never{false};
  display.emplace([&] { return engine.progress(); });
  const RunReport report = engine.run(one, one, never);
  display.reset();
  if (one.follows_text()) write_result("\n");
  if (options.stats) print_note("{}{}", report_table(report), prediction_table(engine.plan().prediction, report));
  doubt_if_faster(engine, options.engine, report);
  check_answered({&one.completion, 1}, "answers");
  if (one.completion.reason == FinishReason::kLength && !options.json_schema.empty())
    spdlog::warn("the answer was cut off by --max-tokens before the schema ended and may not parse; raise it, or bound what may be said (maxLength, maxItems)");
  if (options.json) put_json(answer_json(options, form, one.completion, report), options.json_file);
  return kExitDone;
}

}  // namespace flexgen
