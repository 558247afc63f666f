#pragma once
// What tests of the engine ask of their requests: each way of choosing tokens, ending answers and giving logprobs, in turn. One thread.

#include <cstdint>
#include <random>

#include "engine/request.h"

namespace flexgen {

/// Of request number `index`, whose vocabulary has 200 tokens at least.
inline SamplingParams params_in_turn(std::mt19937& random, size_t index) {
  SamplingParams params;
  params.max_tokens = 1 + static_cast<int64_t>(random() % 12);
  params.temperature = index % 3 == 0 ? 0.8 : 0;
  params.top_p = index % 6 == 0 ? 0.9 : 1;
  params.seed = 100 + index;
  if (index % 5 == 4) {
    params.echo = true;
    params.top_logprobs = 2;
  }
  if (index % 7 == 6) params.max_tokens = params.echo ? 0 : 1;
  if (index % 4 == 1) {
    for (int32_t token = 0; token < 200; token += 3) params.stop_token_ids.push_back(token);
    params.min_tokens = params.max_tokens / 2;
  }
  if (index % 4 == 2) {
    params.repetition_penalty = 1.2;
    params.frequency_penalty = 0.5;
    params.presence_penalty = -0.3;
    params.logit_bias = {{7, 2.0f}, {8, -100.0f}};
    params.bad_words = {{9}, {7, 7}};
    params.min_p = 0.05;
  }
  if (index % 8 == 3) {
    params.prompt_logprobs = 2;
    params.top_logprobs = 0;
    params.logprob_token_ids = {3, 150};
  }
  return params;
}

}  // namespace flexgen
