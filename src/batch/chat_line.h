#pragma once
// ChatLine: the conversation of a /v1/chat/completions line. Pure functions; any thread.

#include <string>
#include <string_view>

#include "batch/line_body.h"
#include "batch/line_json.h"
#include "text/chat_answer.h"
#include "text/chat_template.h"

namespace flexgen {

/// The conversation of a body, as a chat template takes it. Throws Refusal that names the field, the message and what is wrong with it.
Conversation parse_conversation(const LineJson& line, const LineBody& body);

/// All texts of the messages: for counting tokens where there is no template.
std::string texts_of(const Conversation& conversation);

}  // namespace flexgen
