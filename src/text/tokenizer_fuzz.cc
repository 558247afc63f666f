// Fuzz target: any bytes as a tokenizer.json. It may be refused with an Error; it may not crash, hang or grow without bound.

#include <cstdint>
#include <string>

#include "base/error.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string input(reinterpret_cast<const char*>(data), size);
  try {
    auto tokenizer = flexgen::Tokenizer::from_json(input, "tokenizer.json");
    std::string text = input.substr(0, 200) + " Hello wörld 123 </s>";
    auto ids = tokenizer->encode(text, true);
    std::string decoded = tokenizer->decode(ids, false);
    if (flexgen::sanitize_utf8(decoded) != decoded) __builtin_trap();
    flexgen::StreamDecoder stream(*tokenizer);
    for (int32_t id : ids) stream.push(id);
    stream.finish();
  } catch (const flexgen::Error&) {
  }
  return 0;
}
