#include "cli/one_prompt.h"

#include <ctime>
#include <utility>

#include "base/error.h"
#include "batch/chat_source.h"
#include "text/unicode.h"

namespace flexgen {

jinja::Value chat_message(const char* role, std::string content) { return jinja::make_dict({{"role", role}, {"content", std::move(content)}}); }

std::string chat_prompt(const ChatTemplate& chat, std::vector<jinja::Value> messages, const std::string& kwargs, AnswerForm* form) {
  Conversation conversation;
  conversation.variables = template_kwargs_of(kwargs);
  conversation.messages = jinja::make_list(std::move(messages));
  check_template_kwargs(chat, conversation);
  const std::time_t now = std::time(nullptr);
  chat.check_all_is_written(conversation, now);
  std::string text = chat.render(conversation, now);
  chat.tell_form(conversation, text, form);
  return text;
}

std::string utf8_problem(std::string_view text) {
  const size_t at = invalid_utf8_at(text);
  return at == std::string_view::npos ? "" : fmt::format("byte {} is not valid UTF-8; convert the text first (iconv -t UTF-8)", at + 1);
}

void check_utf8(std::string_view text, std::string_view what) {
  if (const std::string problem = utf8_problem(text); !problem.empty()) fail_user("{}: {}", what, problem);
}

void check_prompt_tokens(std::span<const int32_t> tokens, int64_t vocab_size) {
  for (const int32_t id : tokens)
    if (id >= vocab_size) fail_user("the tokenizer gives the id {}, the model's vocabulary has {}", id, vocab_size);
}

void check_stop_token_ids(std::span<const int32_t> ids, int64_t vocab_size) {
  for (const int32_t id : ids)
    if (id >= vocab_size) fail_user("--stop-token-id {}: the model has ids from 0 to {}", id, vocab_size - 1);
}

}  // namespace flexgen
