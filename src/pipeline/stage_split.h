#pragma once
// Pipeline stages: which blocks of the model each rank gets, and what all ranks must agree on. Pure functions.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/model.h"
#include "schedule/policy.h"

namespace flexgen {

/// What a rank brings.
struct StageResources {
  int64_t cpu_bytes = 0;            ///< its RAM budget
  double flops_per_s = 1e12;        ///< of matrix products
  double disk_bytes_per_s = 1.5e9;  ///< what does not fit is read at this
};

/// Blocks of each rank, one at least, in all the model's: so that the slowest rank is as fast as can be. A rank's time for a pass is that of its products
/// for `rows` rows or that of reading what its RAM does not hold of its layers, whichever is more; the last rank has the head too.
/// Throws Error{user} for more ranks than blocks.
std::vector<int64_t> split_blocks(const Model& model, std::span<const StageResources> ranks, double rows = 256);

/// "10:22" as blocks of each rank; throws Error{user} naming `flag` unless it is `num_ranks` numbers above 0 whose sum is `num_blocks`.
std::vector<int64_t> parse_split(const std::string& text, const char* flag, int64_t num_ranks, int64_t num_blocks);

/// The block that ranks with these wishes should do: that of the rank with the smallest, in as few groups as any of them wants.
BlockShape agreed_block(std::span<const BlockShape> wishes);

/// The same where a rank has no room for that one, as its own has fewer rows or pages: of each size the least that any wishes. No prefixes are shared.
BlockShape smallest_block(std::span<const BlockShape> wishes);

}  // namespace flexgen
