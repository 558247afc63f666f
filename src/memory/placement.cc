#include "memory/placement.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace flexgen {

StagedSplit staged_split(const RowSplit& split, Tier compute_tier) {
  if (compute_tier == Tier::kGpu) return {split.gpu, split.cpu, split.disk};
  FLEXGEN_CHECK(split.gpu == 0, "{} rows in a GPU that does not compute", split.gpu);
  return {split.cpu, 0, split.disk};
}

RowSplit Placer::next(const PlacedObject& object) {
  const double bytes = static_cast<double>(object.rows) * static_cast<double>(object.row_bytes);
  owed_gpu_ += bytes * fractions_.gpu;
  owed_fast_ += bytes * (fractions_.gpu + fractions_.cpu);
  const auto cut = [&](double owed, bool everything) {
    if (everything) return object.rows;
    const double grains = owed / static_cast<double>(object.row_bytes * object.grain_rows);
    const auto rows = static_cast<int64_t>(std::llround(std::max(0.0, grains))) * object.grain_rows;
    return std::min(rows, object.rows);
  };
  const int64_t gpu = fractions_.gpu <= 0 ? 0 : cut(owed_gpu_, fractions_.gpu >= 1);
  const int64_t fast = fractions_.cpu <= 0 ? gpu : std::max(gpu, cut(owed_fast_, fractions_.disk <= 0));
  owed_gpu_ -= static_cast<double>(gpu * object.row_bytes);
  owed_fast_ -= static_cast<double>(fast * object.row_bytes);
  return {gpu, fast - gpu, object.rows - fast};
}

std::vector<RowSplit> place(std::span<const PlacedObject> objects, const Fractions& fractions) {
  Placer placer(fractions);
  std::vector<RowSplit> splits;
  splits.reserve(objects.size());
  for (const PlacedObject& object : objects) splits.push_back(placer.next(object));
  return splits;
}

std::vector<RowSplit> place_in_order(std::span<const PlacedObject> objects, std::span<const std::vector<size_t>> groups, const Fractions& fractions) {
  std::vector<RowSplit> splits(objects.size());
  double owed_gpu = 0, owed_fast = 0;
  for (const std::vector<size_t>& group : groups) {
    double bytes = 0;
    for (size_t i : group) bytes += static_cast<double>(objects[i].rows * objects[i].row_bytes);
    owed_gpu += bytes * fractions.gpu;
    owed_fast += bytes * (fractions.gpu + fractions.cpu);
    for (size_t i : group) {
      const PlacedObject& object = objects[i];
      auto cut = [&](double owed, bool everything) {
        if (everything) return object.rows;
        const auto grains = static_cast<int64_t>(std::llround(std::max(0.0, owed / static_cast<double>(object.row_bytes * object.grain_rows))));
        return std::min(object.rows, grains * object.grain_rows);
      };
      const int64_t gpu = cut(owed_gpu, fractions.gpu >= 1);
      const int64_t fast = fractions.cpu <= 0 ? gpu : std::max(gpu, cut(owed_fast, fractions.disk <= 0));
      owed_gpu -= static_cast<double>(gpu * object.row_bytes);
      owed_fast -= static_cast<double>(fast * object.row_bytes);
      splits[i] = {gpu, fast - gpu, object.rows - fast};
    }
  }
  return splits;
}

}  // namespace flexgen
