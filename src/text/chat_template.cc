#include "text/chat_template.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>

#include "base/error.h"
#include "io/checked_json.h"
#include "io/gguf.h"
#include "io/lfs_pointer.h"
#include "io/python_json.h"
#include "io/whole_file.h"
#include "text/chat_harmony.h"
#include "text/gguf_tokenizer.h"
#include "text/jinja/characters.h"
#include "text/jinja/json_values.h"

namespace flexgen {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using jinja::Dict;
using jinja::Value;

constexpr int64_t kMaxTemplateFileBytes = 64 << 20;
constexpr int kMaxJsonDepth = 64;
constexpr size_t kMaxTemplates = 100;
constexpr const char* kDefaultName = "default";
constexpr const char* kToolsName = "tool_use";
constexpr std::string_view kContinueTag = "CONTINUE_FINAL_MESSAGE_TAG ";
/// A message's thoughts go by any of these.
constexpr std::array kReasoningNames{"reasoning_content", "thinking", "reasoning"};
constexpr int64_t kMaxArgumentValues = 100'000;

std::string read_text(const fs::path& path) {
  std::string text = read_whole_file(path.string(), kMaxTemplateFileBytes);
  if (is_lfs_pointer(text)) refuse_lfs_pointer(path.string());
  return text;
}

using Templates = std::map<std::string, std::string>;

/// The field chat_template: a text, or a list of objects with a name and a template.
Templates templates_in(const fs::path& path) {
  Templates templates;
  if (!file_is_there(path.string())) return templates;
  const Json json = parse_checked_json(with_large_numbers_for_python(read_text(path)), kMaxJsonDepth, path.string(), "the text");
  const auto field = json.is_object() ? json.find("chat_template") : json.end();
  if (!json.is_object() || field == json.end() || field->is_null()) return templates;
  if (field->is_string()) {
    templates[kDefaultName] = field->get<std::string>();
    return templates;
  }
  const auto broken = [&] { fail_user("{}: the field 'chat_template' is neither a text nor a list of objects with 'name' and 'template'", path.string()); };
  if (!field->is_array() || field->size() > kMaxTemplates) broken();
  for (const Json& entry : *field) {
    if (!entry.is_object() || !entry.contains("name") || !entry["name"].is_string() || !entry.contains("template") || !entry["template"].is_string()) broken();
    templates[entry["name"].get<std::string>()] = entry["template"].get<std::string>();
  }
  return templates;
}

Templates templates_beside(const fs::path& root) {
  Templates templates;
  if (const fs::path path = root / "chat_template.jinja"; file_is_there(path.string())) templates[kDefaultName] = read_text(path);
  const fs::path folder = root / "additional_chat_templates";
  std::error_code error;
  if (!fs::is_directory(folder, error)) return templates;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() != ".jinja") continue;
    if (templates.size() > kMaxTemplates) fail_user("{} holds more than {} chat templates", folder.string(), kMaxTemplates);
    templates[entry.path().stem().string()] = read_text(entry.path());
  }
  if (error) fail_io("cannot list {}: {}", folder.string(), error.message());
  return templates;
}

Value with(const Dict& dict, std::string_view name, Value value) {
  std::vector<Dict::Item> items = dict.items();
  items.emplace_back(name, std::move(value));
  return jinja::make_dict(std::move(items));
}

/// OpenAI gives a call's arguments as a text of JSON; templates want what it says. A call without any has an empty object, as in vLLM.
Value parsed_arguments(const Value* arguments) {
  const jinja::Text* text = arguments ? arguments->text() : nullptr;
  if (!text || text->bytes.empty()) return jinja::make_dict({});
  try {
    if (Value inner = jinja::parse_json_value(text->bytes, kMaxArgumentValues); inner.dict()) return inner;
  } catch (const jinja::Failure&) {  // no JSON: it stays a text
  }
  return *arguments;
}

Value parsed_calls(const Value& calls) {
  if (!calls.list()) return calls;
  std::vector<Value> parsed;
  for (const Value& call : calls.list()->items) {
    const Value* function = call.dict() ? call.dict()->find(std::string_view("function")) : nullptr;
    const Value* arguments = function && function->dict() ? function->dict()->find(std::string_view("arguments")) : nullptr;
    const bool is_parsed = arguments && !arguments->none() && !arguments->text();
    if (!function || !function->dict() || is_parsed) parsed.push_back(call);
    else parsed.push_back(with(*call.dict(), "function", with(*function->dict(), "arguments", parsed_arguments(arguments))));
  }
  return jinja::make_list(std::move(parsed));
}

/// The texts of a content's parts, a line each; none if something else is among them.
std::optional<std::string> joined_parts(const Value& content) {
  if (!content.list()) return std::nullopt;
  std::string text;
  for (const Value& part : content.list()->items) {
    const Value* own = part.dict() ? part.dict()->find(std::string_view("text")) : nullptr;
    if (!own || !own->text()) return std::nullopt;
    if (&part != content.list()->items.data()) text += "\n";
    text += own->text()->bytes;
  }
  return text;
}

bool is_empty_list(const Value& value) { return value.list() && value.list()->items.empty(); }

/// As transformers hands messages over: without members that are null, thoughts under all of their names, arguments of calls as values. And as vLLM does: a list of no calls
/// is left out, and the content of an answer that has neither that nor calls is empty, as many templates look at one.
Value prepared(const Value& message, bool takes_parts) {
  if (!message.dict()) return message;
  std::vector<Dict::Item> items;
  for (const auto& [name, value] : message.dict()->items()) {
    const bool no_calls = name.text() && name.text()->bytes == "tool_calls" && is_empty_list(value);
    if (value.none() || no_calls) continue;
    const bool content = name.text() && name.text()->bytes == "content", calls = name.text() && name.text()->bytes == "tool_calls";
    if (calls) items.emplace_back(name, parsed_calls(value));
    else if (auto text = content && !takes_parts ? joined_parts(value) : std::nullopt) items.emplace_back(name, *text);
    else items.emplace_back(name, value);
  }
  const Dict kept(items);
  for (const char* name : kReasoningNames)
    if (const Value* thoughts = kept.find(std::string_view(name))) {
      items.insert(items.begin(), {Value("thinking"), *thoughts});
      items.emplace_back("reasoning_content", *thoughts);
      break;
    }
  if (!kept.find(std::string_view("content")) && !kept.find(std::string_view("tool_calls"))) items.emplace_back("content", "");
  return jinja::make_dict(std::move(items));
}

[[noreturn]] void refuse_no_text_to_go_on_with() { fail_user("continue_final_message: the last message has no text to go on with"); }

/// The last message with a tag behind its text. `final_text`: what it was.
Value tagged(const Value& messages, std::string* final_text) {
  std::vector<Value> all = messages.list()->items;
  if (all.empty() || !all.back().dict()) refuse_no_text_to_go_on_with();
  const Dict& last = *all.back().dict();
  const Value* content = last.find(std::string_view("content"));
  if (!content) refuse_no_text_to_go_on_with();
  if (content->text()) {
    *final_text = content->text()->bytes;
    all.back() = with(last, "content", *final_text + std::string(kContinueTag));
    return jinja::make_list(std::move(all));
  }
  std::vector<Value> parts = content->list() ? content->list()->items : std::vector<Value>();
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    const Value* text = part->dict() ? part->dict()->find(std::string_view("text")) : nullptr;
    if (!text || !text->text()) continue;
    *final_text = text->text()->bytes;
    *part = with(*part->dict(), "text", *final_text + std::string(kContinueTag));
    all.back() = with(last, "content", jinja::make_list(std::move(parts)));
    return jinja::make_list(std::move(all));
  }
  refuse_no_text_to_go_on_with();
}

/// Whether the last message, where it is to be gone on with, stands within a thought.
bool goes_on_in_thought(const Conversation& conversation, const ThoughtMarks& marks) {
  if (!conversation.continue_final_message || conversation.messages.list()->items.empty()) return false;
  const Value* content = conversation.messages.list()->items.back().member("content");
  return content && content->text() && stands_in_thought(content->text()->bytes, marks);
}

/// What was written out up to the tag.
std::string before_tag(std::string text, std::string_view final_text) {
  const std::string_view tag = jinja::strip(kContinueTag, "", true, true);
  const size_t at = text.rfind(tag);
  if (at == std::string::npos || text.find(jinja::strip(final_text, "", true, true)) == std::string::npos)
    fail_user("continue_final_message: the chat template leaves the last message out, or changes its text");
  const bool whole = std::string_view(text).substr(at).starts_with(kContinueTag);
  text.resize(at);
  // Where the template cuts blanks off the message, there are none to go on from.
  return whole ? text : std::string(jinja::strip(text, "", false, true));
}

constexpr std::string_view kNeedle = "needle";

/// A text to look for in the place of a message's.
std::string needle(size_t index) { return fmt::format("{0}{1}{0}", kNeedle, index); }

/// Which of so many needles are in the text, in one pass.
std::vector<bool> needles_in(std::string_view text, size_t count) {
  std::vector<bool> found(count);
  for (size_t at = text.find(kNeedle); at != std::string_view::npos; at = text.find(kNeedle, at)) {
    at += kNeedle.size();  // the end of one may begin the next
    size_t index = 0;
    const auto [end, error] = std::from_chars(text.data() + at, text.data() + text.size(), index);
    if (error == std::errc() && index < count && text.substr(at - kNeedle.size()).starts_with(needle(index))) found[index] = true;
  }
  return found;
}

}  // namespace

ChatTemplate::ChatTemplate(const Templates& templates, std::string source, SpecialTokens special_tokens)
    : source_(std::move(source)), special_tokens_(std::move(special_tokens)) {
  for (const auto& [name, text] : templates) {
    try {
      templates_.emplace(name, Named{jinja::Template(text), thought_marks_of(text), call_form_of(text), text.find("tool_calls") != std::string::npos});
    } catch (const jinja::TemplateError& error) {
      fail_user("{}: the chat template{}, line {}: {}", source_, name == kDefaultName ? "" : fmt::format(" '{}'", printable(name)), error.line(), error.what());
    }
  }
  if (!templates_.contains(kDefaultName)) {
    std::string names;
    for (const auto& [name, named] : templates_) names += (names.empty() ? "'" : ", '") + printable(name) + "'";
    fail_user("{} has the chat templates {} and none named '{}', so none is the model's own; give one with --chat-template FILE", source_, names, kDefaultName);
  }
  for (auto& [name, named] : templates_) named.takes_parts = finds_parts(named);
}

std::shared_ptr<const ChatTemplate> ChatTemplate::load(const std::string& directory, const SpecialTokens& special_tokens) {
  if (is_gguf(directory)) {
    const Templates templates = read_gguf_chat_templates(directory);
    return templates.empty() ? nullptr : std::make_shared<const ChatTemplate>(templates, directory, special_tokens);
  }
  const fs::path root(directory);
  Templates templates = templates_beside(root);
  std::string source = (root / "chat_template.jinja").string();
  for (const char* file : {"tokenizer_config.json", "chat_template.json"}) {
    if (!templates.empty()) break;
    source = (root / file).string();
    templates = templates_in(root / file);
  }
  return templates.empty() ? nullptr : std::make_shared<const ChatTemplate>(templates, source, special_tokens);
}

std::shared_ptr<const ChatTemplate> ChatTemplate::from_file(const std::string& path, const SpecialTokens& special_tokens) {
  // A checkpoint's chat_template.json or tokenizer_config.json; a template is no JSON object.
  const std::string text = read_text(path);
  if (!json_or_none<Json>(text).is_object()) return std::make_shared<const ChatTemplate>(Templates{{kDefaultName, text}}, path, special_tokens);
  const Templates templates = templates_in(path);
  if (templates.empty()) fail_user("{} is JSON without a chat_template; give the template itself, or a chat_template.json", path);
  return std::make_shared<const ChatTemplate>(templates, path, special_tokens);
}

const ChatTemplate::Named& ChatTemplate::plain() const { return templates_.at(kDefaultName); }

const ChatTemplate::Named& ChatTemplate::chosen(const Conversation& conversation) const {
  const auto with_tools = templates_.find(kToolsName);
  return conversation.tools.none() || with_tools == templates_.end() ? plain() : with_tools->second;
}

void ChatTemplate::tell_form(const Conversation& conversation, std::string_view prompt, AnswerForm* form) const {
  const std::optional<ThoughtMarks> marks = thought_marks(conversation);
  form->thinks = marks.has_value();
  form->marks = marks.value_or(kUsualThoughtMarks);
  form->begins_in_thought = form->thinks && (ends_in_thought(prompt, form->marks) || goes_on_in_thought(conversation, form->marks));
  form->channels = call_form() == CallForm::kHarmony;
  if (form->channels) form->begun = begun_harmony_message(prompt);
}

CallForm ChatTemplate::call_form() const {
  const auto with_tools = templates_.find(kToolsName);
  return with_tools == templates_.end() ? plain().calls : with_tools->second.calls;
}

/// Whether the template goes through the parts of a content and writes their texts.
bool ChatTemplate::finds_parts(const Named& named) const {
  constexpr const char* kText = "a text to look for";
  const Value part = jinja::make_dict({{"type", "text"}, {"text", kText}});
  Conversation probe;
  probe.messages = jinja::make_list({jinja::make_dict({{"role", "user"}, {"content", jinja::make_list({part})}})});
  try {
    const std::string text = run(named, probe.messages, probe, 0);
    return text.find(kText) != std::string::npos && text.find(std::string("'") + kText) == std::string::npos &&
           text.find(std::string("\"") + kText) == std::string::npos;
  } catch (const Error&) {
    return false;
  }
}

std::string ChatTemplate::unread_field(const Conversation& conversation) const {
  const jinja::Template& compiled = chosen(conversation).compiled;
  if (!conversation.tools.none() && !compiled.mentions("tools")) return "tools";
  if (conversation.documents.list() && !conversation.documents.list()->items.empty() && !compiled.mentions("documents")) return "documents";
  for (const auto& [name, value] : conversation.variables)
    if (!compiled.mentions(name)) return name;
  return "";
}

// Every message gets a text to look for in the place of its content, all in one go: what a template does to a content (it trims it, takes thoughts out of it, writes it
// in other letters, raises an error at a role) leaves that text in, or is said when the conversation is written out.
void ChatTemplate::check_all_is_written(const Conversation& conversation, std::time_t now) const {
  const Named& named = chosen(conversation);
  const auto advice = "change it, or give another template with --chat-template FILE";
  std::vector<Value> messages;
  std::vector<std::pair<size_t, std::string>> looked_for;  // of which message, its role
  for (const Value& message : conversation.messages.list()->items) {
    const size_t index = messages.size();
    const Value *role = message.member("role"), *content = message.member("content"), *calls = message.member("tool_calls");
    const bool has_calls = calls && calls->list() && !calls->list()->items.empty();
    if (has_calls && !named.writes_calls) fail_user("messages[{}] has tool_calls, which the model's chat template leaves out; {}", index, advice);
    messages.push_back(prepared(message, named.takes_parts));
    const bool is_empty = !content || (content->text() ? content->text()->bytes.empty() : !content->list() || content->list()->items.empty());
    if (is_empty || has_calls) continue;  // many write calls alone, whatever is said before them
    Value text = needle(index);
    if (named.takes_parts && content->list()) text = jinja::make_list({jinja::make_dict({{"type", "text"}, {"text", text}})});
    messages.back() = with(*messages.back().dict(), "content", std::move(text));
    looked_for.emplace_back(index, role && role->text() ? role->text()->bytes : "");
  }
  if (looked_for.empty()) return;
  std::string text;
  try {
    text = run(named, jinja::make_list(std::move(messages)), conversation, now);
  } catch (const Error&) {  // what is wrong is said when it is written out
    return;
  }
  const std::vector<bool> written = needles_in(jinja::to_lower(text), conversation.messages.list()->items.size());
  for (const auto& entry : looked_for) {
    const size_t index = entry.first;
    const std::string& role = entry.second;
    if (written[index]) continue;
    const bool others = std::any_of(looked_for.begin(), looked_for.end(), [&](const auto& other) { return other.second == role && written[other.first]; });
    if (others) fail_user("messages[{}] is left out by the model's chat template, which writes others of its role '{}'; {}", index, printable(role), advice);
    fail_user("messages[{}] has the role '{}', which the model's chat template leaves out; {}", index, printable(role), advice);
  }
}

std::string ChatTemplate::run(const Named& named, const Value& messages, const Conversation& conversation, std::time_t now) const {
  TemplateVariables variables = conversation.variables;
  for (const auto& [token, text] : special_tokens_) variables.emplace_back(token, text);
  variables.emplace_back("messages", messages);
  variables.emplace_back("tools", conversation.tools);
  variables.emplace_back("documents", conversation.documents);
  variables.emplace_back("add_generation_prompt", conversation.add_generation_prompt);
  try {
    return named.compiled.render(variables, now);
  } catch (const jinja::TemplateError& error) {
    if (error.raised()) fail_user("the chat template refuses the conversation: {}", printable(error.what()));
    fail_user("the chat template of {}, line {}: {}", source_, error.line(), printable(error.what()));
  }
}

std::string ChatTemplate::render(const Conversation& conversation, std::time_t now) const {
  const Named& named = chosen(conversation);
  Value all;
  try {
    std::vector<Value> messages;
    for (const Value& message : conversation.messages.list()->items) messages.push_back(prepared(message, named.takes_parts));
    all = jinja::make_list(std::move(messages));
  } catch (const jinja::Failure& failure) {  // arguments of calls that are nested too deep where they stand
    fail_user("the messages: {}", failure.what());
  }
  if (!conversation.continue_final_message) return run(named, all, conversation, now);
  if (conversation.add_generation_prompt) fail_user("continue_final_message and add_generation_prompt exclude each other");
  const std::vector<Value>& given = conversation.messages.list()->items;
  if (!given.empty() && !given.back().member("content")) refuse_no_text_to_go_on_with();
  std::string final_text;
  all = tagged(all, &final_text);
  return before_tag(run(named, all, conversation, now), final_text);
}

}  // namespace flexgen
