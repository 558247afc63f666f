#pragma once
// StreamOrder: which layer's streamed rows are loaded next, how far ahead, and as which object of the ring of staging buffers. A pass loads its layers in order: units of experts all of them,
// ahead of their use, or, in a pass that chooses, those of which some row has chosen an expert, once that is known. WeightStore loads by it, and the cost model counts time by it. Pure.

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "model/model.h"
#include "schedule/visit.h"

namespace flexgen {

class StreamOrder {
 public:
  struct Object {
    int64_t pass = 0, layer = 0;
    int64_t place = 0;  ///< among the streamed layers of all passes, loaded or not
  };

  StreamOrder() = default;
  /// `streamed`: the layers with rows that do not stay in memory, in order; `buffers`: of the ring. `chooses`: what the first pass is taken for until it begins.
  StreamOrder(const Model& model, std::vector<int64_t> streamed, int64_t buffers, bool chooses);

  /// It is known how the pass loads experts. Later ones are taken for such too, until they begin.
  void begin_pass(int64_t pass, bool chooses);
  bool chooses() const { return chooses_; }
  /// In the pass under way, which chooses: which of the units first_layer, first_layer + 1, ... are wanted.
  void choose(int64_t first_layer, const std::vector<bool>& wanted);

  /// What is to be loaded next; nothing while that is not known.
  std::optional<Object> next() {
    if (streamed_.empty()) return std::nullopt;
    for (;; step()) {
      const Object object{next_pass_, streamed_[next_index_], next_pass_ * size() + static_cast<int64_t>(next_index_)};
      if (!is_unit_[next_index_]) return object;
      if (next_pass_ < pass_) continue;  // nobody came for it
      if (!chooses_) return object;
      if (next_pass_ > pass_ || choices_[next_index_] == Choice::kUnknown) return std::nullopt;
      if (choices_[next_index_] == Choice::kWanted) return object;
    }
  }
  /// Takes next(), which there must be; it becomes object number taken() of the ring.
  Object take();
  int64_t taken() const { return first_kept_ + static_cast<int64_t>(kept_.size()); }
  /// The number of a layer's object in a pass; -1 where it was not taken, or so long ago that another has its buffer.
  int64_t number_of(int64_t pass, int64_t layer) const {
    const int64_t index = index_[static_cast<size_t>(layer)];
    if (index < 0) return -1;
    const auto known = std::find(kept_.begin(), kept_.end(), pass * size() + index);
    return known == kept_.end() ? -1 : first_kept_ + (known - kept_.begin());
  }

  /// An object of the ring, of which the first pieces are issued.
  struct Loading {
    int64_t number = 0;
    Object object;
    bool chosen_alone = false;  ///< of experts those that were chosen
    int64_t pieces_issued = 0;
  };
  // `issue(loading, num_pieces)` issues the next piece of so many.
  /// The number of the object that a visit to a streamed layer needs. Where it was not loaded ahead, it and those before it are issued whole: at the start of the run, with a single buffer, or
  /// experts that were just chosen.
  template <class Issue>
  int64_t acquire(const Visit& visit, Issue issue) {
    int64_t number = number_of(visit.pass, visit.layer);
    for (; number < 0; number = number_of(visit.pass, visit.layer)) {
      check_is_due(visit);
      issue(take_loading(), 1);
    }
    return number;
  }
  /// A visit's share of the loads ahead: what has a free buffer at once, and of the object a ring behind its own layer's one piece, so that other loads do not queue behind a whole layer.
  template <class Issue>
  void prefetch(const Visit& visit, Issue issue) {
    const int64_t own = number_of(visit.pass, visit.layer);
    if (own < 0 || buffers_ < 2) return;
    // The buffer after the newest ones was freed by the object before this one.
    const int64_t furthest = own + buffers_ - 1;
    while (taken() < furthest && next()) issue(take_loading(), 1);  // start of the run, or experts that were just chosen: fill the ring
    if (taken() == furthest && next()) loading_ = take_loading();
    if (!loading_) return;
    // Visits that were skipped at the start of a pass left their pieces to this one.
    for (; loading_->pieces_issued <= visit.batch - visit.group_first; ++loading_->pieces_issued) issue(*loading_, visit.group_size());
    if (loading_->pieces_issued == visit.group_size()) loading_.reset();
  }

 private:
  Loading take_loading() {
    const int64_t number = taken();
    return {number, take(), chooses_, 0};
  }
  void check_is_due(const Visit& visit);

  enum class Choice : uint8_t { kUnknown, kWanted, kNotWanted };
  int64_t size() const { return static_cast<int64_t>(streamed_.size()); }
  void step() {
    if (++next_index_ < streamed_.size()) return;
    next_index_ = 0;
    ++next_pass_;
  }

  std::vector<int64_t> streamed_;
  std::vector<int64_t> index_;   ///< a layer: where it is in streamed_, or -1
  std::vector<bool> is_unit_;    ///< a streamed layer
  std::vector<Choice> choices_;  ///< a streamed layer, in the pass under way
  int64_t buffers_ = 1, pass_ = -1;
  int64_t next_pass_ = 0;  ///< where next() goes on: a pass, and an index of streamed_
  size_t next_index_ = 0;
  bool chooses_ = false;
  std::vector<int64_t> kept_;       ///< places of the objects that were taken last, a buffer each
  int64_t first_kept_ = 0;          ///< number of the first of these
  std::optional<Loading> loading_;  ///< the newest object, while some of its pieces are not issued
};

}  // namespace flexgen
