#pragma once
// What tests of the engine ask of their requests: each way of choosing tokens, ending answers and giving logprobs, in turn; and prompts that have much in common. One thread.

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "generation/request.h"
#include "generation/share_requests.h"

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

/// Prompts of up to `most_pages` pages and 20 tokens that begin alike: with few or many pages in common, prefixes within prefixes, pages that are only partly the same, and some prompts twice.
/// `few_ends`: nearly all that is in common is a half or the whole of that.
inline std::vector<Request> related_requests(std::mt19937& random, size_t count, int64_t page_tokens, int64_t most_pages = 3, bool few_ends = false) {
  std::vector<std::vector<int32_t>> trunks(3, std::vector<int32_t>(static_cast<size_t>(most_pages * page_tokens)));
  for (auto& trunk : trunks)
    for (int32_t& token : trunk) token = static_cast<int32_t>(random() % 200);
  std::copy_n(trunks[0].begin(), page_tokens + page_tokens / 2, trunks[1].begin());
  std::vector<Request> requests(count);
  for (size_t i = 0; i < count; ++i) {
    requests[i].key = static_cast<int64_t>(i);
    requests[i].params = params_in_turn(random, i);
    std::vector<int32_t>& prompt = requests[i].prompt;
    if (i % 5 == 3) {
      prompt = requests[i - 1].prompt;
      continue;
    }
    const auto& trunk = trunks[random() % 3];
    const size_t cut = few_ends ? trunk.size() * (1 + random() % 2) / 2 : random() % (trunk.size() + 1);
    prompt.assign(trunk.begin(), trunk.begin() + static_cast<ptrdiff_t>(cut));
    for (size_t own = 1 + random() % 20; own > 0; --own) prompt.push_back(static_cast<int32_t>(random() % 200));
  }
  return requests;
}

}  // namespace flexgen
