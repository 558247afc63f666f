#pragma once
// BatchOutput: answers and errors as lines of an OpenAI batch output file. Pure functions: the same answers give the
// same bytes, so that a resumed job equals an uninterrupted one.

#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "batch/answer_json.h"
#include "batch/batch_input.h"
#include "generation/request.h"

namespace flexgen {

/// What all records of a job share.
struct RecordContext {
  std::string model_name;
  int64_t created_s = 0;
  const Tokenizer* tokenizer = nullptr;  ///< may be null: then texts are empty
};

/// Writes choice `index` of a line as it stands in the line's record. `prompt` is the one that it answers; it is looked at where request.shows_prompt(), and where
/// request.has_text_offsets() its end_of_prompt(). Behind a conversation's last choice stand the end of their list and what is told of its prompt.
void write_choice(const RecordContext& context, const BatchRequest& request, const BatchPrompt& prompt, const Completion& completion, int64_t index,
                  const WritePiece& write);

/// The same without the index, which is written before it. Of a text alone: the choices of a conversation are not chosen among.
void write_unnumbered_choice(const RecordContext& context, const BatchRequest& request, const BatchPrompt& prompt, const Completion& completion,
                             const WritePiece& write);

/// Tokens of a line: of all its prompts, each once, of these what they have in common with prompts before them, and of all its answers.
struct LineUsage {
  int64_t prompt_tokens = 0, cached_tokens = 0, completion_tokens = 0;
};

/// A piece of a choice, as it is streamed.
struct ChoicePiece {
  const Completion& completion;           ///< what is new: text, tokens, logprobs
  int64_t index = 0;                      ///< of the choice
  std::span<const int64_t> offsets = {};  ///< where the logprobs' tokens begin in the choice's text, an echoed prompt included; none in a conversation
  const char* reason = nullptr;           ///< null: it goes on
  std::string_view delta = {};            ///< of a conversation: what is new of the message, as JSON
};
/// The choice, the end of the list in which it is alone, and what stands behind that.
void write_piece(const RecordContext& context, const BatchRequest& request, const BatchPrompt& prompt, const ChoicePiece& piece, const WritePiece& write);

/// Characters of the prompt in front of an answer's text: 0 where it is not echoed.
int64_t echoed_characters(const RecordContext& context, const BatchRequest& request, const BatchPrompt& prompt);

/// The usage of a body, as JSON.
std::string usage_json(const LineUsage& usage);

/// What stands around the choices, which commas part, in the record of a line all of whose sequences are done. The record ends with '\n'.
struct AnswerFrame {
  std::string before, after;
};
/// The same for the body alone, as a call gets it.
AnswerFrame body_frame(const RecordContext& context, const RecordId& id, const BatchRequest& request, const LineUsage& usage);

/// Of the request its custom_id and whether it is a conversation's count.
AnswerFrame answer_frame(const RecordContext& context, const RecordId& id, const BatchRequest& request, const LineUsage& usage);

/// The whole record; completions in the order of the choices.
std::string answer_record(const RecordContext& context, const RecordId& id, const BatchRequest& request, std::span<const Completion> completions);

/// Why a line has no answer one of whose completions has_no_answer().
LineError no_answer_error(const BatchRequest& request, const Completion& completion, int64_t choice);

/// Whether a record is the error_record() of a line without an answer for that reason.
bool is_no_answer_record(std::string_view record);

/// The record of a bad line. Ends with '\n'.
std::string error_record(const InputLine& line, const LineError& error);

}  // namespace flexgen
