#pragma once
// CallForm: how a model writes calls of tools; what is read of one. Pure data.

#include <string>

namespace flexgen {

/// How calls are written.
enum class CallForm {
  kNone,             ///< not at all, or in a way that is not known: they stay in the text
  kHermes,           ///< <tool_call>{"name": ..., "arguments": {...}}</tool_call> (Hermes, Qwen)
  kLlama,            ///< {"name": ..., "parameters": {...}} (Llama 3)
  kMistral,          ///< [TOOL_CALLS] [{"name": ..., "arguments": {...}}]
  kMistralNamed,     ///< [TOOL_CALLS]name[ARGS]{...}
  kMistralNumbered,  ///< [TOOL_CALLS]name[CALL_ID]123456789[ARGS]{...}
  kCommand,          ///< <|START_ACTION|>[{"tool_call_id": "0", "tool_name": ..., "parameters": {...}}]<|END_ACTION|> (Command R7B, A)
  kHarmony,          ///< messages to functions (text/chat_harmony.h)
  kGranite,          ///< <|tool_call|>[{"name": ..., "arguments": {...}}] (Granite 3)
  kPhi,              ///< <|tool_call|>[{"name": ..., "arguments": {...}}]<|/tool_call|> (Phi-4-mini)
  kHunyuan,          ///< <tool_calls>[{"name": ..., "arguments": {...}}]</tool_calls> (Hunyuan)
  kQwenXml,          ///< <tool_call>\n<function=f>\n<parameter=key>\nvalue\n</parameter>\n</function>\n</tool_call> (Qwen3-Coder); XML: text/xml_calls.h
  kSeedXml,          ///< <seed:tool_call>\n<function=f>\n<parameter=key>value</parameter>\n</function>\n</seed:tool_call> (Seed-OSS)
  kMiniMax,          ///< <minimax:tool_call>\n<invoke name="f">\n<parameter name="key">value</parameter>\n</invoke>\n</minimax:tool_call> (MiniMax-M2)
  kGlm,              ///< <tool_call>f\n<arg_key>key</arg_key>\n<arg_value>value</arg_value>\n</tool_call> (GLM-4.5 to 4.7)
  kGemma,            ///< <|tool_call>call:f{key:<|"|>value<|"|>}<tool_call|> (Gemma 4; text/literal_calls.h)
  kOlmo,             ///< <function_calls>f(key="value")</function_calls> (OLMo 3; text/literal_calls.h)
};
/// These are read alike.
inline bool is_mistral(CallForm form) { return form == CallForm::kMistral || form == CallForm::kMistralNamed || form == CallForm::kMistralNumbered; }

/// A call of a function that the model asks for.
struct ToolCall {
  std::string name;
  std::string arguments;  ///< JSON
};

}  // namespace flexgen
