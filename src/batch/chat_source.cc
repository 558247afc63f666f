#include "batch/chat_source.h"

#include <utility>

#include "base/error.h"

namespace flexgen {

ChatSource find_chat_template(const std::string& model, const std::string& file, const Tokenizer* tokenizer) {
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

}  // namespace flexgen
