// flexgen chat: a conversation in the terminal.

#include <algorithm>

#include "base/error.h"
#include "base/report.h"
#include "batch/chat_source.h"
#include "cli/chat_input.h"
#include "cli/commands.h"
#include "cli/evaluation.h"
#include "cli/one_prompt.h"
#include "generation/batcher.h"
#include "setup/hardware.h"
#include "setup/model_folder.h"
#include "setup/team.h"
#include "text/chat_answer.h"
#include "text/jinja/value.h"

namespace flexgen {
namespace {

constexpr int64_t kUsualConversation = 8192;  ///< tokens, where the model takes more and nobody says how many

/// A conversation as an open source: the engine waits for a line, answers it, and waits again. In the engine's thread.
class Talk : public RequestSource, public CompletionSink {
 public:
  /// `most_tokens`: of all that was said and answered.
  Talk(const ChatOptions& options, const ChatTemplate& chat, const Tokenizer& tokenizer, int64_t vocab_size, int64_t most_tokens)
      : options_(options), chat_(chat), tokenizer_(tokenizer), vocab_size_(vocab_size), most_tokens_(most_tokens) {
    begin();
  }

  std::optional<Request> next() override { return std::exchange(request_, std::nullopt); }
  int64_t remaining() const override { return request_ ? 1 : 0; }
  bool is_open() const override { return open_; }
  void wait() override {
    while (open_ && !request_) {
      const std::optional<std::string> line = input_.line();
      if (!line || *line == "/exit") open_ = false;
      else if (*line == "/clear") clear();
      else if (*line == "/help") print_note("/clear begins a new conversation; /exit or Ctrl-D ends; Ctrl-C stops an answer\n");
      else if (!line->empty()) say(*line);
    }
  }
  bool is_cancelled(int64_t) const override { return input_.interrupted(); }

  bool follows_text() const override { return true; }
  void follow(const Completion&, std::string_view text) override { show(text); }
  void accept(Completion completion) override {
    show(completion.text);
    write_result(input_.is_terminal() ? "\n\n" : "\n");
    if (has_no_answer(completion.reason)) {
      failed = std::move(completion);
      open_ = false;
      return;
    }
    if (completion.reason == FinishReason::kCancelled) print_note("(stopped)\n");
    if (completion.reason == FinishReason::kLength) {
      const bool full = most_generated_ < options_.params.max_tokens;
      print_note("{}\n", full ? fmt::format("(cut off: the conversation has its {} tokens; /clear begins a new one)", most_tokens_)
                              : fmt::format("(cut off after --max-tokens {})", most_generated_));
    }
    const ChatAnswer answer = read_chat_answer(completion.text, form_);
    std::vector<jinja::Dict::Item> message{{"role", "assistant"}, {"content", answer.content.value_or("")}};
    if (answer.reasoning) message.emplace_back("reasoning_content", *answer.reasoning);
    messages_.push_back(jinja::make_dict(std::move(message)));
  }

  std::optional<Completion> failed;  ///< the answer that is none
  int64_t num_refused = 0;           ///< lines
  bool from_terminal() const { return input_.is_terminal(); }

 private:
  void begin() {
    messages_.clear();
    if (!options_.system.empty()) messages_.push_back(chat_message("system", options_.system));
  }
  void clear() {
    begin();
    print_note("(a new conversation)\n");
  }
  /// What cannot be answered is taken back, with the reason.
  void say(const std::string& line) {
    messages_.push_back(chat_message("user", line));
    try {
      check_utf8(line, "this line");
      request_ = request_of_messages();
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kUser) throw;
      messages_.pop_back();
      ++num_refused;
      write_note(fmt::format("flexgen: {}\n", error.what()));
    }
  }
  Request request_of_messages() {
    form_ = {};
    const std::string text = chat_prompt(chat_, messages_, options_.chat_template_kwargs, &form_);
    Request request;
    request.params = options_.params;
    request.params.answers_afresh = true;
    if (has_special_marks(form_, tokenizer_)) request.params.skip_special_tokens = false;
    request.prompt = tokenizer_.encode(text, false);
    const int64_t size = std::ssize(request.prompt);
    if (size == 0) fail_user("the chat template makes no text of this");
    check_prompt_tokens(request.prompt, vocab_size_);
    // Nothing is dropped in silence: who wants to go on begins anew, or gives more room.
    if (size >= most_tokens_)
      fail_user(
          "with this the conversation has {} tokens, and there is room for {} (--max-model-len), the answer included; nothing of it was sent. Say less, or begin a new one with /clear",
          size, most_tokens_);
    most_generated_ = request.params.max_tokens = std::min(request.params.max_tokens, most_tokens_ - size);
    // The next turn begins with the same tokens.
    if (options_.engine.shares_prefixes()) request.shared_tokens = size;
    request.key = next_key_++;
    shown_ = 0;
    return request;
  }
  void show(std::string_view text) {
    if (text.size() <= shown_) return;
    write_result(text.substr(shown_));
    shown_ = text.size();
  }

  const ChatOptions& options_;
  const ChatTemplate& chat_;
  const Tokenizer& tokenizer_;
  int64_t vocab_size_, most_tokens_;
  ChatInput input_;
  std::vector<jinja::Value> messages_;
  AnswerForm form_;
  std::optional<Request> request_;
  bool open_ = true;
  size_t shown_ = 0;  ///< bytes of the answer under way
  int64_t next_key_ = 0, most_generated_ = 0;
};

}  // namespace

int chat_command(const ChatOptions& options) {
  require_alone({}, "chat");
  const std::string model = find_model(options.model, options.engine.model.revision);
  Engine engine(engine_options(options.engine, model));
  const std::shared_ptr<const ChatTemplate> chat = require_chat_template("chat", model, options.chat_template, *engine.tokenizer());
  const ModelConfig& config = engine.model().config();
  const int64_t most_tokens = options.max_model_len > 0 ? options.max_model_len : std::min(config.max_positions, kUsualConversation);
  if (most_tokens > config.max_positions) fail_user("--max-model-len {}: the model takes {} tokens", most_tokens, config.max_positions);
  if (most_tokens < 2) fail_user("--max-model-len {}: there is no room for a prompt and an answer", most_tokens);
  check_stop_token_ids(options.params.stop_token_ids, config.vocab_size);
  const int64_t answer = std::min(options.params.max_tokens, most_tokens - 1), said = most_tokens - answer;
  const int64_t page_tokens = CacheLayout::page_tokens(engine.model(), engine.kv_dtype());
  Workload workload;
  workload.add(said, answer, options.params.keeps_logits(), false, {}, {options.engine.shares_prefixes() ? said / page_tokens * page_tokens : 0, 0});
  set_hardware(engine, options.engine);
  engine.prepare(workload);
  Talk talk(options, *chat, *engine.tokenizer(), config.vocab_size, most_tokens);
  const std::atomic<bool> never{false};
  engine.run(talk, talk, never);
  if (talk.failed) check_answered({&*talk.failed, 1}, "answers");
  return talk.num_refused > 0 && !talk.from_terminal() ? kExitFailed : kExitDone;
}

}  // namespace flexgen
