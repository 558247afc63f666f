#pragma once
// TokenCalls: /tokenize and /detokenize, as vLLM has them. Any thread.

#include "serve/serve_context.h"

namespace flexgen {

/// {"prompt": text} or {"messages": [...]} to {"count", "max_model_len", "tokens", "token_strs"}. Throws ApiError.
void tokenize_call(HttpCall& call, const ServeContext& context);
/// {"tokens": [...]} to {"prompt": text}. Throws ApiError.
void detokenize_call(HttpCall& call, const ServeContext& context);

}  // namespace flexgen
