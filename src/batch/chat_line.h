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

/// The body's reasoning_effort for a template that knows enable_thinking alone: "none" turns thoughts off, any other on, unless chat_template_kwargs says whether.
void give_effort_as_thinking(const ChatTemplate& chat, const LineBody& body, Conversation* conversation);

/// Whether a body says this in a field of its own, so that chat_template_kwargs may not hold it.
bool is_field_of_conversation(std::string_view name);

/// All texts of the messages: for counting tokens where there is no template.
std::string texts_of(const Conversation& conversation);

}  // namespace flexgen
