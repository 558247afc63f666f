#include "batch/best_choices.h"

#include <algorithm>
#include <numeric>

namespace flexgen {

float mean_logprob(const Completion& completion) {
  double sum = 0;
  for (const TokenLogprob& entry : completion.logprobs) sum += entry.logprob;
  return static_cast<float>(sum / static_cast<double>(std::max<size_t>(1, completion.logprobs.size())));
}

std::vector<int64_t> best_choices(const BatchRequest& request, std::span<const float> means) {
  std::vector<int64_t> picked;
  if (!request.chooses()) return picked;
  const int64_t each = request.best_of;
  for (int64_t first = 0; first < std::ssize(means); first += each) {
    std::vector<int64_t> order(static_cast<size_t>(each));
    std::iota(order.begin(), order.end(), first);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return means[static_cast<size_t>(a)] > means[static_cast<size_t>(b)]; });
    picked.insert(picked.end(), order.begin(), order.begin() + request.n);
  }
  return picked;
}

}  // namespace flexgen
