#include "schedule/expert_choices.h"

#include <algorithm>

namespace flexgen {

ExpertChoices::ExpertChoices(const Model& model, int64_t num_batches)
    : model_(model), rows_of_expert_(static_cast<size_t>(num_batches), std::vector<int32_t>(static_cast<size_t>(model.config().mixture.num_experts))),
      all_(static_cast<size_t>(model.config().mixture.num_experts)) {}

void ExpertChoices::count(int64_t batch, std::span<const ExpertChoice> choices) {
  const std::span<int32_t> rows = rows_of_expert(batch);
  std::fill(rows.begin(), rows.end(), 0);
  for (const ExpertChoice& choice : choices) ++rows[static_cast<size_t>(choice.expert)];
}

void ExpertChoices::learn(int64_t first_unit, int64_t first_batch, std::span<const int64_t> num_rows) {
  std::fill(all_.begin(), all_.end(), 0);
  for (size_t i = 0; i < num_rows.size(); ++i) {
    const std::span<int32_t> own = rows_of_expert(first_batch + static_cast<int64_t>(i));
    if (num_rows[i] == 0) std::fill(own.begin(), own.end(), 0);
    else if (imagined_) draw(layer(first_unit).index, num_rows[i], own);
    for (size_t expert = 0; expert < own.size(); ++expert) all_[expert] += own[expert];
  }
  first_unit_ = end_unit_ = first_unit;
  while (end_unit_ < static_cast<int64_t>(model_.layers().size()) && layer(end_unit_).kind == LayerKind::kExperts) ++end_unit_;
}

ExpertChoices::Products ExpertChoices::products_of(int64_t batch, int64_t unit) const {
  const LayerSpec& experts = layer(unit);
  const std::vector<int32_t>& own = rows_of_expert_[static_cast<size_t>(batch)];
  const auto first = own.begin() + experts.first_expert, end = first + experts.num_experts;
  const auto rows = static_cast<double>(experts.rows_that_chose(own));
  const auto chosen = std::count_if(first, end, [](int32_t count) { return count > 0; });
  return {rows, rows / static_cast<double>(std::max<ptrdiff_t>(1, chosen))};
}

void ExpertChoices::draw(int64_t block, int64_t num_rows, std::span<int32_t> rows_of_expert) {
  std::fill(rows_of_expert.begin(), rows_of_expert.end(), 0);
  const int64_t num_experts = std::ssize(rows_of_expert), per_row = model_.config().mixture.experts_per_row;
  if (const ExpertChances* chances = model_.config().mixture.drawn ? model_.config().mixture.drawn.get() : model_.expert_chances()) {
    std::vector<int32_t> row(static_cast<size_t>(per_row));
    for (int64_t at = 0; at < num_rows; ++at) {
      draw_experts(chances->of_block(block), (*imagined_)(), row);
      for (int32_t expert : row) ++rows_of_expert[static_cast<size_t>(expert)];
    }
    return;
  }
  std::vector<int64_t> row(static_cast<size_t>(per_row));
  for (int64_t at = 0; at < num_rows; ++at)
    for (int64_t i = 0; i < per_row; ++i) {
      // Floyd's draw of k different ones.
      auto expert = static_cast<int64_t>((*imagined_)() % static_cast<uint64_t>(num_experts - per_row + i + 1));
      if (std::find(row.begin(), row.begin() + i, expert) != row.begin() + i) expert = num_experts - per_row + i;
      row[static_cast<size_t>(i)] = expert;
      ++rows_of_expert[static_cast<size_t>(expert)];
    }
}

}  // namespace flexgen
