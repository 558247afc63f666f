#pragma once
// The tokenizer and the chat templates that a GGUF brings along, as the tokenizer.json that they were made from: its ids are those of the checkpoint before it was converted. Pure functions of the file.

#include <map>
#include <string>

#include "text/tokenizer_files.h"

namespace flexgen {

/// Throws Error{user} that names the file and the field for what is broken, and for a tokenizer or a way to split texts that flexgen does not know.
TokenizerFiles read_gguf_tokenizer(const std::string& path);

/// By their names, "default" and others; empty: it has none.
std::map<std::string, std::string> read_gguf_chat_templates(const std::string& path);

}  // namespace flexgen
