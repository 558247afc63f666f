#pragma once
// AnswerCall: a call of /v1/completions or /v1/chat/completions: its body is a batch line's body, its answer a record's. Any thread.

#include "batch/batch_fields.h"
#include "serve/serve_context.h"

namespace flexgen {

/// Waits for the answer; if the client hangs up meanwhile, its sequences are given up. Throws ApiError.
void answer_call(HttpCall& call, Endpoint endpoint, ServeContext& context);

}  // namespace flexgen
