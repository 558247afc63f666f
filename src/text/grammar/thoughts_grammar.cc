#include "text/grammar/thoughts_grammar.h"

#include "base/error.h"
#include "text/grammar/structure_format.h"

namespace flexgen {
namespace {

using structure::Format;

constexpr std::string_view kMessage = "<|message|>", kFinal = "<|channel|>final", kAnalysis = "<|channel|>analysis";

/// `begun`: what the prompt has of the message.
Format before_final_message(const std::string& begun, const Tokenizer* tokenizer) {
  const Format final_header =
      structure::sequence_of({structure::mark_of("<|channel|>", tokenizer), structure::const_text("final"), structure::mark_of("<|message|>", tokenizer)});
  if (begun.ends_with(kMessage)) {
    if (begun.find(kFinal) != std::string::npos) return nullptr;
    if (begun.find(kAnalysis) == std::string::npos)
      fail_user("end within a message that is neither the final one nor a thought, so that no grammar can be followed there");
    return structure::sequence_of({structure::harmony_text(), structure::mark_of("<|end|>", tokenizer), structure::mark_of("<|start|>", tokenizer),
                                   structure::const_text("assistant"), final_header});
  }
  if (!begun.ends_with("assistant")) fail_user("have an answer in channels, and begin no message of the assistant, so that no grammar can be followed there");
  return structure::sequence_of({structure::maybe(structure::harmony_message("analysis", tokenizer)), final_header});
}

/// Line ends that models write behind marks.
Format line_ends() { return {{"type", "regex"}, {"pattern", "\\n{0,2}"}}; }

}  // namespace

GrammarSpec behind_thoughts(GrammarSpec spec, HeldAnswer held, const Tokenizer* tokenizer, AnswerForm* form) {
  if (form->channels) {
    if (held == HeldAnswer::kCalls) return spec;
    if (const Format before = before_final_message(form->begun, tokenizer); !before.is_null()) spec.before = before.dump();
    return spec;
  }
  if (!form->begins_in_thought) return spec;
  const bool is_content = held == HeldAnswer::kContent;
  const std::string end(form->marks.end), answer_begin(form->marks.answer_begin), answer_end(form->marks.answer_end);
  std::vector<Format> before{structure::any_text({end}), structure::mark_of(end, tokenizer), line_ends()};
  if (!spec.instead.empty()) {
    before.push_back(Format::parse(spec.instead));
    spec.instead = structure::sequence_of(before).dump();
    before.pop_back();
  }
  if (is_content && !answer_begin.empty()) {
    before.push_back(structure::mark_of(answer_begin, tokenizer));
    before.push_back(line_ends());
    spec.after = structure::mark_of(answer_end, tokenizer).dump();
  }
  spec.before = structure::sequence_of(before).dump();
  form->structured = is_content;
  return spec;
}

}  // namespace flexgen
