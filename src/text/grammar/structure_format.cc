#include "text/grammar/structure_format.h"

namespace flexgen::structure {

Format const_text(const std::string& text) { return {{"type", "const_string"}, {"value", text}}; }

Format sequence_of(const std::vector<Format>& elements) {
  Format all = Format::array();
  for (const Format& element : elements)
    if (!element.is_null()) all.push_back(element);
  return {{"type", "sequence"}, {"elements", std::move(all)}};
}

Format one_of(const std::vector<Format>& elements) { return elements.size() == 1 ? elements.front() : Format{{"type", "or"}, {"elements", elements}}; }

Format maybe(const Format& content) { return {{"type", "optional"}, {"content", content}}; }

Format any_text(const std::vector<std::string>& excluded) {
  Format format{{"type", "any_text"}};
  if (!excluded.empty()) format["excludes"] = excluded;
  return format;
}

std::optional<int32_t> special_token(const std::string& mark, const Tokenizer* tokenizer) {
  if (!tokenizer || mark.empty()) return std::nullopt;
  const std::vector<int32_t> tokens = tokenizer->encode(mark, false);
  if (tokens.size() != 1 || !tokenizer->token_bytes(tokens.front()).empty()) return std::nullopt;
  return tokens.front();
}

Format mark_of(const std::string& mark, const Tokenizer* tokenizer) {
  if (mark.empty()) return nullptr;
  if (const std::optional<int32_t> token = special_token(mark, tokenizer)) return {{"type", "token"}, {"token", *token}};
  return const_text(mark);
}

Format harmony_text() { return any_text({"<|start|>", "<|channel|>", "<|message|>", "<|end|>"}); }

Format harmony_message(const std::string& channel, const Tokenizer* tokenizer) {
  return sequence_of({mark_of("<|channel|>", tokenizer), const_text(channel), mark_of("<|message|>", tokenizer), harmony_text(), mark_of("<|end|>", tokenizer),
                      mark_of("<|start|>", tokenizer), const_text("assistant")});
}

}  // namespace flexgen::structure
