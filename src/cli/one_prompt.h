#pragma once
// What commands that answer one prompt at a time (generate, chat) share. Pure functions, but for the clock.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat_answer.h"
#include "text/chat_template.h"
#include "text/jinja/value.h"

namespace flexgen {

jinja::Value chat_message(const char* role, std::string content);
/// A conversation as the template writes it out now. `kwargs`: of --chat-template-kwargs. `form`: how its answer is read. Throws Error{user} where the template refuses it.
std::string chat_prompt(const ChatTemplate& chat, std::vector<jinja::Value> messages, const std::string& kwargs, AnswerForm* form);

/// Why a text is no valid UTF-8; empty if it is.
std::string utf8_problem(std::string_view text);
/// Throws Error{user} for a text that is no valid UTF-8, as a batch's line is refused: a tokenizer would make other characters of it. `what`: "the prompt".
void check_utf8(std::string_view text, std::string_view what);
/// Throws Error{user} for a prompt's token that the model has not.
void check_prompt_tokens(std::span<const int32_t> tokens, int64_t vocab_size);
/// The same for what --stop-token-id says.
void check_stop_token_ids(std::span<const int32_t> ids, int64_t vocab_size);

}  // namespace flexgen
