#include "backend/trace.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "io/test_folder.h"

namespace flexgen::trace_test {
namespace {

using Json = nlohmann::json;

/// Slices that a viewer drops by Perfetto's rule: on one track, a slice that begins within another must end within it.
int dropped_slices(const Json& events) {
  struct Slice {
    int64_t start_ns, end_ns;
  };
  std::map<std::pair<int, int>, std::vector<Slice>> tracks;
  for (const Json& event : events)
    if (event.at("ph") == "X") {
      const int64_t start = std::llround(1000 * event.at("ts").get<double>());
      tracks[{event.at("pid"), event.at("tid")}].push_back({start, start + std::llround(1000 * event.at("dur").get<double>())});
    }
  int dropped = 0;
  for (auto& [id, slices] : tracks) {
    std::stable_sort(slices.begin(), slices.end(), [](const Slice& a, const Slice& b) { return a.start_ns < b.start_ns; });
    std::vector<int64_t> open_ends;
    for (const Slice& slice : slices) {
      while (!open_ends.empty() && open_ends.back() <= slice.start_ns) open_ends.pop_back();
      if (!open_ends.empty() && slice.end_ns > open_ends.back()) ++dropped;
      else open_ends.push_back(slice.end_ns);
    }
  }
  return dropped;
}

Json read(const std::string& path) {
  std::ifstream in(path);
  return Json::parse(in);
}

TEST(Trace, OperationsThatOverlapAreKept) {
  TestFolder folder;
  const std::string path = folder.file("trace.json");
  constexpr int kOperations = 3000, kQueueDepth = 8;
  {
    Trace trace(path);
    const auto begin = Trace::Clock::now();
    std::mt19937 random(1);
    // A queue of 8: each place is taken again as soon as its operation is done; added in the order in which they end.
    std::vector<int64_t> place(kQueueDepth, 0), next(kQueueDepth);
    for (int64_t& end : next) end = 1 + static_cast<int64_t>(random() % 5000);
    for (int i = 0; i < kOperations; ++i) {
      const auto at = static_cast<size_t>(std::min_element(next.begin(), next.end()) - next.begin());
      trace.add("disk read", "weights", 1, i, 0, 4096, begin + std::chrono::nanoseconds(place[at]), begin + std::chrono::nanoseconds(next[at]));
      trace.add("compute", "forward", 1, i, 0, 0, begin + std::chrono::nanoseconds(i * 100), begin + std::chrono::nanoseconds(i * 100 + 100));
      place[at] = next[at];
      next[at] += 1 + static_cast<int64_t>(random() % 5000);
    }
  }
  const Json events = read(path);
  EXPECT_EQ(dropped_slices(events), 0);
  std::map<int, std::string> names;
  std::map<std::string, int> slices;
  for (const Json& event : events) {
    if (event["name"] == "thread_name") names[event["tid"]] = event["args"]["name"];
    if (event["ph"] == "X") ++slices[names.at(event["tid"])];
  }
  EXPECT_EQ(slices["compute"], kOperations) << "what does not overlap stays on one track";
  int reads = 0;
  for (const auto& [name, count] : slices)
    if (name.starts_with("disk read")) reads += count;
  EXPECT_EQ(reads, kOperations);
  EXPECT_LE(slices.size(), 1u + kQueueDepth);
  EXPECT_TRUE(slices.contains("disk read 2"));
}

TEST(Trace, NamesItsProcess) {
  TestFolder folder;
  const std::string path = folder.file("trace.json");
  { Trace trace(path); }
  EXPECT_EQ(read(path)[0]["args"]["name"], "flexgen");
  { Trace trace(path, {3, "rank 2", 0.5}); }
  const Json events = read(path);
  EXPECT_EQ(events[0]["pid"], 3);
  EXPECT_EQ(events[0]["args"]["name"], "rank 2");
}

// One that began later would leave neither trace whole.
TEST(Trace, AFileIsOfOneProcessAtATime) {
  TestFolder folder;
  const std::string path = folder.file("trace.json");
  {
    Trace trace(path);
    EXPECT_THROW(Trace{path}, Error);
    const auto now = Trace::Clock::now();
    trace.add("compute", "forward", 0, 0, 0, 0, now, now);
  }
  EXPECT_EQ(read(path).size(), 4U);
  { Trace trace(path); }
  EXPECT_EQ(read(path).size(), 1U) << "what an earlier run left is gone";
}

TEST(Trace, AFileThatCannotBeWrittenIsAnError) { EXPECT_THROW(Trace("/no/such/folder/trace.json"), Error); }

}  // namespace
}  // namespace flexgen::trace_test
