#pragma once
// Policy: everything about a run that may change its speed but never its answers. Pure data.

#include <algorithm>
#include <cstdint>

#include "memory/tier.h"

namespace flexgen {

/// What all pipeline stages of a job must have in common: the sizes of a block.
struct BlockShape {
  int64_t micro_batch_size = 1, num_micro_batches = 1, max_rows = 256, max_logit_rows = 256, pages_per_micro_batch = 1, num_groups = 1, prefix_pages = 0,
          prefix_ends = 0;
  bool operator==(const BlockShape&) const = default;
};

struct Policy {
  int64_t micro_batch_size = 1;   ///< slots a micro-batch
  int64_t num_micro_batches = 1;  ///< micro-batches a block
  int64_t num_groups = 1;         ///< pipeline stages: groups of micro-batches that go through the layers one after the other
  int64_t max_rows = 256;         ///< tokens of one micro-batch in one step, at most
  int64_t max_logit_rows = 256;   ///< of these, positions whose logits are computed, at most
  /// Of a mixture's experts a pass of so many rows at most loads those that its rows choose, once that is known; a larger one loads all, ahead of their use.
  int64_t max_choosing_rows = 0;
  /// Of a mixture whose choices were counted (Model::expert_chances()), the experts of a block that are chosen most often get the faster tiers whole; else all get the same share of these.
  bool hottest_first = false;
  int buffers = 3;         ///< staging buffers a tensor kind: 1 no overlap, 2 FlexGen's, 3 smoother
  int weight_buffers = 0;  ///< those of weights where they are to be more: small layers (units of experts) are read and computed unevenly
  Fractions weights, kv_cache, activations;
  Tier compute_tier = Tier::kCpu;     ///< kGpu where a device computes; gpu shares are 0 else
  Tier attention_tier = Tier::kCpu;   ///< compute_tier, or kCpu beside a device: then the cache has no gpu share
  int64_t pages_per_micro_batch = 1;  ///< cache pages (of every layer) for the sequences of a micro-batch
  int64_t prefix_pages = 0;           ///< and for what sequences of any micro-batch have in common; 0: nothing is shared
  int64_t prefix_ends = 0;            ///< places where these prefixes end: layers with a window keep what is seen from there; 0: not known, they keep all

  int num_weight_buffers() const { return buffers == 1 ? 1 : std::max(buffers, weight_buffers); }
  bool on_gpu() const { return compute_tier == Tier::kGpu; }
  /// Whether a pass of so many rows loads the experts that they choose.
  bool chooses_experts(double rows) const { return rows <= static_cast<double>(max_choosing_rows); }
  bool attention_beside() const { return attention_tier != compute_tier; }
  BlockShape block() const {
    return {micro_batch_size, num_micro_batches, max_rows, max_logit_rows, pages_per_micro_batch, num_groups, prefix_pages, prefix_ends};
  }
  void set_block(const BlockShape& shape) {
    micro_batch_size = shape.micro_batch_size;
    num_micro_batches = shape.num_micro_batches;
    max_rows = shape.max_rows;
    max_logit_rows = shape.max_logit_rows;
    pages_per_micro_batch = shape.pages_per_micro_batch;
    num_groups = shape.num_groups;
    prefix_pages = shape.prefix_pages;
    prefix_ends = shape.prefix_ends;
  }
  int64_t block_size() const { return micro_batch_size * num_micro_batches; }
};

/// Rows of a weight matrix are placed in multiples of this.
inline constexpr int64_t kWeightGrainRows = 16;

}  // namespace flexgen
