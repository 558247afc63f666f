#include "batch/chat_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace flexgen {
namespace {

using jinja::Value;

constexpr const char* kMessages = "body.messages";
constexpr const char* kTools = "body.tools";

/// A list of objects; null if it is not there.
const Value* list_of_objects(const LineJson& line, const LineBody& body, const char* name) {
  const std::string path = LineBody::path(name);
  const Value* value = line.value(name);
  if (!value && !body.find(name)) return nullptr;
  if (!value || !value->list()) refuse_value(path, fmt::format("must be a list of objects, not {}", shown_value(*body.find(name))));
  size_t index = 0;
  for (const Value& item : value->list()->items) {
    if (!item.dict()) refuse_value(path, fmt::format("must be a list of objects; its item {} is none", index));
    ++index;
  }
  return value;
}

/// `where`: "messages[2]".
[[noreturn]] void refuse_message(const std::string& where, const std::string& why) { refuse("invalid_value", kMessages, where + ": " + why); }

void check_part(const Value& part, const std::string& where) {
  if (!part.dict()) refuse_message(where, "a part of the content is no object");
  const Value* type = part.member("type");
  const std::string name = type && type->text() ? type->text()->bytes : "";
  if (name != "text")
    refuse("unsupported_parameter", kMessages, fmt::format("{} has a part of the type {}; only \"text\" is supported", where, quote_text(name)));
  const Value* text = part.member("text");
  if (!text || !text->text()) refuse_message(where, "a part of the type \"text\" has no text");
}

void check_call(const Value& call, const std::string& where) {
  const Value* function = call.member("function");
  const Value* name = function ? function->member("name") : nullptr;
  const Value* arguments = function ? function->member("arguments") : nullptr;
  if (!name || !name->text() || (arguments && !arguments->text() && !arguments->dict()))
    refuse_message(where, R"(an item of tool_calls is no object with "function": {"name": text, "arguments": text of JSON})");
}

void check_message(const Value& message, const std::string& where) {
  const Value* role = message.member("role");
  if (!role || !role->text() || role->text()->bytes.empty()) refuse_message(where, "role is missing, or not a text");
  const Value *content = message.member("content"), *calls = message.member("tool_calls");
  for (const char* name : {"function_call", "audio", "refusal"})
    if (const Value* value = message.member(name); value && !(value->text() && value->text()->bytes.empty()))
      refuse("unsupported_parameter", kMessages, fmt::format("{} has the field '{}', which is not supported", where, name));
  if (!content && !calls && role->text()->bytes != "assistant") refuse_message(where, "content is missing");
  if (content && !content->text() && !content->list()) refuse_message(where, "content must be a text or a list of parts");
  if (content && content->list())
    for (const Value& part : content->list()->items) check_part(part, where);
  if (calls && !calls->list()) refuse_message(where, "tool_calls must be a list");
  if (calls)
    for (const Value& call : calls->list()->items) check_call(call, where);
}

void check_tools(const Value& tools) {
  for (const Value& tool : tools.list()->items) {
    const Value *type = tool.member("type"), *function = tool.member("function");
    if (!type || !type->text() || type->text()->bytes != "function")
      refuse("unsupported_parameter", kTools, fmt::format("{}: only tools of the type \"function\" are supported", kTools));
    const Value* name = function ? function->member("name") : nullptr;
    if (!name || !name->text()) refuse_value(kTools, "has a tool that is no {\"type\": \"function\", \"function\": {\"name\": text, ...}}");
  }
}

/// Whether the last message is to be gone on with, as Mistral's and DeepSeek's API have it said in the message itself.
bool has_prefix(const Value& messages) {
  const auto& all = messages.list()->items;
  for (size_t i = 0; i < all.size(); ++i) {
    const Value* prefix = all[i].member("prefix");
    if (!prefix) continue;
    const std::string where = fmt::format("messages[{}]", i);
    if (!prefix->is<bool>()) refuse_message(where, "prefix must be true or false");
    if (!*prefix->get<bool>()) continue;
    if (i + 1 < all.size() || all[i].member("role")->text()->bytes != "assistant")
      refuse_message(where, "prefix is true; only the last message may have it, and only of the role assistant: the answer goes on with its text");
    return true;
  }
  return false;
}

/// Whether the answer goes on with the last message, or the text ends where one begins.
void set_end(const LineBody& body, Conversation* conversation) {
  const bool prefix = has_prefix(conversation->messages);
  if (prefix && !body.flag("continue_final_message", true))
    refuse_value("body.continue_final_message", "is false, and the last message has prefix true; both say whether the answer goes on with it, so give one");
  conversation->continue_final_message = prefix || body.flag("continue_final_message");
  conversation->add_generation_prompt = body.flag("add_generation_prompt", !conversation->continue_final_message);
  if (conversation->continue_final_message && conversation->add_generation_prompt)
    refuse_value("body.continue_final_message",
                 fmt::format("is true{}, and so is add_generation_prompt; the text goes on with the last message or begins a new one, so give one",
                             prefix ? " by the last message's prefix" : ""));
}

/// chat_template_kwargs, and what is given by a field of its own.
void set_variables(const LineJson& line, const LineBody& body, Conversation* conversation) {
  constexpr const char* kPath = "body.chat_template_kwargs";
  const nlohmann::json* effort = body.find("reasoning_effort");
  if (effort && !effort->is_string()) refuse_value("body.reasoning_effort", fmt::format("must be a string, not {}", shown_value(*effort)));
  const Value* given = line.value("chat_template_kwargs");
  if (const nlohmann::json* field = body.find("chat_template_kwargs"); field && !(given && given->dict()))
    refuse_value(kPath, fmt::format("must be an object, not {}", shown_value(*field)));
  if (given)
    for (const auto& [name, value] : given->dict()->items()) {
      const std::string& text = name.text()->bytes;
      if (is_field_of_conversation(text)) refuse_value(kPath, fmt::format("holds {}, which is a field of the body; give it there", quote_text(text)));
      conversation->variables.emplace_back(text, value);
    }
  if (effort) conversation->variables.emplace_back("reasoning_effort", effort->get<std::string>());  // the first of a name counts
}

}  // namespace

Conversation parse_conversation(const LineJson& line, const LineBody& body) {
  Conversation conversation;
  const Value* messages = list_of_objects(line, body, "messages");
  if (!messages) refuse_value(kMessages, "is missing");
  if (messages->list()->items.empty()) refuse_value(kMessages, "is empty");
  size_t index = 0;
  for (const Value& message : messages->list()->items) check_message(message, fmt::format("messages[{}]", index++));
  conversation.messages = *messages;
  if (const Value* tools = list_of_objects(line, body, "tools"); tools && !tools->list()->items.empty()) {
    check_tools(*tools);
    conversation.tools = *tools;
  }
  if (const Value* documents = list_of_objects(line, body, "documents")) conversation.documents = *documents;
  set_variables(line, body, &conversation);
  set_end(body, &conversation);
  return conversation;
}

void give_effort_as_thinking(const ChatTemplate& chat, const LineBody& body, Conversation* conversation) {
  constexpr const char *kEffort = "reasoning_effort", *kThinking = "enable_thinking";
  const nlohmann::json* effort = body.find(kEffort);
  if (!effort || chat.mentions(*conversation, kEffort) || !chat.mentions(*conversation, kThinking)) return;
  TemplateVariables& variables = conversation->variables;
  std::erase_if(variables, [&](const auto& variable) { return variable.first == kEffort; });
  variables.emplace_back(kThinking, *effort != "none");  // the first of a name counts
}

bool is_field_of_conversation(std::string_view name) {
  static constexpr std::array kFields{"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template"};
  return std::find(kFields.begin(), kFields.end(), name) != kFields.end();
}

std::string texts_of(const Conversation& conversation) {
  std::string text;
  for (const Value& message : conversation.messages.list()->items) {
    const Value* content = message.member("content");
    if (!content) continue;
    if (content->text()) text += content->text()->bytes;
    else
      for (const Value& part : content->list()->items) text += part.member("text")->text()->bytes;
  }
  return text;
}

}  // namespace flexgen
