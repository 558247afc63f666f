#pragma once
// ChatOutput: the parts of a choice that a conversation has in its own form, as OpenAI's /v1/chat/completions. Pure functions: the same answer gives the same bytes.

#include <span>

#include "batch/answer_json.h"
#include "batch/batch_line.h"
#include "generation/request.h"

namespace flexgen {

/// ,"message":{...}. Whether it calls tools.
bool write_chat_message(const BatchRequest& request, const Completion& completion, const WritePiece& write);

/// The calls of an answer, as a message has them, as JSON; `numbered`: with their places, as a stream has them.
std::string tool_calls_json(const BatchRequest& request, const ChatAnswer& answer, bool numbered);

/// {"content":[...]}: each token of the answer, with at most so many of the others that it has.
void write_chat_logprobs(const Tokenizer* tokenizer, std::span<const TokenLogprob> entries, size_t most, const WritePiece& write);

}  // namespace flexgen
