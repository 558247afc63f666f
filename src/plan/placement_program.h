#pragma once
// PlacementProgram: FlexGen's linear program (section 4.3): for a given block, the shares of weights, KV cache and activations in gpu, cpu and disk
// that take the least time within the memory of each tier. Solved with COIN-OR CLP. Pure functions.

#include <array>
#include <optional>
#include <vector>

#include "memory/tier.h"

namespace flexgen {

/// What has shares of the tiers.
enum class TensorKind { kWeights, kKvCache, kActivations };
inline constexpr int kNumTensorKinds = 3;

/// constant + sum of slope * share over the nine shares.
struct Affine {
  double constant = 0;
  std::array<double, kNumTensorKinds * kNumTiers> slope{};
  double& of(TensorKind kind, Tier tier) { return slope[static_cast<size_t>(kind) * kNumTiers + static_cast<size_t>(tier)]; }
  Affine& operator+=(const Affine& other);
  Affine scaled(double factor) const;
};

/// Steps that are alike: each takes as long as the slowest of its resources.
struct StepClass {
  double count = 0;
  std::vector<Affine> resources_s;
};

struct PlacementProgram {
  std::vector<StepClass> steps;
  std::array<Affine, kNumTiers> bytes;  ///< taken of each tier
  std::array<double, kNumTiers> capacity{};
  std::array<std::optional<Fractions>, kNumTensorKinds> fixed;
  std::array<std::array<bool, kNumTiers>, kNumTensorKinds> allowed{};
};

/// The solution: a share of each tier for each kind, and the time that the program gives the job.
struct Placement {
  std::array<Fractions, kNumTensorKinds> shares;
  double time_s = 0;
  const Fractions& of(TensorKind kind) const { return shares[static_cast<size_t>(kind)]; }
};

/// Nothing if no placement fits.
std::optional<Placement> solve(const PlacementProgram& program);

}  // namespace flexgen
