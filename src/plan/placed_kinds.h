#pragma once
// What has shares of the tiers, as a table: what the planner asks of a kind is a column, and a kind more is a row. Pure data.

#include <array>
#include <optional>

#include "plan/placement_program.h"
#include "plan/policy_request.h"
#include "schedule/policy.h"

namespace flexgen {

/// A kind of tensor that a policy places.
struct PlacedKind {
  Fractions Policy::*shares;
  std::optional<Fractions> PolicyRequest::*asked;
  bool of_checkpoint =
      false;  ///< its disk share is in the checkpoint's files: no disk space is taken, nothing is written, and what stays in memory is read in the first step
  bool of_attention = false;  ///< lies where attention runs; what is beside a GPU has no share there, and does not cross the bus
  bool whole = false;         ///< so small that a tier which has most of it better has all

  /// Whether it lies beside the GPU that computes.
  bool is_beside(const Policy& policy) const { return of_attention && policy.attention_beside(); }
  /// Whether a share of it may be on disk, where spill files may take so much there.
  bool may_be_on_disk(int64_t spill_bytes) const { return of_checkpoint || spill_bytes > 0; }
};

/// By TensorKind.
inline constexpr std::array<PlacedKind, kNumTensorKinds> kPlacedKinds{{
    {&Policy::weights, &PolicyRequest::weights, true, false, false},
    {&Policy::kv_cache, &PolicyRequest::kv_cache, false, true, false},
    {&Policy::activations, &PolicyRequest::activations, false, false, true},
}};

constexpr const PlacedKind& placed_kind(TensorKind kind) { return kPlacedKinds[static_cast<size_t>(kind)]; }

/// Gives every kind these shares.
inline void place_all(const Fractions& shares, Policy* policy) {
  for (const PlacedKind& kind : kPlacedKinds) policy->*kind.shares = shares;
}

}  // namespace flexgen
