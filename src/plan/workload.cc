#include "plan/workload.h"

#include <algorithm>
#include <cmath>

namespace flexgen {
namespace {

/// An answer has one token at least, but for prompts that are only scored.
int64_t within(int64_t expected_tokens, int64_t max_tokens) { return std::clamp<int64_t>(expected_tokens, std::min<int64_t>(1, max_tokens), max_tokens); }

}  // namespace

void Workload::add(int64_t prompt_tokens, int64_t max_tokens, bool keeps, bool scored, std::optional<int64_t> expected_tokens, const PrefixTokens& prefix) {
  const int64_t generated = within(expected_tokens.value_or(max_tokens), max_tokens);
  if (num_sequences / kSampleRun % sample_stride == 0)
    sample.push_back({static_cast<int32_t>(prompt_tokens), static_cast<int32_t>(max_tokens), static_cast<int32_t>(generated), scored,
                      static_cast<int32_t>(prefix.prefix), static_cast<int32_t>(prefix.shared)});
  if (static_cast<int64_t>(sample.size()) > kMaxSample) {
    size_t kept = 0;
    for (size_t i = 0; i < sample.size(); ++i)
      if (i / static_cast<size_t>(kSampleRun) % 2 == 0) sample[kept++] = sample[i];
    sample.resize(kept);
    sample_stride *= 2;
  }
  ++num_sequences;
  longest_sequence = std::max(longest_sequence, prompt_tokens + max_tokens);
  total_prompt_tokens += static_cast<double>(prompt_tokens);
  total_prefix_tokens += static_cast<double>(prefix.prefix);
  total_shared_tokens += static_cast<double>(prefix.shared);
  total_max_tokens += static_cast<double>(max_tokens);
  total_generated_tokens += static_cast<double>(generated);
  keeps_logits = keeps_logits || keeps;
  scores_prompts = scores_prompts || scored;
  reads_logits = reads_logits || keeps || scored;
}

void Workload::expect(double share) {
  double generated = 0, most = 0;
  for (SequenceLength& length : sample) {
    length.generated = static_cast<int32_t>(within(std::llround(share * length.max_tokens), length.max_tokens));
    generated += length.generated;
    most += length.max_tokens;
  }
  // Whole tokens, as in the sample: a share of an answer of one token is that token.
  total_generated_tokens = total_max_tokens * (most > 0 ? generated / most : std::clamp(share, 0.0, 1.0));
}

size_t drawn_place(double i, double count, double size) {
  constexpr double kGoldenRatio = 0.6180339887498949;  // its multiples are spread evenly
  return static_cast<size_t>(std::min(size - 1, (i + std::fmod(i * kGoldenRatio, 1.0)) * size / count));
}

Workload Workload::in_pages(int64_t page_tokens) const {
  Workload paged = *this;
  const auto cut = [&](int32_t SequenceLength::*tokens, double& total) {
    int64_t before = 0, after = 0;
    for (SequenceLength& length : paged.sample) {
      before += length.*tokens;
      after += length.*tokens = static_cast<int32_t>(length.*tokens / page_tokens * page_tokens);
    }
    if (before > 0) total = total * static_cast<double>(after) / static_cast<double>(before);
  };
  cut(&SequenceLength::prefix, paged.total_prefix_tokens);
  cut(&SequenceLength::shared, paged.total_shared_tokens);
  return paged;
}

Workload Workload::without_sharing() const {
  Workload whole = *this;
  whole.total_prefix_tokens = whole.total_shared_tokens = 0;
  for (SequenceLength& length : whole.sample) length.prefix = length.shared = 0;
  return whole;
}

}  // namespace flexgen
