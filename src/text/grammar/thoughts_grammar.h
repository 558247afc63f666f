#pragma once
// Grammars of answers that begin with thoughts. Pure functions; any thread.

#include "text/chat_answer.h"
#include "text/grammar/grammar.h"

namespace flexgen {

/// What the answer itself is.
enum class HeldAnswer {
  kContent,  ///< all that is said to the user
  kCalls,    ///< calls of tools, or what call_grammar() allows beside them; of harmony it has the thoughts already
};

/// `spec` behind the thoughts that answers of this form begin with, and within the marks that the form puts around what is said; as it is where there is nothing of that. It then holds from the
/// end of the thoughts on. `form` is told that the answer is `structured`. Throws Error{user} where the prompt has begun a message that can hold no such answer.
GrammarSpec behind_thoughts(GrammarSpec spec, HeldAnswer held, const Tokenizer* tokenizer, AnswerForm* form);

}  // namespace flexgen
