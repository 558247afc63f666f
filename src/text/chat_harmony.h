#pragma once
// Harmony, the form of gpt-oss: an answer is messages, each with a header that names its channel and to whom it goes. Pure functions; any thread.
//   <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{...}<|call|>
//   <|channel|>final<|message|>...<|return|>

#include <string>
#include <string_view>
#include <vector>

namespace flexgen {

/// A message of an answer. Views into the answer's text.
struct HarmonyMessage {
  std::string_view channel;    ///< "analysis", "commentary", "final"; empty: the header has none
  std::string_view recipient;  ///< "functions.f"; empty: the user
  std::string_view text;
  bool ended = false;  ///< something stands behind it
};

/// An answer as messages. Views into its text.
struct HarmonyAnswer {
  std::vector<HarmonyMessage> messages;
  std::string_view rest;  ///< a header that does not end, or text that has none
};

/// Whether a chat template's source writes this form.
bool writes_harmony(std::string_view template_source);

/// Of a prompt: the message that it has begun, as far as its header goes: "<|start|>assistant", or with its channel up to <|message|>; empty if it has begun none.
std::string begun_harmony_message(std::string_view prompt);

/// `text`: what begun_harmony_message() gave, and the answer behind it. Views are into `text`.
HarmonyAnswer read_harmony(std::string_view text);

/// Without what at the end of `text` may be the start of a mark.
std::string_view without_begun_mark(std::string_view text);

}  // namespace flexgen
