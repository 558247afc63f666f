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

Shots choose_shots(TableReader& table, const std::string& answer_column, int64_t count, bool balanced, uint64_t seed) {
  std::map<std::string, std::vector<ShotCandidate>> by_answer;
  TableRow row;
  int64_t rows = 0;
  while (table.next(&row)) {
    ++rows;
    const std::optional<jinja::Value> value = value_of(row, table.columns(), answer_column);
    if (!value) fail_user("{}: there is no column '{}', which has the answers of examples; name it with --answer-column", table.place(row), answer_column);
    std::string answer = cell_text(*value);
    std::vector<ShotCandidate>& heap = by_answer[balanced ? answer : ""];
    if (std::ssize(by_answer) > count)
      fail_user("--balanced: {} has more than {} different answers in '{}'; raise --shots, or leave --balanced out", table.path(), count, answer_column);
    keep_first(heap, {seed_of(fmt::format("{} {}", seed, row.number)), {row, std::move(answer)}}, static_cast<size_t>(count));
  }
  if (rows < count) fail_user("--shots {}: {} has {} rows", count, table.path(), rows);
  const auto answers = std::ssize(by_answer);
  std::vector<ShotCandidate> chosen;
  int64_t index = 0;
  for (auto& [answer, heap] : by_answer) {
    const int64_t wanted = count / answers + (index++ < count % answers ? 1 : 0);
    if (std::ssize(heap) < wanted)
      fail_user("--balanced: {} has {} rows with '{}' in '{}', and {} are needed; lower --shots, or leave --balanced out", table.path(), heap.size(), answer,
                answer_column, wanted);
    std::sort_heap(heap.begin(), heap.end(), ranks_before);
    for (int64_t i = 0; i < wanted; ++i) chosen.push_back(std::move(heap[static_cast<size_t>(i)]));
  }
  std::sort(chosen.begin(), chosen.end(), ranks_before);
  Shots shots{{}, table.columns()};
  for (ShotCandidate& candidate : chosen) shots.shots.push_back(std::move(candidate.shot));
  return shots;
}

}  // namespace flexgen
