#pragma once
// Grammars of calls that are written as XML, argument by argument. Pure functions; any thread.

#include <string>

#include "text/grammar/structure_format.h"
#include "text/xml_calls.h"

namespace flexgen {

/// A call of the function, without what stands around calls. `schema`: of its arguments, as honoured_schema() gives it. Throws Error{user} that names the parameter for what a schema says
/// that the text of a value cannot be held to.
structure::Format xml_call(const std::string& function, const structure::Format& schema, const XmlMarks& marks, const Tokenizer* tokenizer);

}  // namespace flexgen
