// Any bytes as a schema, or one that is made of them: refused, or taken by xgrammar in bounded time.

#include <cstdint>
#include <string>

#include "base/error.h"
#include "text/grammar/fuzz_schemas.h"
#include "text/grammar/grammar.h"
#include "text/grammar/json_schema.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  flexgen::FuzzChoices choose(data, size);
  const std::string text = choose.byte() % 4 == 0 ? choose.rest() : flexgen::fuzz::schema_of(choose, 5).dump();
  try {
    const std::string schema = flexgen::honoured_schema(text);
    if (!flexgen::why_no_grammars()) flexgen::check_grammar({flexgen::GrammarSpec::Kind::kJsonSchema, schema, {}, true});
  } catch (const flexgen::Error&) {
  }
  return 0;
}
