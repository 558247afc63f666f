#pragma once
// Calls of tools whose arguments are literals (Gemma 4, OLMo 3). Pure functions; any thread.

#include <string_view>

#include "text/call_text.h"

namespace flexgen {

inline constexpr std::string_view kGemmaCall = "<|tool_call>", kGemmaCallEnd = "<tool_call|>", kGemmaQuote = "<|\"|>";
inline constexpr std::string_view kOlmoCalls = "<function_calls>", kOlmoCallsEnd = "</function_calls>";

/// <|tool_call>call:f{key:<|"|>text<|"|>,other:[1,true]}<tool_call|>. Throws jinja::Failure for calls that are broken, as olmo_calls().
call_text::Found gemma_calls(std::string_view text);

/// <function_calls>f(key="text", other=[1, true])</function_calls>, a line each; JSON's literals or Python's.
call_text::Found olmo_calls(std::string_view text);

}  // namespace flexgen
