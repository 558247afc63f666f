#pragma once
// ChatAnswer: what a model answers in a conversation, parted into thoughts, text and calls of tools, by the forms that its chat template shows. Pure functions; any thread.

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/call_form.h"
#include "text/tokenizer.h"

namespace flexgen {

struct ParameterTypes;

/// Of a form whose calls are JSON between two marks: one object, or a list of them.
struct JsonMarks {
  CallForm form;
  std::string_view begin, end;        ///< no end: what follows is another call, or nothing
  std::string_view name = "name";     ///< the member that is the function's name
  std::string_view other_begin = "";  ///< what some models write in the place of `begin`
};
/// Null for other forms.
const JsonMarks* json_marks(CallForm form);

/// Between which marks thoughts stand, and what the model says behind them.
struct ThoughtMarks {
  std::string_view begin, end;
  std::string_view label = "";                          ///< what may stand behind `begin` and is no part of the thought
  std::string_view answer_begin = "", answer_end = "";  ///< what is said may stand between them, with thoughts before it or none; empty: it stands alone
};
inline constexpr ThoughtMarks kUsualThoughtMarks{"<think>", "</think>"};
/// The first whose marks are all there counts.
inline constexpr std::array kThoughtMarks{
    ThoughtMarks{"<think>", "</think>", "", "<answer>", "</answer>"},      // Hunyuan
    ThoughtMarks{"<think>", "</think>", "", "<response>", "</response>"},  // Granite 3.3
    kUsualThoughtMarks,
    ThoughtMarks{"[THINK]", "[/THINK]"},                                                                    // Mistral
    ThoughtMarks{"<|channel>", "<channel|>", "thought\n"},                                                  // Gemma 4
    ThoughtMarks{"<seed:think>", "</seed:think>"},                                                          // Seed-OSS
    ThoughtMarks{"<|START_THINKING|>", "<|END_THINKING|>", "", "<|START_RESPONSE|>", "<|END_RESPONSE|>"}};  // Command R7B, A

/// How answers to a prompt are to be read.
struct AnswerForm {
  CallForm calls = CallForm::kNone;
  bool thinks = false;  ///< thoughts stand before the end mark
  ThoughtMarks marks = kUsualThoughtMarks;
  bool begins_in_thought = false;                         ///< the prompt ends with the mark that begins one, or within one
  bool one_call = false;                                  ///< no more than the first call counts
  bool channels = false;                                  ///< harmony: the answer is messages in channels
  bool structured = false;                                ///< what is said behind the thoughts follows a grammar: line ends before it are none of it
  std::string begun = "";                                 ///< with channels: begun_harmony_message() of the prompt
  bool held_calls = false;                                ///< calls follow a grammar: what does not begin with the form's own mark is none
  std::shared_ptr<const ParameterTypes> types = nullptr;  ///< of calls in XML: what their values may be (text/xml_calls.h); null: that is not known
};

/// The form of calls that a chat template's source shows.
CallForm call_form_of(std::string_view template_source);
/// The marks of thoughts that it shows; none: the model has no thoughts, or marks that are not known.
std::optional<ThoughtMarks> thought_marks_of(std::string_view template_source);
/// Whether a prompt ends within a thought.
bool ends_in_thought(std::string_view prompt, const ThoughtMarks& marks = kUsualThoughtMarks);
/// Whether an answer of which this is said already began a thought and has not ended it.
bool stands_in_thought(std::string_view begun_answer, const ThoughtMarks& marks);
/// Whether a mark that the answer is read by is a special token of the tokenizer, so that the text must not leave these out.
bool has_special_marks(const AnswerForm& form, const Tokenizer& tokenizer);

struct ChatAnswer {
  std::optional<std::string> reasoning;  ///< none: the answer has no thoughts
  std::optional<std::string> content;    ///< none: it has nothing else
  std::vector<ToolCall> calls;
};

/// Thoughts and text are given as they stand, blanks included, without the marks around them; of several messages each, a line end stands between them. What goes to
/// neither the user nor a function is a thought. A call that is broken (not JSON, no name) leaves all of the text as content.
ChatAnswer read_chat_answer(std::string_view text, const AnswerForm& form);

/// Of an answer that is under way, the thoughts and the text that stay as they are whatever comes. Where calls may come all text waits for the end, unless there are channels. They are the beginnings of
/// what read_chat_answer() gives at the end.
ChatAnswer settled_chat_answer(std::string_view text, const AnswerForm& form);
}  // namespace flexgen
