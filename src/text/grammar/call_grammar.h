#pragma once
// Grammars of calls of tools, in the form that a model's chat template shows. Pure functions; any thread.

#include <string>
#include <vector>

#include "text/chat_answer.h"
#include "text/grammar/grammar.h"

namespace flexgen {

/// A function that may be called.
struct CallableFunction {
  std::string name;
  std::string parameters;  ///< JSON schema of its arguments; empty: it takes none
  bool strict = true;      ///< else any object will do as its arguments
};

/// Calls of these functions.
struct WantedCalls {
  std::vector<CallableFunction> functions;  ///< at least one
  CallForm form = CallForm::kNone;
  bool one_call = false;  ///< no more than one
  bool forced = true;     ///< the answer is calls alone; else it may have text before them, or no calls
};

/// A grammar for them: arguments as their schemas have them, with at most one blank or line end where JSON allows some. Of a mark that is a special token of `tokenizer` the token is asked for;
/// null: all marks are text. Throws Error{user} that names the function and what of it cannot be honoured, or why calls in this form cannot be held to a grammar.
/// `types`: gets those of the functions that the grammar holds to their schemas, for calls in XML, in the place of what it has of them; null: they are not wanted.
GrammarSpec call_grammar(const WantedCalls& calls, const Tokenizer* tokenizer, ParameterTypes* types = nullptr);

}  // namespace flexgen
