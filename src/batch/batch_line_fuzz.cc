// Fuzz target: any bytes as a line of a batch file. Must end in a request or an error, and what it
// lets through must keep its promises.

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "batch/batch_line.h"
#include "batch/byte_tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const flexgen::ByteTokenizer tokenizer;
  static const auto chat = std::make_shared<const flexgen::ChatTemplate>(
      std::map<std::string, std::string>{
          {"default",
           "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}{% endfor %}{{ tools | tojson if tools }}<think>"}},
      "fuzz", flexgen::ChatTemplate::SpecialTokens());
  flexgen::ModelLimits limits{257, 100, &tokenizer};
  limits.chat = chat;
  auto parsed = flexgen::parse_batch_line({reinterpret_cast<const char*>(data), size}, limits);
  if (auto* error = std::get_if<flexgen::LineError>(&parsed)) {
    if (error->code.empty() || error->message.empty()) std::abort();
    return 0;
  }
  const auto& request = std::get<flexgen::BatchRequest>(parsed);
  if (request.num_sequences() < 1) std::abort();
  if (request.chat) flexgen::read_chat_answer({reinterpret_cast<const char*>(data), size}, *request.chat);
  for (const flexgen::BatchPrompt& prompt : request.prompts) {
    if (prompt.tokens.empty()) std::abort();
    if (static_cast<int64_t>(prompt.tokens.size()) + request.params.max_tokens > limits.max_positions) std::abort();
    for (int32_t token : prompt.tokens)
      if (token < 0 || token >= limits.vocab_size) std::abort();
  }
  return 0;
}
