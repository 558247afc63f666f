// Any bytes as a schema: refused, or taken by xgrammar in bounded time.

#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "text/grammar/grammar.h"
#include "text/grammar/json_schema.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const std::string schema = flexgen::honoured_schema({reinterpret_cast<const char*>(data), size});
    if (!flexgen::why_no_grammars()) flexgen::check_grammar({flexgen::GrammarSpec::Kind::kJsonSchema, schema, {}, true});
  } catch (const flexgen::Error&) {
  }
  return 0;
}
