#pragma once
// GrammarFields: what a request's body says its answer must be: response_format, guided_json and its like, structured_outputs. Any thread.

#include <memory>
#include <string>

#include "batch/line_body.h"
#include "batch/line_json.h"
#include "text/grammar/grammar.h"

namespace flexgen {

/// Null if an answer may be anything. Throws Refusal for what cannot be honoured. Specifications that were just seen are not checked again.
std::shared_ptr<const GrammarSpec> parse_grammar(const LineJson& line, const LineBody& body);

/// Throws Refusal for fields of the body that may forbid what a grammar asks for. `path`: the field that asks for it.
void refuse_beside_grammar(const LineBody& body, const std::string& path);

/// The specification with its schema as it is honoured; the same one in memory for all that ask for the same. Throws Error{user}.
/// `is_honoured`: its schema is as it is honoured already.
std::shared_ptr<const GrammarSpec> kept_grammar(GrammarSpec asked, bool is_honoured = false);

/// Of the text of a schema, as `generate` has it. Throws Error{user}.
std::shared_ptr<const GrammarSpec> schema_grammar(std::string_view json);

}  // namespace flexgen
