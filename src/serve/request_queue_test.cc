// Calls from many threads and batches beside them, with an engine that needs no model.

#include "serve/request_queue.h"

#include <gtest/gtest.h>

#include <thread>

#include "batch/fake_runner.h"
#include "serve/api_error.h"

namespace flexgen::request_queue_test {
namespace {

constexpr std::chrono::milliseconds kLook{50};

/// Takes steps as the batcher does, with a few slots, until the queue is closed and nothing is left.
void run_engine(RequestQueue& queue) {
  constexpr size_t kSlots = 3;
  std::vector<Completion> slots;
  for (int64_t step = 0;; ++step) {
    while (slots.size() < kSlots) {
      std::optional<Request> request = queue.next_before_others();
      if (!request) request = queue.next();
      if (!request) break;
      queue.began(request->key);
      slots.push_back(FakeRunner::answer(*request));
    }
    if (slots.empty() && queue.remaining() == 0) {
      if (!queue.is_open()) break;
      queue.wait();
    }
    for (auto slot = slots.begin(); slot != slots.end();) {
      const bool is_cancelled = queue.is_cancelled(slot->key), ends = is_cancelled || (step + slot->key) % 3 == 0;
      if (is_cancelled) queue.accept({.key = slot->key, .reason = FinishReason::kCancelled});
      else if (ends) queue.accept(*slot);
      else if (queue.follows_text()) queue.follow({.key = slot->key, .tokens = {slot->tokens.front()}}, slot->text.substr(0, 1));
      slot = ends ? slots.erase(slot) : slot + 1;
    }
  }
  queue.engine_ended("the engine has ended");
}

Request request_of(const std::string& text) {
  Request request;
  request.prompt = ByteTokenizer().encode(text, false);
  return request;
}

/// A batch of so many requests.
class Lines : public RequestSource, public CompletionSink {
 public:
  explicit Lines(int64_t count) : answers(static_cast<size_t>(count)) {}
  std::optional<Request> next() override {
    if (given_ == std::ssize(answers)) return std::nullopt;
    Request request = request_of("line");
    request.key = given_++;
    return request;
  }
  int64_t remaining() const override { return std::ssize(answers) - given_; }
  void accept(Completion completion) override { ++answers[static_cast<size_t>(completion.key)]; }
  std::vector<int> answers;

 private:
  int64_t given_ = 0;
};

/// What the call gets of each of its sequences.
std::vector<std::string> texts_of(Ticket& ticket, size_t count) {
  std::vector<std::string> texts(count);
  while (!ticket.over() && ticket.failure().empty())
    for (const AnswerPiece& piece : ticket.wait(kLook)) texts[static_cast<size_t>(piece.sequence)] += piece.completion.text;
  return texts;
}

TEST(RequestQueue, CallsAndBatchesGetTheirOwnAnswers) {
  constexpr int kCallers = 6, kCalls = 40;
  RequestQueue queue(2 * kCallers * kCalls);
  std::thread engine([&] { run_engine(queue); });
  std::vector<std::thread> callers;
  std::atomic<int64_t> cancelled = 0;
  for (int caller = 0; caller < kCallers; ++caller)
    callers.emplace_back([&, caller] {
      for (int call = 0; call < kCalls; ++call) {
        const std::string text = fmt::format("{} {} ", caller, call);
        const bool follows = call % 2 == 0;
        const auto ticket = queue.submit(
            2, [&](int64_t sequence) { return request_of(text + std::to_string(sequence)); }, follows);
        if (call % 5 == 4) {
          ticket->cancel();
          cancelled += 2;
          continue;
        }
        const std::vector<std::string> texts = texts_of(*ticket, 2);
        for (size_t sequence = 0; sequence < 2; ++sequence) {
          const std::string asked = text + std::to_string(sequence);
          EXPECT_EQ(texts[sequence], std::string(asked.rbegin(), asked.rend()) + "0");
        }
      }
    });
  for (int batch = 0; batch < 5; ++batch) {
    Lines lines(50);
    const std::atomic<bool> stop = false;
    const RunReport report = queue.lend(lines, lines, stop);
    EXPECT_FALSE(report.stopped);
    EXPECT_EQ(report.sequences, 50);
    EXPECT_EQ(lines.answers, std::vector<int>(50, 1));
  }
  for (std::thread& caller : callers) caller.join();
  queue.close();
  EXPECT_THROW(queue.submit(
                   1, [](int64_t) { return request_of("late"); }, false),
               ApiError);
  engine.join();
  EXPECT_LE(queue.num_cancelled(), cancelled);
  EXPECT_EQ(queue.num_running() + queue.num_waiting(), 0);
}

TEST(RequestQueue, ABatchThatIsStoppedAndCallsThatAreAbandonedAreToldSo) {
  RequestQueue queue(4);
  std::atomic<bool> stop = false;
  Lines lines(10'000'000);
  std::thread engine([&] { run_engine(queue); }), lender([&] { EXPECT_TRUE(queue.lend(lines, lines, stop).stopped); });
  const auto answered = queue.submit(
      1, [](int64_t) { return request_of("a"); }, true);
  EXPECT_EQ(texts_of(*answered, 1).front(), "a0");
  stop = true;
  lender.join();
  std::thread caller([&] {
    for (;;) {
      try {
        const auto ticket = queue.submit(
            1, [](int64_t) { return request_of("b"); }, false);
        if (texts_of(*ticket, 1).front() == "b0") continue;
        EXPECT_EQ(ticket->failure(), "the server ends");
      } catch (const ApiError& error) {
        EXPECT_EQ(error.status, 503);
      }
      return;
    }
  });
  std::this_thread::sleep_for(kLook);
  queue.abandon("the server ends");
  caller.join();
  engine.join();
}

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
