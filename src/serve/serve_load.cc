#include "serve/serve_load.h"

#include <algorithm>

#include "base/error.h"
#include "generation/request.h"
#include "generation/shared_prefixes.h"

namespace flexgen {
namespace {

constexpr int64_t kUsualMost = 8192;  ///< positions of a sequence, where the model has more and nobody says how many

}  // namespace

Workload load_to_plan_for(const ServeOptions& options, const ModelConfig& config, int64_t page_tokens) {
  const int64_t longest = options.max_model_len > 0 ? options.max_model_len : std::min(config.max_positions, kUsualMost);
  if (longest > config.max_positions) fail_user("--max-model-len {}: the model takes {} tokens", longest, config.max_positions);
  // Where sequences are short, what is expected of them is too.
  const int64_t prompt = options.prompt_len > 0 ? options.prompt_len : std::max<int64_t>(1, std::min<int64_t>(512, longest / 2));
  const int64_t generated = options.gen_len > 0 ? options.gen_len : std::max<int64_t>(1, std::min<int64_t>(256, longest / 4));
  if (prompt + generated > longest)
    fail_user("--prompt-len {} and --gen-len {}: together more than the {} tokens of the longest sequence (--max-model-len)", prompt, generated, longest);
  Workload load;
  const bool shares = options.engine.shares_prefixes();
  // Each keeps its prompt for those that may have it too, so that what calls have in common is computed once; how much that is nobody knows.
  const PrefixTokens prefix{shares ? shareable_pages(prompt, page_tokens) * page_tokens : 0, 0};
  for (int64_t i = 0; i < options.max_num_seqs; ++i) load.add(prompt, generated, true, false, {}, prefix);
  load.longest_sequence = std::max(load.longest_sequence, longest);
  load.scores_prompts = load.reads_logits = true;
  SamplingParams most;
  most.max_tokens = 0;
  most.echo = true;
  most.top_logprobs = kMostLogprobs;
  load.logprob_bytes = logprob_bytes(most, longest);
  return load;
}

}  // namespace flexgen
