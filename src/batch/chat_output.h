#pragma once
// ChatOutput: the parts of a choice that a conversation has in its own form, as OpenAI's /v1/chat/completions. Pure functions: the same answer gives the same bytes.

#include <span>

#include "batch/answer_json.h"
#include "batch/batch_line.h"
#include "generation/request.h"

namespace flexgen {

/// ,"message":{...} of choice number `choice`. Whether it calls tools.
bool write_chat_message(const BatchRequest& request, const Completion& completion, int64_t choice, const WritePiece& write);

/// What is new of a choice's message, as a stream has it, as JSON.
std::string delta_json(const BatchRequest& request, int64_t choice, const ChatAnswer& news);

/// Thoughts under both names that clients look for: DeepSeek's, and vLLM's of today.
void add_thoughts(const std::string& thoughts, nlohmann::ordered_json* message);

/// {"content":[...]}: each token of the answer, with at most so many of the others that it has.
void write_chat_logprobs(const Tokenizer* tokenizer, std::span<const TokenLogprob> entries, size_t most, const WritePiece& write);

}  // namespace flexgen
