#include "serve/request_queue.h"

#include <gtest/gtest.h>

#include "serve/api_error.h"

namespace flexgen::request_queue_test {
namespace {

TEST(RequestQueue, WhatWasDrawnWaitsUntilItHasASlot) {
  RequestQueue queue(2);
  const auto submit = [&](int64_t count) {
    return queue.submit(
        count, [](int64_t) { return Request{}; }, false);
  };
  const auto expect = [&](int64_t running, int64_t waiting) {
    EXPECT_EQ(queue.num_running(), running);
    EXPECT_EQ(queue.num_waiting(), waiting);
  };
  submit(2);
  expect(0, 2);
  const auto first = queue.next(), second = queue.next_before_others();
  ASSERT_TRUE(first && second);
  expect(0, 2);
  EXPECT_THROW(submit(1), ApiError) << "both may wait for their grammars still";
  queue.began(first->key);
  expect(1, 1);
  submit(1);
  expect(1, 2);
  queue.accept({.key = second->key, .reason = FinishReason::kCancelled});
  expect(1, 1);
  queue.accept({.key = first->key, .reason = FinishReason::kStop});
  expect(0, 1);
}

}  // namespace
}  // namespace flexgen::request_queue_test
