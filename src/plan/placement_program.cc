#include "plan/placement_program.h"

#include <ClpSimplex.hpp>
#include <CoinPackedMatrix.hpp>

#include <algorithm>

namespace flexgen {
namespace {

constexpr int kShares = kNumTensorKinds * kNumTiers;

/// Rows of the program as they come: coefficients of the shares and of one class's time.
class Rows {
 public:
  void add(const Affine& affine, int time_column, double low, double high) {
    for (int i = 0; i < kShares; ++i)
      if (affine.slope[static_cast<size_t>(i)] != 0) entry(i, affine.slope[static_cast<size_t>(i)]);
    if (time_column >= 0) entry(time_column, -1);
    lower.push_back(low - affine.constant);
    upper.push_back(high - affine.constant);
  }
  std::vector<int> row_of, column_of;
  std::vector<double> values, lower, upper;

 private:
  void entry(int column, double value) {
    row_of.push_back(static_cast<int>(lower.size()));
    column_of.push_back(column);
    values.push_back(value);
  }
};

}  // namespace

Affine& Affine::operator+=(const Affine& other) {
  constant += other.constant;
  for (size_t i = 0; i < slope.size(); ++i) slope[i] += other.slope[i];
  return *this;
}

Affine Affine::scaled(double factor) const {
  Affine result = *this;
  result.constant *= factor;
  for (double& value : result.slope) value *= factor;
  return result;
}

std::optional<Placement> solve(const PlacementProgram& program) {
  const int columns = kShares + static_cast<int>(program.steps.size());
  std::vector<double> low(static_cast<size_t>(columns), 0), high(static_cast<size_t>(columns), COIN_DBL_MAX), cost(static_cast<size_t>(columns), 0);
  for (int kind = 0; kind < kNumTensorKinds; ++kind)
    for (int tier = 0; tier < kNumTiers; ++tier) {
      const auto column = static_cast<size_t>(kind * kNumTiers + tier);
      high[column] = program.allowed[static_cast<size_t>(kind)][static_cast<size_t>(tier)] ? 1 : 0;
      if (const auto& fixed = program.fixed[static_cast<size_t>(kind)])
        low[column] = high[column] = std::array{fixed->gpu, fixed->cpu, fixed->disk}[static_cast<size_t>(tier)];
    }
  Rows rows;
  for (int kind = 0; kind < kNumTensorKinds; ++kind) {
    Affine sum;
    for (int tier = 0; tier < kNumTiers; ++tier) sum.slope[static_cast<size_t>(kind * kNumTiers + tier)] = 1;
    rows.add(sum, -1, 1, 1);
  }
  // In GiB, so that all numbers are of a size.
  constexpr double kUnit = 1.0 / (1 << 30);
  for (size_t tier = 0; tier < kNumTiers; ++tier) rows.add(program.bytes[tier].scaled(kUnit), -1, -COIN_DBL_MAX, program.capacity[tier] * kUnit);
  for (size_t step = 0; step < program.steps.size(); ++step) {
    const int column = kShares + static_cast<int>(step);
    cost[static_cast<size_t>(column)] = program.steps[step].count;
    for (const Affine& resource_s : program.steps[step].resources_s) rows.add(resource_s, column, -COIN_DBL_MAX, 0);
  }
  CoinPackedMatrix matrix(true, rows.row_of.data(), rows.column_of.data(), rows.values.data(), static_cast<CoinBigIndex>(rows.values.size()));
  matrix.setDimensions(static_cast<int>(rows.lower.size()), columns);
  ClpSimplex simplex;
  simplex.setLogLevel(0);
  simplex.loadProblem(matrix, low.data(), high.data(), cost.data(), rows.lower.data(), rows.upper.data());
  simplex.primal();
  if (!simplex.isProvenOptimal()) return std::nullopt;
  Placement result;
  const double* x = simplex.primalColumnSolution();
  for (size_t kind = 0; kind < kNumTensorKinds; ++kind) {
    auto share = [&](int tier) { return std::clamp(x[kind * kNumTiers + static_cast<size_t>(tier)], 0.0, 1.0); };
    result.shares[kind] = {share(0), share(1), share(2)};
  }
  result.time_s = simplex.objectiveValue();
  return result;
}

}  // namespace flexgen
