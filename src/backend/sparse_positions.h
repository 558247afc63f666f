#pragma once
// Which positions a sparse row attends to: the rule that all backends share. Pure functions.

#include <cstdint>
#include <span>
#include <vector>

namespace flexgen {

/// shares [n]: what the softmax over all n positions gives each, summed over the query heads of one kv head. Takes the last position (the row's own)
/// and the `kept` - 1 others with the largest shares; of equal ones the earlier. Ascending.
void choose_positions(std::span<const float> shares, int64_t kept, std::vector<int32_t>* chosen);

}  // namespace flexgen
