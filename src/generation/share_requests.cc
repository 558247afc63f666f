#include "generation/share_requests.h"

#include <algorithm>
#include <utility>

#include "generation/shared_prefixes.h"
#include "schedule/prefix_ends.h"

namespace flexgen {
namespace {

void add(Workload& workload, const Request& request, const PrefixTokens& prefix) {
  const SamplingParams& params = request.params;
  workload.add(std::ssize(request.prompt), params.max_tokens, params.keeps_logits(), params.scores_prompt(), {}, prefix);
  workload.reads_logits = workload.reads_logits || params.top_logprobs >= 0;
  workload.logprob_bytes = std::max(workload.logprob_bytes, logprob_bytes(params, std::ssize(request.prompt)));
}

}  // namespace

Workload workload_of(const std::vector<Request>& requests) {
  Workload workload;
  for (const Request& request : requests) add(workload, request, {});
  return workload;
}

Workload share_prefixes(std::vector<Request>& requests, int64_t page_tokens) {
  SharedPrefixes prompts(page_tokens);
  for (const Request& request : requests) prompts.add(request.may_share() ? std::span<const int32_t>(request.prompt) : std::span<const int32_t>());
  std::vector<Request> ordered;
  std::vector<PrefixTokens> prefixes;
  prompts.order([](int64_t) { return true; },
                [&](const PlacedPrompt& placed) {
                  if (!prefixes.empty()) prefixes.back().prefix = std::max(prefixes.back().prefix, placed.shared_tokens);
                  prefixes.push_back({placed.shared_tokens, placed.shared_tokens});
                  ordered.push_back(std::move(requests[static_cast<size_t>(placed.prompt)]));
                  return true;
                });
  requests = std::move(ordered);
  Workload workload;
  LaterEnds ends(std::ssize(requests), [&](int64_t place) { return prefixes[static_cast<size_t>(place)].shared; });
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].shared_tokens = prefixes[i].prefix;
    requests[i].shared_ends = ends.of(static_cast<int64_t>(i), prefixes[i].prefix);
    add(workload, requests[i], prefixes[i]);
  }
  return workload;
}

}  // namespace flexgen
