// The list of stores: every kind is asked once, and a visit commits in the opposite of the order in which it acquires.

#include "schedule/store_order.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace flexgen::store_order_test {
namespace {

struct Names {
  std::string weights = "weights", lookup = "lookup", cache = "cache", hidden = "hidden", messages = "messages";
};

TEST(StoreOrder, CommitsInTheOppositeOrder) {
  Names names;
  std::vector<std::string> acquired, committed, loading;
  for_each_store(all_stores(names), [&](const std::string& name) { acquired.push_back(name); });
  for_each_store_backwards(all_stores(names), [&](const std::string& name) { committed.push_back(name); });
  for_each_store(loading_stores(names), [&](const std::string& name) { loading.push_back(name); });
  // What is looked up may be in what weights have loaded; rows come from the stage before into where activations are, and are sent on before they go back.
  EXPECT_THAT(acquired, testing::ElementsAre("weights", "lookup", "cache", "hidden", "messages"));
  EXPECT_THAT(committed, testing::ElementsAre("messages", "hidden", "cache", "lookup", "weights"));
  EXPECT_THAT(loading, testing::ElementsAre("cache", "weights", "hidden"));
}

}  // namespace
}  // namespace flexgen::store_order_test
