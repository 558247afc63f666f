#include "serve/body_room.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace flexgen::body_room_test {
namespace {

bool at_once() { return true; }
bool never() { return false; }

TEST(BodyRoom, IsGivenOutOnceAndComesBack) {
  BodyRoom room(100);
  {
    std::optional<BodyRoom::Lease> first = room.take(60, at_once);
    ASSERT_TRUE(first);
    EXPECT_FALSE(room.take(41, at_once));
    EXPECT_FALSE(room.awaited()) << "who has given up waits no more";
    EXPECT_TRUE(room.take(40, at_once));
    first->shrink(10);
    EXPECT_TRUE(room.take(90, at_once));
    const BodyRoom::Lease moved = std::move(*first);
    EXPECT_FALSE(room.take(91, at_once));
  }
  EXPECT_TRUE(room.take(100, at_once));
}

TEST(BodyRoom, OneBodyAlwaysFits) {
  BodyRoom room(100);
  const auto whole = room.take(1000, at_once);
  ASSERT_TRUE(whole);
  EXPECT_FALSE(room.take(1, at_once));
}

TEST(BodyRoom, WhoWaitsIsNotOvertaken) {
  BodyRoom room(100);
  std::optional<BodyRoom::Lease> first = room.take(50, at_once);
  std::atomic<bool> has_all{false};
  std::thread longest([&] {
    const auto all = room.take(100, never);
    has_all = true;
  });
  while (!room.awaited()) std::this_thread::yield();
  EXPECT_FALSE(room.take(1, at_once));
  EXPECT_FALSE(has_all);
  first.reset();
  longest.join();
  EXPECT_TRUE(room.take(1, at_once));
}

TEST(BodyRoom, NeverHoldsMoreThanItHas) {
  BodyRoom room(100);
  std::atomic<int64_t> held{0}, most{0};
  std::vector<std::thread> threads;
  for (int64_t thread = 0; thread < 8; ++thread)
    threads.emplace_back([&, thread] {
      for (int64_t turn = 0; turn < 200; ++turn) {
        const int64_t bytes = 1 + (thread * 37 + turn * 11) % 100;
        const auto lease = room.take(bytes, never);
        const int64_t now = held += bytes;
        for (int64_t seen = most; seen < now && !most.compare_exchange_weak(seen, now);) continue;
        held -= bytes;
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(most, 100);
  EXPECT_TRUE(room.take(100, at_once));
}

}  // namespace
}  // namespace flexgen::body_room_test
