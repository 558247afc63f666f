#pragma once
// ExpertChoices: which experts the rows of each micro-batch chose in the sparse block under way, and so which of the block's visits take place. The compute lane writes a micro-batch's part once
// its attention is computed; the host thread, whose all else is, reads it when that is over.

#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "model/model.h"

namespace flexgen {

class ExpertChoices {
 public:
  ExpertChoices(const Model& model, int64_t num_batches);

  /// Simulations, in which nothing is computed: rows choose at random, by what is known of their choices (Model::draw_experts_by(), expert_chances()), else each expert alike.
  void imagine(uint64_t seed) { imagined_ = std::make_unique<std::mt19937_64>(seed); }

  /// Compute lane: the micro-batch's rows have chosen so, which is counted.
  void count(int64_t batch, std::span<const ExpertChoice> choices);
  /// Compute lane, too: how many rows of the micro-batch chose each expert [E].
  std::span<int32_t> rows_of_expert(int64_t batch) { return rows_of_expert_[static_cast<size_t>(batch)]; }

  /// What was learnt in the last pass means nothing any more.
  void forget() { first_unit_ = end_unit_ = 0; }
  /// The rows of the pass are known; `chooses`: it visits the units alone that some of them have chosen. Until then a pass is taken for one like the last.
  void begin_pass(bool chooses) { chooses_ = chooses; }
  bool chooses() const { return chooses_; }
  /// The block's micro-batches have chosen, of so many rows each (0: none is there): what they chose is known from now on. `first_unit`: the layer of the block's first experts.
  void learn(int64_t first_unit, int64_t first_batch, std::span<const int64_t> num_rows);
  bool knows(int64_t unit) const { return unit >= first_unit_ && unit < end_unit_; }

  // Of units that are known.
  /// Of all micro-batches, how many rows chose each expert [E].
  std::span<const int32_t> rows_of_expert() const { return all_; }
  // A pipeline stage's last layer is visited by all, though nothing may be loaded for it: micro-batches go on to the next stage in their order.
  bool is_wanted(int64_t unit) const { return is_last(unit) || layer(unit).rows_that_chose(all_) > 0; }
  bool is_wanted_by(int64_t batch, int64_t unit) const { return is_last(unit) || layer(unit).rows_that_chose(rows_of_expert_[static_cast<size_t>(batch)]) > 0; }
  /// What a micro-batch's visit multiplies: rows in all, and the mean of an expert that is chosen.
  struct Products {
    double rows = 0, rows_each = 0;
  };
  Products products_of(int64_t batch, int64_t unit) const;

 private:
  bool is_last(int64_t unit) const { return unit + 1 == static_cast<int64_t>(model_.layers().size()); }
  const LayerSpec& layer(int64_t unit) const { return model_.layers()[static_cast<size_t>(unit)]; }
  void draw(int64_t block, int64_t num_rows, std::span<int32_t> rows_of_expert);

  const Model& model_;
  std::vector<std::vector<int32_t>> rows_of_expert_;  ///< a batch
  std::vector<int32_t> all_;
  bool chooses_ = false;
  int64_t first_unit_ = 0, end_unit_ = 0;
  std::unique_ptr<std::mt19937_64> imagined_;
};

}  // namespace flexgen
