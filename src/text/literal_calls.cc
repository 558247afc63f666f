#include "text/literal_calls.h"

#include <string>

namespace flexgen {
namespace {

std::string function_name(std::string_view name) {
  if (name.empty() || name.find_first_of(" \n,<>(){}") != std::string_view::npos) jinja::fail("no name");
  return std::string(name);
}

}  // namespace

call_text::Found gemma_calls(std::string_view text) {
  call_text::Found found{text.find(kGemmaCall), {}};
  for (call_text::Literals literals(text, kGemmaQuote); literals.pass(kGemmaCall);) {
    literals.expect("call:");
    std::string name = function_name(literals.up_to("{"));
    found.calls.push_back({std::move(name), call_text::json_of(literals.members(':', '}'))});
    literals.expect(kGemmaCallEnd);
  }
  return found;
}

call_text::Found olmo_calls(std::string_view text) {
  call_text::Found found{text.find(kOlmoCalls), {}};
  for (call_text::Literals literals(text); literals.pass(kOlmoCalls);)
    while (!literals.take(kOlmoCallsEnd) && !literals.at_end()) {
      std::string name = function_name(literals.up_to("("));
      found.calls.push_back({std::move(name), call_text::json_of(literals.members('=', ')'))});
    }
  return found;
}

}  // namespace flexgen
