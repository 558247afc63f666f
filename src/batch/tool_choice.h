#pragma once
// ToolChoice: which tools an answer must or may call, as a grammar: tool_choice, parallel_tool_calls, and functions that are strict. Pure functions; any thread.

#include <memory>

#include "batch/line_body.h"
#include "text/chat_template.h"
#include "text/grammar/grammar.h"
#include "text/xml_calls.h"

namespace flexgen {

struct ToolChoice {
  bool calls = false;                                    ///< the answer may call tools
  bool forced = false;                                   ///< it must
  std::shared_ptr<const GrammarSpec> grammar = nullptr;  ///< null: calls are as the model writes them
  ParameterTypes types = {};                             ///< of calls in XML
};

/// `form`: how the model writes calls. `tokenizer`: null for planning. `no_text`: the grammar is to be of calls alone. Throws Refusal for what cannot be honoured.
ToolChoice parse_tool_choice(const Conversation& conversation, const LineBody& body, CallForm form, const Tokenizer* tokenizer, bool no_text);

}  // namespace flexgen
