#include "backend/cpu/unit_shares.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <thread>
#include <vector>

#include "backend/cpu/linear_tiles.h"
#include "backend/cpu/weight_order.h"

namespace flexgen::unit_shares_test {
namespace {

TEST(UnitShares, AWorkerByItselfDoesItsOwnInOrderAndThenTheOthersFromTheEnd) {
  UnitShares shares(2);
  shares.start(6, 2);
  std::vector<int64_t> units, next;
  for (int i = 0; i < 6; ++i) {
    const UnitShares::Unit unit = shares.take(0);
    units.push_back(unit.unit);
    next.push_back(unit.next);
  }
  EXPECT_EQ(units, (std::vector<int64_t>{0, 1, 2, 5, 4, 3}));
  EXPECT_EQ(next, (std::vector<int64_t>{1, 2, -1, 4, 3, -1}));
  // A worker that has no stretch in this round helps.
  shares.start(1, 1);
  EXPECT_EQ(shares.take(1).unit, 0);
}

TEST(UnitShares, EachUnitIsTakenOnceWhoeverComes) {
  constexpr int kWorkers = 4;
  UnitShares shares(kWorkers);
  for (const int64_t num_units : {1, 3, 4, 5, 1000, 20000}) {
    std::vector<std::atomic<int>> taken(static_cast<size_t>(num_units));
    std::atomic<int64_t> left = num_units;
    shares.start(num_units, kWorkers);
    std::vector<std::thread> threads;
    for (int worker = 0; worker < kWorkers; ++worker)
      threads.emplace_back([&, worker] {
        while (left.fetch_sub(1) > 0) ++taken[static_cast<size_t>(shares.take(worker).unit)];
      });
    for (std::thread& thread : threads) thread.join();
    for (int64_t i = 0; i < num_units; ++i) ASSERT_EQ(taken[static_cast<size_t>(i)], 1) << "unit " << i << " of " << num_units;
  }
}

TEST(WeightOrder, TellsWhatCameNextTheLastTime) {
  std::array<std::byte, 64> a, b, c;
  const auto weight = [](const std::array<std::byte, 64>& data) { return WeightView{DType::kBF16, 4, 8, {{data.data(), 4}}}; };
  WeightOrder order;
  for (const auto* data : {&a, &b, &c}) EXPECT_EQ(order.next_after(weight(*data)).rows, 0) << "the first time nothing is known";
  const auto expect_next = [&](const std::array<std::byte, 64>& now, const std::array<std::byte, 64>& next) {
    const WeightOrder::Place place = order.next_after(weight(now));
    EXPECT_EQ(place.data, next.data());
    EXPECT_EQ(place.rows, 4);
    EXPECT_EQ(place.row_bytes, 16);
  };
  expect_next(a, b);
  expect_next(b, c);
  expect_next(c, a);
  expect_next(b, c);
  expect_next(c, b);  // what came this last time, not what came oftener
}

TEST(PanelUnits, HaveEveryPanelOfEveryTileOnce) {
  for (const int workers : {1, 2, 3, 16})
    for (int64_t tiles = 1; tiles <= 70; ++tiles)
      for (const int64_t panels : {1, 2, 5, 40}) {
        const PanelUnits units(tiles, panels, workers);
        std::vector<int> seen(static_cast<size_t>(tiles * panels));
        for (int64_t i = 0; i < units.count(); ++i)
          for (int64_t panel = units[i].first_panel; panel < panels; panel += units[i].step) ++seen[static_cast<size_t>(units[i].tile * panels + panel)];
        EXPECT_EQ(seen, std::vector<int>(seen.size(), 1)) << tiles << " tiles, " << panels << " panels, " << workers << " workers";
      }
  EXPECT_EQ(PanelUnits(45, 2, 2).count(), 46) << "the last tile is shared";
  EXPECT_EQ(PanelUnits(4, 2, 2).count(), 4);
}

}  // namespace
}  // namespace flexgen::unit_shares_test
