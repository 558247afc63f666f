#pragma once
// Placement: which rows of which object lie in which tier. Pure functions; the planner, the arenas and the
// stagers all call these, so that rounding cannot disagree.

#include <cstdint>
#include <span>
#include <vector>

#include "memory/tier.h"

namespace flexgen {

/// A matrix, or anything else of rows, that may lie in several tiers.
struct PlacedObject {
  int64_t rows = 0;
  int64_t row_bytes = 0;
  int64_t grain_rows = 1;  ///< cuts fall on multiples of this (the end apart)
};

/// Rows in the order gpu, cpu, disk: [0, gpu), [gpu, gpu + cpu), the rest.
struct RowSplit {
  int64_t gpu = 0, cpu = 0, disk = 0;
  bool operator==(const RowSplit&) const = default;
};

/// A split as seen from the tier that computes. Everything resident is used where it lies. On a CPU nothing is `host`: RAM is resident, and what
/// is on disk passes through staging buffers. On a GPU both `host` (RAM) and `disk` do.
struct StagedSplit {
  int64_t resident = 0, host = 0, disk = 0;
};
/// Aborts where there is a gpu share and the GPU does not compute.
StagedSplit staged_split(const RowSplit& split, Tier compute_tier);

/// Splits objects by the fractions, one after the other. Rounding errors are carried from object to object, so that the bytes of any run of objects differ from the exact share by at most
/// about one grain a tier. (Whole-tensor rounding would turn a "10%" into nothing.)
class Placer {
 public:
  explicit Placer(const Fractions& fractions) : fractions_(fractions) {}
  RowSplit next(const PlacedObject& object);

 private:
  Fractions fractions_;
  double owed_gpu_ = 0, owed_fast_ = 0;  ///< bytes owed to the gpu and to gpu + cpu so far, less what was placed there
};

/// All of them.
std::vector<RowSplit> place(std::span<const PlacedObject> objects, const Fractions& fractions);

/// The same, where some objects deserve the faster tiers more: each of `groups` (indices of objects, the most deserving first; all objects are in one of them) gets the fractions, and
/// fills the faster tiers in that order, so that at most one object a tier is cut but for rounding, whose error is carried from group to group.
std::vector<RowSplit> place_in_order(std::span<const PlacedObject> objects, std::span<const std::vector<size_t>> groups, const Fractions& fractions);

}  // namespace flexgen
