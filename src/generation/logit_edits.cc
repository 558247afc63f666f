#include "generation/logit_edits.h"

#include <algorithm>
#include <limits>

namespace flexgen {
namespace {

constexpr float kBanned = -std::numeric_limits<float>::infinity();

}  // namespace

LogitEdits::LogitEdits(const Request& request, std::span<const int32_t> eos, int64_t vocab_size) : request_(&request), vocab_size_(vocab_size) {
  const SamplingParams& params = request.params;
  if (params.min_tokens > 0) {
    ends_ = params.stop_token_ids;
    ends_.insert(ends_.end(), eos.begin(), eos.end());
  }
  for (auto [token, bias] : params.logit_bias)
    if (token < vocab_size) edit_of(token).bias = bias;
  if (params.repetition_penalty != 1)
    for (int32_t token : request.prompt) edit_of(token).repetition = static_cast<float>(params.repetition_penalty);
}

LogitEdit& LogitEdits::edit_of(int32_t token) {
  const auto [place, is_new] = places_.try_emplace(token, edits_.size());
  if (is_new) edits_.push_back({.token = token});
  return edits_[place->second];
}

std::vector<LogitEdit> LogitEdits::next(std::span<const int32_t> answer) {
  const SamplingParams& params = request_->params;
  const bool counts = params.presence_penalty != 0 || params.frequency_penalty != 0;
  for (; counted_ < answer.size() && (counts || params.repetition_penalty != 1); ++counted_) {
    LogitEdit& edit = edit_of(answer[counted_]);
    edit.repetition = static_cast<float>(params.repetition_penalty);
    if (counts) edit.penalty = static_cast<float>(params.frequency_penalty * static_cast<double>(++counts_[edit.token]) + params.presence_penalty);
  }
  std::vector<int32_t> banned;
  if (std::ssize(answer) < params.min_tokens) banned = ends_;
  for (const std::vector<int32_t>& word : params.bad_words) {
    const auto before = std::span(word).first(word.size() - 1);
    if (before.size() <= answer.size() && std::equal(before.begin(), before.end(), answer.end() - std::ssize(before))) banned.push_back(word.back());
  }
  std::sort(banned.begin(), banned.end());
  banned.erase(std::unique(banned.begin(), banned.end()), banned.end());
  std::vector<LogitEdit> edits = edits_;
  for (int32_t token : banned) {
    if (token < 0 || token >= vocab_size_) continue;
    if (const auto found = places_.find(token); found != places_.end()) edits[found->second].bias = kBanned;
    else edits.push_back({.token = token, .bias = kBanned});
  }
  return edits;
}

}  // namespace flexgen
