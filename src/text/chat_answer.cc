#include "text/chat_answer.h"

#include <algorithm>

#include "text/call_text.h"
#include "text/chat_harmony.h"
#include "text/jinja/characters.h"
#include "text/literal_calls.h"
#include "text/xml_calls.h"

namespace flexgen {
namespace {

using call_text::behind_json;
using call_text::end_of_json;
using call_text::Found;
using call_text::json_of;
using call_text::parsed;
using call_text::trimmed;
using jinja::Value;

constexpr std::array kJsonMarks{JsonMarks{CallForm::kHermes, "<tool_call>", "</tool_call>"},
                                JsonMarks{CallForm::kCommand, "<|START_ACTION|>", "<|END_ACTION|>", "tool_name"},
                                JsonMarks{CallForm::kGranite, "<|tool_call|>", "", "name", "<tool_call>"},
                                JsonMarks{CallForm::kPhi, "<|tool_call|>", "<|/tool_call|>"}, JsonMarks{CallForm::kHunyuan, "<tool_calls>", "</tool_calls>"}};
constexpr std::string_view kPythonTag = "<|python_tag|>";
constexpr std::string_view kCalls = "[TOOL_CALLS]", kArguments = "[ARGS]", kCallId = "[CALL_ID]";

const Value* member(const Value& dict, std::string_view name) { return dict.dict()->find(name); }

/// {"name": ..., "arguments" or "parameters": {...}}. Throws Failure for anything else.
ToolCall call_of(const Value& value, std::string_view name_of_name = "name") {
  if (!value.dict()) jinja::fail("no object");
  const Value* name = member(value, name_of_name);
  const Value* arguments = member(value, "arguments");
  if (!arguments) arguments = member(value, "parameters");
  if (!name || !name->text() || !arguments) jinja::fail("no name, or no arguments");
  return {name->text()->bytes, json_of(*arguments)};
}

Found json_calls(std::string_view text, const JsonMarks& marks, bool held) {
  const bool is_usual = held || marks.other_begin.empty() || text.find(marks.begin) != std::string_view::npos;
  const std::string_view begin = is_usual ? marks.begin : marks.other_begin;
  Found found{text.find(begin), {}};
  for (size_t at = found.begin; at != std::string_view::npos; at = text.find(begin, at)) {
    at += begin.size();
    const size_t end = std::min(text.find(marks.end.empty() ? begin : marks.end, behind_json(text, at)), text.size());
    const Value calls = parsed(text.substr(at, end - at));
    if (!calls.list()) found.calls.push_back(call_of(calls, marks.name));
    else
      for (const Value& call : calls.list()->items) found.calls.push_back(call_of(call, marks.name));
    at = end;
  }
  return found;
}

Found llama_calls(std::string_view text) {
  Found found;
  std::string_view rest = trimmed(text);
  if (rest.starts_with(kPythonTag)) rest = trimmed(rest.substr(kPythonTag.size()));
  while (rest.starts_with('{')) {
    const size_t end = end_of_json(rest);
    if (end == std::string_view::npos) jinja::fail("it ends within a call");
    found.calls.push_back(call_of(parsed(rest.substr(0, end))));
    rest = trimmed(rest.substr(end));
    if (rest.starts_with(';')) rest = trimmed(rest.substr(1));
  }
  if (!rest.empty()) found.calls.clear();  // a text that only begins like a call
  return found;
}

Found mistral_calls(std::string_view text) {
  Found found{text.find(kCalls), {}};
  for (size_t at = found.begin; at != std::string_view::npos;) {
    at += kCalls.size();
    const bool is_list = jinja::strip(text.substr(at), "", true, false).starts_with('[');
    const size_t first = text.find('{', at);
    const size_t next = text.find(kCalls, is_list ? behind_json(text, at) : first < text.find(kCalls, at) ? behind_json(text, first) : at);
    const std::string_view part = trimmed(text.substr(at, next == std::string_view::npos ? next : next - at));
    if (part.starts_with('[')) {
      const Value list = parsed(part.substr(0, end_of_json(part)));
      if (!list.list()) jinja::fail("no list");
      for (const Value& call : list.list()->items) found.calls.push_back(call_of(call));
    } else {
      const size_t brace = part.find('{');
      if (brace == std::string_view::npos) jinja::fail("no arguments");
      std::string_view name = part.substr(0, brace);
      name = trimmed(name.substr(0, std::min(name.find(kArguments), name.find(kCallId))));
      if (name.empty()) jinja::fail("no name");
      found.calls.push_back({std::string(name), json_of(parsed(part.substr(brace)))});
    }
    at = next;
  }
  return found;
}

Found calls_of(std::string_view text, const AnswerForm& form) {
  try {
    if (const JsonMarks* marks = json_marks(form.calls)) return json_calls(text, *marks, form.held_calls);
    if (const XmlMarks* marks = xml_marks(form.calls)) return xml_calls(text, *marks, form.types.get(), form.held_calls);
    if (form.calls == CallForm::kLlama) return llama_calls(text);
    if (form.calls == CallForm::kGemma) return gemma_calls(text);
    if (form.calls == CallForm::kOlmo) return olmo_calls(text);
    if (is_mistral(form.calls)) return mistral_calls(text);
  } catch (const jinja::Failure&) {
  }
  return {};
}

/// Where the answer begins with the mark of a thought, what stands behind that.
std::optional<std::string_view> behind_begin(std::string_view text, const ThoughtMarks& marks) {
  const std::string_view start = jinja::strip(text, "", true, false);
  return start.starts_with(marks.begin) ? std::optional(start.substr(marks.begin.size())) : std::nullopt;
}

std::string_view without_label(std::string_view opened, const ThoughtMarks& marks) {
  return opened.starts_with(marks.label) ? opened.substr(marks.label.size()) : opened;
}

/// What is said behind thoughts.
std::string_view said_behind(std::string_view text, const AnswerForm& form) {
  if (form.structured) text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
  return text;
}

/// Takes the thoughts off the front of `text`. An end mark alone is text: nothing was opened that it could end.
std::optional<std::string> take_thoughts(std::string_view& text, const AnswerForm& form) {
  const std::optional<std::string_view> opened = behind_begin(text, form.marks);
  if (!form.thinks || (!opened && !form.begins_in_thought)) return std::nullopt;
  const size_t end = text.find(form.marks.end);
  const std::string_view from = opened ? without_label(*opened, form.marks) : text;
  const std::string thoughts(end == std::string_view::npos ? from : from.substr(0, from.size() - (text.size() - end)));
  text = end == std::string_view::npos ? std::string_view() : text.substr(end + form.marks.end.size());
  return thoughts;
}

/// What stands between an answer's marks, where it begins with one: that which ends it counts where nothing follows.
struct MarkedAnswer {
  std::string_view text;
  bool begun = false, ended = false;
};

MarkedAnswer within_marks(std::string_view text, const ThoughtMarks& marks) {
  const std::string_view start = jinja::strip(text, "", true, false);
  if (marks.answer_begin.empty() || !start.starts_with(marks.answer_begin)) return {text};
  const std::string_view answer = start.substr(marks.answer_begin.size()), to_end = jinja::strip(answer, "", false, true);
  if (!to_end.ends_with(marks.answer_end)) return {answer, true, false};
  return {to_end.substr(0, to_end.size() - marks.answer_end.size()), true, true};
}

/// Without the part of a mark that may have begun.
std::string_view without_begun_end(std::string_view text, std::string_view mark) {
  size_t part = std::min(text.size(), mark.size() - 1);
  while (!mark.starts_with(text.substr(text.size() - part))) --part;
  return text.substr(0, text.size() - part);
}

/// Of an answer that is under way, what stays whatever comes.
std::string_view settled_within_marks(std::string_view text, const ThoughtMarks& marks) {
  if (!marks.answer_begin.empty() && marks.answer_begin.starts_with(jinja::strip(text, "", true, false))) return {};  // it may begin with the mark
  const MarkedAnswer answer = within_marks(text, marks);
  return answer.begun && !answer.ended ? without_begun_end(answer.text, marks.answer_end) : answer.text;
}

void add_part(std::optional<std::string>* whole, std::string_view part) {
  if (!*whole) *whole = "";
  else **whole += '\n';
  **whole += part;
}

/// `at_end`: nothing comes any more.
ChatAnswer harmony_answer(std::string_view text, const AnswerForm& form, bool at_end) {
  constexpr std::string_view kFunctions = "functions.";
  const std::string whole = form.begun + std::string(at_end ? text : without_begun_mark(text));
  const HarmonyAnswer read = read_harmony(whole);
  ChatAnswer answer;
  for (const HarmonyMessage& message : read.messages) {
    const bool is_call = form.calls == CallForm::kHarmony && message.recipient.starts_with(kFunctions);
    if (is_call) {
      if (!message.ended && !at_end) continue;  // it may be broken
      try {
        answer.calls.push_back({std::string(message.recipient.substr(kFunctions.size())), json_of(parsed(message.text))});
      } catch (const jinja::Failure&) {
        add_part(&answer.content, message.text);
      }
    } else if (message.channel == "analysis" || !message.recipient.empty()) {
      add_part(&answer.reasoning, message.text);
    } else {
      add_part(&answer.content, message.text);
    }
  }
  // Text without a header; of a header that is cut off nothing is text.
  std::string_view rest = read.rest;
  if (read.messages.empty() && rest.starts_with(form.begun)) rest.remove_prefix(form.begun.size());
  if (at_end && !rest.empty() && !rest.starts_with("<|")) add_part(&answer.content, rest);
  if (form.one_call && answer.calls.size() > 1) answer.calls.resize(1);
  if (!at_end) answer.calls.clear();
  else if (!answer.content && !answer.reasoning && answer.calls.empty()) answer.content = "";
  return answer;
}

}  // namespace

const JsonMarks* json_marks(CallForm form) {
  const auto* found = std::find_if(kJsonMarks.begin(), kJsonMarks.end(), [&](const JsonMarks& marks) { return marks.form == form; });
  return found == kJsonMarks.end() ? nullptr : found;
}

CallForm call_form_of(std::string_view source) {
  const auto has = [&](std::string_view text) { return source.find(text) != std::string_view::npos; };
  if (writes_harmony(source)) return CallForm::kHarmony;
  if (has(kCalls)) return !has(kArguments) ? CallForm::kMistral : has(kCallId) ? CallForm::kMistralNumbered : CallForm::kMistralNamed;
  const bool has_functions = has("<function=") && has("<parameter="), has_invokes = has("<invoke name=");
  if (has("<seed:tool_call>")) return has_functions ? CallForm::kSeedXml : CallForm::kNone;
  if (has("<minimax:tool_call>")) return has_invokes ? CallForm::kMiniMax : CallForm::kNone;
  if (has("<tool_calls>[") && has("</tool_calls>")) return CallForm::kHunyuan;
  if (has("<tool_call>")) {  // others put XML between the same marks
    if (has("<arg_key>")) return has("<arg_value>") ? CallForm::kGlm : CallForm::kNone;
    if (has_functions) return CallForm::kQwenXml;
    return has("<function=") || has("<parameter=") || has_invokes ? CallForm::kNone : CallForm::kHermes;
  }
  if (has("<|START_ACTION|>") && has("<|END_ACTION|>") && has("tool_name")) return CallForm::kCommand;
  if (has("<|start_header_id|>") && has("\"parameters\": ")) return CallForm::kLlama;
  if (has(kGemmaCall) && has(kGemmaCallEnd) && has(kGemmaQuote)) return CallForm::kGemma;
  if (has("<|tool_call|>")) return has("<|/tool_call|>") ? CallForm::kPhi : CallForm::kGranite;
  if (has(kOlmoCalls) && has("<functions>") && !has_invokes) return CallForm::kOlmo;
  return CallForm::kNone;
}

std::optional<ThoughtMarks> thought_marks_of(std::string_view source) {
  const auto has = [&](std::string_view text) { return source.find(text) != std::string_view::npos; };
  for (const ThoughtMarks& marks : kThoughtMarks)
    if (has(marks.end) && has(marks.answer_begin) && has(marks.answer_end)) return marks;
  return std::nullopt;
}

bool stands_in_thought(std::string_view begun_answer, const ThoughtMarks& marks) {
  return behind_begin(begun_answer, marks) && begun_answer.find(marks.end) == std::string_view::npos;
}

bool ends_in_thought(std::string_view prompt, const ThoughtMarks& marks) {
  const std::string_view end = jinja::strip(prompt, "", false, true);
  return end.ends_with(marks.begin) || end.ends_with(std::string(marks.begin) + std::string(jinja::strip(marks.label, "", false, true)));
}

bool has_special_marks(const AnswerForm& form, const Tokenizer& tokenizer) {
  if (form.channels || is_mistral(form.calls)) return true;
  const auto is_special = [&](std::string_view mark) { return !mark.empty() && tokenizer.has_special_tokens(mark); };
  if (const JsonMarks* marks = json_marks(form.calls); marks && is_special(marks->begin)) return true;
  if (const XmlMarks* marks = xml_marks(form.calls); marks && (is_special(marks->begin) || is_special(marks->key) || is_special(marks->value_end))) return true;
  if (form.calls == CallForm::kGemma && (is_special(kGemmaCall) || is_special(kGemmaQuote))) return true;
  if (form.calls == CallForm::kOlmo && is_special(kOlmoCalls)) return true;
  return form.thinks && (tokenizer.has_special_tokens(form.marks.begin) || tokenizer.has_special_tokens(form.marks.end));
}

ChatAnswer settled_chat_answer(std::string_view text, const AnswerForm& form) {
  ChatAnswer settled;
  if (form.channels) return harmony_answer(text, form, false);
  const ThoughtMarks& marks = form.marks;
  if (form.thinks && marks.begin.starts_with(jinja::strip(text, "", true, false))) return settled;  // it may begin with the mark
  const std::optional<std::string_view> opened = behind_begin(text, marks);
  if (form.thinks && (opened || form.begins_in_thought)) {
    if (opened && opened->size() < marks.label.size() && marks.label.starts_with(*opened)) return settled;  // its label may come
    const std::string_view thoughts = opened ? without_label(*opened, marks) : text;
    const size_t end = thoughts.find(marks.end);
    if (end == std::string_view::npos) {
      settled.reasoning = std::string(without_begun_end(thoughts, marks.end));
      return settled;
    }
    settled.reasoning = std::string(thoughts.substr(0, end));
    text = thoughts.substr(end + marks.end.size());
  }
  text = settled_within_marks(text, marks);
  if (settled.reasoning) text = said_behind(text, form);
  if (form.calls == CallForm::kNone && !text.empty()) settled.content = std::string(text);
  return settled;
}

ChatAnswer read_chat_answer(std::string_view text, const AnswerForm& form) {
  if (form.channels) return harmony_answer(text, form, true);
  ChatAnswer answer;
  answer.reasoning = take_thoughts(text, form);
  Found found = calls_of(text, form);
  if (!found.calls.empty()) {
    text = text.substr(0, found.begin);
    answer.calls = std::move(found.calls);
    if (form.one_call) answer.calls.resize(1);
  }
  text = within_marks(text, form.marks).text;
  if (!answer.calls.empty() && trimmed(text).empty()) text = {};
  if (answer.reasoning) text = said_behind(text, form);
  if (!text.empty() || (!answer.reasoning && answer.calls.empty())) answer.content = std::string(text);
  return answer;
}

}  // namespace flexgen
