#include "tables/shots.h"

#include <algorithm>
#include <map>

#include "base/error.h"
#include "batch/batch_line.h"

namespace flexgen {
namespace {

struct ShotCandidate {
  uint64_t rank = 0;  ///< drawn from seed and row number: the smallest are chosen
  Shot shot;
};

bool ranks_before(const ShotCandidate& a, const ShotCandidate& b) { return a.rank != b.rank ? a.rank < b.rank : a.shot.row.number < b.shot.row.number; }

/// Keeps the first `most` by rank.
void keep_first(std::vector<ShotCandidate>& heap, ShotCandidate candidate, size_t most) {
  if (heap.size() == most && !ranks_before(candidate, heap.front())) return;
  if (heap.size() == most) {
    std::pop_heap(heap.begin(), heap.end(), ranks_before);
    heap.pop_back();
  }
  heap.push_back(std::move(candidate));
  std::push_heap(heap.begin(), heap.end(), ranks_before);
}

}  // namespace

Shots choose_shots(TableReader& table, const std::string& answer_column, const ShotChoice& choice) {
  const int64_t count = choice.count, spare = choice.with_spares ? 1 : 0;
  const char* const why_more = choice.with_spares ? " (one more, as no row is an example of its own)" : "";
  std::map<std::string, std::vector<ShotCandidate>> by_answer;
  TableRow row;
  int64_t rows = 0;
  while (table.next(&row)) {
    ++rows;
    const std::optional<jinja::Value> value = value_of(row, table.columns(), answer_column);
    if (!value) fail_user("{}: there is no column '{}', which has the answers of examples; name it with --answer-column", table.place(row), answer_column);
    std::string answer = cell_text(*value);
    std::vector<ShotCandidate>& heap = by_answer[choice.balanced ? answer : ""];
    if (std::ssize(by_answer) > count)
      fail_user("--balanced: {} has more than {} different answers in '{}'; raise --shots, or leave --balanced out", table.path(), count, answer_column);
    keep_first(heap, {seed_of(fmt::format("{} {}", choice.seed, row.number)), {row, std::move(answer)}}, static_cast<size_t>(count + spare));
  }
  if (rows < count + spare) fail_user("--shots {}: {} has {} rows, and {} are needed{}; lower --shots", count, table.path(), rows, count + spare, why_more);
  const auto answers = std::ssize(by_answer);
  std::vector<std::pair<ShotCandidate, size_t>> chosen;  // with its spare
  Shots shots{{}, table.columns()};
  int64_t index = 0;
  for (auto& [answer, heap] : by_answer) {
    const int64_t wanted = count / answers + (index < count % answers ? 1 : 0);
    if (std::ssize(heap) < wanted + spare)
      fail_user("--balanced: {} has {} rows with '{}' in '{}', and {} are needed{}; lower --shots, or leave --balanced out", table.path(), heap.size(), answer,
                answer_column, wanted + spare, why_more);
    std::sort_heap(heap.begin(), heap.end(), ranks_before);
    for (int64_t i = 0; i < wanted; ++i) chosen.emplace_back(std::move(heap[static_cast<size_t>(i)]), static_cast<size_t>(index));
    if (choice.with_spares) shots.spares.push_back(std::move(heap[static_cast<size_t>(wanted)].shot));
    ++index;
  }
  std::sort(chosen.begin(), chosen.end(), [](const auto& a, const auto& b) { return ranks_before(a.first, b.first); });
  for (auto& [candidate, spare_index] : chosen) {
    shots.shots.push_back(std::move(candidate.shot));
    if (choice.with_spares) shots.spare_of.push_back(spare_index);
  }
  return shots;
}

}  // namespace flexgen
