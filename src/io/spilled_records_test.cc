#include "io/spilled_records.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <map>
#include <random>

#include "io/test_folder.h"

namespace flexgen::spilled_records_test {
namespace {

TEST(SpilledRecords, AreWhatWasPutIn) {
  std::mt19937_64 random(1);
  SpilledRecords<int64_t> records({}, 16);
  std::vector<int64_t> expected;
  for (int step = 0; step < 5000; ++step) {
    if (expected.empty() || random() % 2 == 0) {
      expected.push_back(step);
      records.push_back(step);
    } else {
      const auto at = static_cast<int64_t>(random() % expected.size());
      if (random() % 4 == 0) {
        expected[static_cast<size_t>(at)] = -step;
        records.set(at, -step);
      }
      ASSERT_EQ(records[at], expected[static_cast<size_t>(at)]);
      std::vector<int64_t> some(std::min<size_t>(40, expected.size() - static_cast<size_t>(at)));
      records.read(at, some);
      for (size_t i = 0; i < some.size(); ++i) ASSERT_EQ(some[i], expected[static_cast<size_t>(at) + i]);
    }
  }
  SpilledRecords<int64_t> moved = std::move(records);
  ASSERT_EQ(moved.size(), static_cast<int64_t>(expected.size()));
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_EQ(moved[static_cast<int64_t>(i)], expected[i]);
}

TEST(RecordSorter, SortsWithinABoundAndWithoutOne) {
  for (int count : {0, 1, 15, 16, 17, 1000}) {
    std::mt19937 random(2);
    RecordSorter<int32_t> sorter({}, 16);
    std::vector<int32_t> expected, sorted;
    for (int i = 0; i < count; ++i) {
      expected.push_back(static_cast<int32_t>(random() % 300));
      sorter.add(expected.back());
    }
    std::sort(expected.begin(), expected.end());
    sorter.drain([&](int32_t value) {
      sorted.push_back(value);
      return true;
    });
    EXPECT_EQ(sorted, expected);
  }
}

struct Pair {
  int32_t key = 0, value = 0;
  friend bool operator<(const Pair& a, const Pair& b) { return a.key < b.key; }
};

TEST(RecordTable, FindsTheFirstOfEach) {
  for (int count : {0, 1, 16, 17, 5000, 40000}) {
    RecordTable<Pair> table({}, 64);
    std::map<int32_t, int32_t> first;
    for (int i = 0; i < count; ++i) {
      const int32_t key = i / 3 * 2;
      first.try_emplace(key, i);
      table.push_back({key, i});
    }
    for (int32_t key = -1; key <= count / 3 * 2 + 3; ++key) {
      const auto found = table.find({key});
      const auto expected = first.find(key);
      ASSERT_EQ(found.has_value(), expected != first.end()) << key << " of " << count;
      if (found) {
        ASSERT_EQ(found->value, expected->second);
      }
    }
  }
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(TemporaryFile, SaysWhereThereIsNoRoom) {
  const TestFolder folder;
  EXPECT_THAT(error_of([&] { TemporaryFile(folder.file("missing"), "the index of the input's lines"); }),
              testing::AllOf(testing::HasSubstr("the index of the input's lines"), testing::HasSubstr("/missing: No such file")));
  TemporaryFile file(folder.path().string(), "the index");
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));  // it has no name
  // A limit on files stands for a full disk.
  struct rlimit before {};
  getrlimit(RLIMIT_FSIZE, &before);
  struct rlimit small = before;
  small.rlim_cur = 4096;
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  const std::vector<std::byte> bytes(8192);
  const std::string error = error_of([&] { file.write(0, bytes); });
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, handler);
  EXPECT_THAT(error, testing::AllOf(testing::StartsWith("cannot write the index in "), testing::HasSubstr("ulimit -f")));
}

}  // namespace
}  // namespace flexgen::spilled_records_test
