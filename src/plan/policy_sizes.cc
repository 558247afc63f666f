#include "plan/policy_sizes.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "base/units.h"
#include "schedule/cache_store.h"
#include "schedule/slot_rules.h"

namespace flexgen {

namespace {

/// Pages that so many sequences reserve beside their prefixes: a tenth more than the mean, as it varies who is there together, and as a prefix may find no
/// place. Too few leave slots empty for as long as a whole answer takes.
int64_t own_pages(const Workload& workload, int64_t page_tokens, int64_t slots) {
  int64_t sum = 0;
  for (const SequenceLength& length : workload.sample) sum += pages_of_sequence(length.prompt, length.max_tokens, page_tokens) - length.prefix / page_tokens;
  double mean = workload.sample.empty() ? 1 : static_cast<double>(sum) / static_cast<double>(workload.sample.size());
  // Where lengths are not known, and lines that are skipped may be others: the last page is half full on average, or as full in all.
  if (workload.sample.empty() || workload.sample_stride > 1) {
    const double full = (workload.mean_prompt() - workload.mean_prefix() + workload.mean_max_tokens()) / static_cast<double>(page_tokens);
    mean = std::max({mean, full + 0.5, std::ceil(full)});
  }
  return static_cast<int64_t>(std::ceil(1.1 * mean * static_cast<double>(slots)));
}

}  // namespace

Policy policy_of_sizes(const Model& model, const Workload& workload, DType kv_dtype, int64_t micro_batch_size, int64_t num_micro_batches, int buffers,
                       int64_t max_rows) {
  Policy policy;
  policy.micro_batch_size = micro_batch_size;
  policy.num_micro_batches = num_micro_batches;
  policy.buffers = buffers;
  policy.max_rows = max_rows;
  policy.max_logit_rows = workload.scores_prompts ? max_rows : std::min(micro_batch_size, max_rows);
  const int64_t page_tokens = CacheLayout::page_tokens(model, kv_dtype);
  const int64_t longest = std::max<int64_t>(1, ceil_div(workload.longest_sequence, page_tokens));
  policy.pages_per_micro_batch = std::min(micro_batch_size * longest, std::max(longest, own_pages(workload, page_tokens, micro_batch_size)));
  // Some sequences take longer than those that began with them, and keep their prefixes.
  const auto page = static_cast<double>(page_tokens);
  const double kept = static_cast<double>(ceil_div(policy.block_size(), 8)) * workload.mean_prefix() / page;
  // No more than the job has; of a sample that could be none.
  policy.prefix_pages = std::min(static_cast<int64_t>(std::ceil(workload.new_prefix_tokens() / page)),
                                 prefix_pages(workload, page_tokens, policy.block_size()) + static_cast<int64_t>(std::ceil(kept)));
  if (std::any_of(model.states().begin(), model.states().end(), [](const StateSpec& state) { return state.window > 0; }))
    policy.prefix_ends = prefix_ends(workload, page_tokens, policy);
  return policy;
}

int64_t prefix_pages(const Workload& workload, int64_t page_tokens, int64_t sequences) {
  if (workload.total_prefix_tokens == 0) return 0;
  const auto page = static_cast<double>(page_tokens);
  const double all_new = workload.new_prefix_tokens();
  if (workload.sample.empty())
    return static_cast<int64_t>(
        std::ceil(std::min(all_new, workload.mean_prefix() + static_cast<double>(sequences) * all_new / static_cast<double>(workload.num_sequences)) / page));
  // All of the first one's prefix, and of each further one what the one before it has not.
  const std::vector<SequenceLength>& sample = workload.sample;
  const auto count = static_cast<size_t>(std::clamp<int64_t>(sequences, 1, std::ssize(sample)));
  const double scale = workload.sample_stride == 1 ? 1 : std::max(1.0, static_cast<double>(sequences) / static_cast<double>(sample.size()));
  double most = 0, fresh = 0;
  for (size_t end = 0; end < sample.size(); ++end) {
    fresh += sample[end].prefix - sample[end].shared;
    const size_t first = end + 1 > count ? end + 1 - count : 0;
    if (first > 0) fresh -= sample[first - 1].prefix - sample[first - 1].shared;
    most = std::max(most, sample[first].shared + fresh * scale);  // of more than a sample's worth, an estimate
  }
  return static_cast<int64_t>(std::ceil(std::min(most, all_new) / page));
}

namespace {

/// Of a sample whose sequences stand in the job's order: the beginnings that several have in common.
struct SharedBeginnings {
  std::vector<int32_t> begun, ended;  ///< a sequence: how many it is the first of, and how many the sequence before it was the last of
  int64_t count = 0;
  double sharers = 0;  ///< of all of them
};
SharedBeginnings shared_beginnings(const std::vector<SequenceLength>& sample, int64_t page_tokens) {
  SharedBeginnings found{std::vector<int32_t>(sample.size() + 1), std::vector<int32_t>(sample.size() + 1)};
  std::vector<std::pair<int64_t, size_t>> open;  // (pages, first sequence), each longer than the one before
  for (size_t at = 1; at <= sample.size(); ++at) {
    const int64_t pages = at < sample.size() ? sample[at].shared / page_tokens : 0;
    size_t first = at - 1;
    for (; !open.empty() && open.back().first > pages; open.pop_back()) {
      first = open.back().second;
      ++found.begun[first];
      ++found.ended[at];
      ++found.count;
      found.sharers += static_cast<double>(at - first);
    }
    if (pages > 0 && (open.empty() || open.back().first < pages)) open.emplace_back(pages, first);
  }
  return found;
}

}  // namespace

int64_t prefix_ends(const Workload& workload, int64_t page_tokens, const Policy& policy) {
  if (policy.prefix_pages == 0 || workload.sample.empty()) return 0;
  const SharedBeginnings found = shared_beginnings(workload.sample, page_tokens);
  // Of the block's sequences at the most, and of those that take longer.
  const auto block = static_cast<size_t>(policy.block_size());
  int64_t most = 0, now = 0;
  for (size_t last = 0; last < workload.sample.size(); ++last) {
    now += found.begun[last];
    if (last + 1 >= block) now -= found.ended[last + 1 - block];
    most = std::max(most, now);
  }
  const double later = static_cast<double>(ceil_div(policy.block_size(), 8)) * found.sharers / static_cast<double>(workload.sample.size());
  return std::min(found.count * workload.sample_stride, most + static_cast<int64_t>(std::ceil(later)));
}

double computed_prompt_tokens(const Workload& workload, const Policy& policy) {
  return policy.prefix_pages > 0 ? workload.computed_prompt_tokens() : workload.total_prompt_tokens;
}

double even_rows(const Workload& workload, int64_t block_size) {
  return static_cast<double>(block_size) * (workload.mean_computed_prompt() + workload.mean_generated()) / (workload.mean_generated() + 1);
}

}  // namespace flexgen
