#include "batch/chat_source.h"

#include <utility>

#include "base/error.h"
#include "batch/chat_line.h"
#include "io/checked_json.h"
#include "text/jinja/json_values.h"

namespace flexgen {
namespace {

constexpr const char* kKwargs = "--chat-template-kwargs";
constexpr int kMaxKwargsDepth = 100;
constexpr int64_t kMaxKwargsValues = 100'000;

}  // namespace

ChatSource find_chat_template(const std::string& model, const std::string& file, const Tokenizer* tokenizer) {
  if (!tokenizer && !file.empty())
    fail_user(
        "--chat-template {}: without a tokenizer (--skip-tokenizer-init, or a model without tokenizer files) no conversation is written out; leave it out",
        file);
  if (!tokenizer) return {nullptr, "there is no tokenizer"};
  if (!file.empty()) return {ChatTemplate::from_file(file, tokenizer->special_tokens()), ""};
  try {
    return {ChatTemplate::load(model, tokenizer->special_tokens()), ""};
  } catch (const Error& error) {
    return {nullptr, error.what()};
  }
}

void add_chat_template(const std::string& model, const std::string& file, ModelLimits* limits) {
  ChatSource source = find_chat_template(model, file, limits->tokenizer);
  limits->chat = std::move(source.chat);
  limits->no_chat = std::move(source.why_not);
}

std::shared_ptr<const ChatTemplate> require_chat_template(const std::string& who, const std::string& model, const std::string& file,
                                                          const Tokenizer& tokenizer) {
  const ChatSource source = find_chat_template(model, file, &tokenizer);
  if (!source.chat)
    fail_user("{} needs the model's chat template: {}", who, source.why_not.empty() ? model + " has none; give one with --chat-template FILE" : source.why_not);
  return source.chat;
}

TemplateVariables template_kwargs_of(const std::string& json) {
  TemplateVariables variables;
  if (json.empty()) return variables;
  parse_checked_json(json, kMaxKwargsDepth, kKwargs, "it", "correct it");
  jinja::Value given;
  try {
    given = jinja::parse_json_value(json, kMaxKwargsValues);
  } catch (const jinja::Failure& failure) {
    fail_user("{}: {}", kKwargs, failure.what());
  }
  if (!given.dict()) fail_user("{} {}: give a JSON object, like {{\"enable_thinking\": false}}", kKwargs, json);
  for (const auto& [name, value] : given.dict()->items()) {
    const std::string& text = name.text()->bytes;
    if (is_field_of_conversation(text)) fail_user("{}: a template is given '{}' anyway; leave it out", kKwargs, text);
    variables.emplace_back(text, value);
  }
  return variables;
}

void check_template_kwargs(const ChatTemplate& chat, const Conversation& conversation) {
  if (conversation.variables.empty()) return;
  const std::string name = chat.unread_field(conversation);
  if (!name.empty()) fail_user("{}: the model's chat template never looks at '{}', so the model would not see it; leave it out", kKwargs, name);
}

}  // namespace flexgen
