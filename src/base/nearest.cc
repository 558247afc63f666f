#include "base/nearest.h"

#include <algorithm>
#include <cctype>

namespace flexgen {
namespace {

std::string folded(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = c == '_' ? '-' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

}  // namespace

int edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<int>> steps(a.size() + 1, std::vector<int>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i)
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        steps[i][j] = static_cast<int>(i + j);
        continue;
      }
      const int replaced = steps[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      steps[i][j] = std::min({replaced, steps[i - 1][j] + 1, steps[i][j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) steps[i][j] = std::min(steps[i][j], steps[i - 2][j - 2] + 1);
    }
  return steps[a.size()][b.size()];
}

std::string nearest_name(std::string_view word, const std::vector<std::string>& names) {
  constexpr size_t kLongestWord = 64, kShortestBeginning = 3;
  if (word.size() > kLongestWord) return "";
  const std::string wanted = folded(word);
  std::string best;
  int best_steps = 0;
  for (const std::string& name : names) {
    const std::string candidate = folded(name);
    const int steps = edit_distance(wanted, candidate);
    // Dashes in front are not part of what can be mistyped.
    const size_t letters = std::max(candidate.size() - std::min(candidate.find_first_not_of('-'), candidate.size()), size_t{1});
    const bool near = steps <= std::max(1, static_cast<int>(letters) / 3) && steps < static_cast<int>(letters);
    if (near && (best.empty() || steps < best_steps)) {
      best = name;
      best_steps = steps;
    }
  }
  if (!best.empty()) return best;
  for (const std::string& name : names)
    if (wanted.size() >= kShortestBeginning + static_cast<size_t>(wanted.starts_with("--") ? 2 : 0) && folded(name).starts_with(wanted) &&
        (best.empty() || name.size() < best.size()))
      best = name;
  return best;
}

std::string did_you_mean(std::string_view word, const std::vector<std::string>& names) {
  const std::string name = nearest_name(word, names);
  return name.empty() ? "" : "; did you mean " + name + "?";
}

}  // namespace flexgen
