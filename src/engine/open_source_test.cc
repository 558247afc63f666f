// An open source: requests that come one by one while others run, in any order, some of them given up, have the tokens that they have in a batch.

#include <gtest/gtest.h>

#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <thread>

#include "base/units.h"
#include "engine/engine.h"
#include "generation/grammar_requests.h"
#include "generation/list_source.h"
#include "generation/test_params.h"
#include "io/test_folder.h"
#include "io/test_texts.h"
#include "model/dummy_checkpoint.h"

namespace flexgen::open_source_test {
namespace {

const char* kConfig = R"({"model_type": "llama", "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 6,
  "num_key_value_heads": 2, "intermediate_size": 176, "vocab_size": 331, "max_position_embeddings": 256, "hidden_act": "silu",
  "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false, "eos_token_id": 5, "bos_token_id": 1})";

EngineOptions options_of_test() {
  EngineOptions options;
  options.model_directory = process_folder() + "/open-source";
  ensure_dummy_checkpoint(options.model_directory, kConfig, DType::kBF16, 17, nullptr);
  options.load_tokenizer = false;
  options.budgets = {512 * kMiB, 0};
  options.threads = 2;
  return options;
}

class Answers : public CompletionSink {
 public:
  void accept(Completion completion) override { EXPECT_TRUE(of.emplace(completion.key, std::move(completion)).second); }
  std::map<int64_t, Completion> of;
};

/// Its request comes, and it is closed, after the batcher has seen that it has none and before it is asked whether more may come.
class LastMoment : public RequestSource {
 public:
  std::optional<Request> next() override { return std::exchange(request_, std::nullopt); }
  int64_t remaining() const override { return request_ ? 1 : 0; }
  bool is_open() const override {
    if (++asked_ == 2) {
      request_.emplace();
      request_->prompt = {7, 8, 9};
      request_->params.max_tokens = 3;
    }
    return asked_ == 1;  // as the run begins
  }

 private:
  mutable int asked_ = 0;
  mutable std::optional<Request> request_;
};

/// What other threads put into it.
class Door : public RequestSource {
 public:
  std::optional<Request> next() override {
    std::lock_guard guard(mutex_);
    if (requests_.empty()) return std::nullopt;
    Request request = std::move(requests_.front());
    requests_.pop_front();
    return request;
  }
  int64_t remaining() const override {
    std::lock_guard guard(mutex_);
    return std::ssize(requests_);
  }
  bool is_open() const override {
    std::lock_guard guard(mutex_);
    return open_;
  }
  void wait() override {
    std::unique_lock lock(mutex_);
    ++waits_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return !requests_.empty() || !open_; });
  }
  bool is_cancelled(int64_t key) const override {
    std::lock_guard guard(mutex_);
    return cancelled_.contains(key);
  }
  void put(Request request) {
    std::lock_guard guard(mutex_);
    requests_.push_back(std::move(request));
    changed_.notify_all();
  }
  void cancel(int64_t key) {
    std::lock_guard guard(mutex_);
    cancelled_.insert(key);
  }
  void close() {
    std::lock_guard guard(mutex_);
    open_ = false;
    changed_.notify_all();
  }
  /// Until the engine has fallen asleep so many times.
  void await_waits(int64_t count) {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, std::chrono::seconds(30), [&] { return waits_ >= count; }));
  }
  int64_t waits() const {
    std::lock_guard guard(mutex_);
    return waits_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Request> requests_;
  std::set<int64_t> cancelled_;
  bool open_ = true;
  int64_t waits_ = 0;
};

/// Gives requests up, each after it was asked for so many times.
class GivingUp : public ListSource {
 public:
  GivingUp(std::vector<Request> requests, std::map<int64_t, int> patience) : ListSource(std::move(requests)), patience_(std::move(patience)) {}
  bool is_cancelled(int64_t key) const override {
    const auto found = patience_.find(key);
    return found != patience_.end() && found->second-- <= 0;
  }

 private:
  mutable std::map<int64_t, int> patience_;
};

std::map<int64_t, Completion> answers_in_batch(const std::vector<Request>& requests) {
  Engine engine(options_of_test());
  engine.prepare(workload_of(requests));
  ListSource source(requests);
  Answers answers;
  std::atomic<bool> stop{false};
  engine.run(source, answers, stop);
  return std::move(answers.of);
}

void expect_same(const Completion& expected, const Completion& actual) {
  EXPECT_EQ(actual.tokens, expected.tokens) << "request " << expected.key;
  EXPECT_EQ(actual.reason, expected.reason) << "request " << expected.key;
  ASSERT_EQ(actual.logprobs.size(), expected.logprobs.size());
  for (size_t i = 0; i < expected.logprobs.size(); ++i) EXPECT_EQ(actual.logprobs[i].top, expected.logprobs[i].top) << "request " << expected.key;
}

/// Slots for a few of the requests alone, and steps that take a piece of a long prompt.
EngineOptions narrow_options(std::mt19937& random) {
  EngineOptions options = options_of_test();
  options.policy.micro_batch_size = 1 + static_cast<int64_t>(random() % 3);
  options.policy.num_micro_batches = 1 + static_cast<int64_t>(random() % 2);
  options.policy.max_rows = 8;
  options.policy.weights = Fractions{0, 0.5, 0.5};
  return options;
}

TEST(OpenSource, RequestsThatComeAsTheyLikeHaveTheTokensOfTheBatch) {
  std::mt19937 random(71);
  for (int round = 0; round < 6; ++round) {
    const std::vector<Request> requests = related_requests(random, 24, 16);
    const auto expected = answers_in_batch(requests);
    Engine engine(narrow_options(random));
    engine.prepare(workload_of(requests));
    Door door;
    Answers answers;
    std::vector<Request> shuffled = requests;
    std::shuffle(shuffled.begin(), shuffled.end(), random);
    std::vector<int> pauses_us(shuffled.size());
    for (int& pause : pauses_us) pause = random() % 3 == 0 ? static_cast<int>(random() % 20'000) : 0;
    std::thread clients([&] {
      for (size_t i = 0; i < shuffled.size(); ++i) {
        std::this_thread::sleep_for(std::chrono::microseconds(pauses_us[i]));
        door.put(shuffled[i]);
        if (shuffled[i].key % 4 == 0) door.cancel(shuffled[i].key);  // before it begins, or under way
      }
      door.close();
    });
    std::atomic<bool> stop{false};
    const RunReport report = engine.run(door, answers, stop);
    clients.join();
    EXPECT_FALSE(report.stopped);
    ASSERT_EQ(answers.of.size(), requests.size());
    for (const auto& [key, completion] : answers.of)
      if (completion.reason != FinishReason::kCancelled) expect_same(expected.at(key), completion);
      else EXPECT_EQ(key % 4, 0);
  }
}

TEST(OpenSource, AnEngineIsPreparedAndRunsOnce) {
  Engine engine(options_of_test());
  std::mt19937 random(74);
  const std::vector<Request> requests = related_requests(random, 2, 16);
  engine.prepare(workload_of(requests));
  EXPECT_EQ(message_of([&] { engine.prepare(workload_of(requests)); }), "Engine::prepare(): an engine is prepared once; make another engine for another job");
  ListSource source(requests), again(requests);
  Answers answers;
  const std::atomic<bool> stop{false};
  engine.run(source, answers, stop);
  EXPECT_NE(message_of([&] { engine.run(again, answers, stop); }).find("an engine runs once"), std::string::npos);
  EXPECT_EQ(answers.of.size(), requests.size());
}

TEST(OpenSource, WhatCameJustBeforeItClosedIsAnswered) {
  Engine engine(options_of_test());
  std::mt19937 random(73);
  engine.prepare(workload_of(related_requests(random, 3, 16)));
  LastMoment source;
  Answers answers;
  std::atomic<bool> stop{false};
  engine.run(source, answers, stop);
  ASSERT_EQ(answers.of.size(), 1U);
  EXPECT_EQ(answers.of.begin()->second.tokens.size(), 3U);
}

TEST(OpenSource, WithNothingToDoTheEngineSleepsUntilSomethingComes) {
  std::mt19937 random(72);
  const std::vector<Request> requests = related_requests(random, 3, 16);
  const auto expected = answers_in_batch(requests);
  Engine engine(options_of_test());
  engine.prepare(workload_of(requests));
  Door door;
  Answers answers;
  std::thread client([&] {
    for (const Request& request : requests) {
      const int64_t slept = request.key + 1;
      door.await_waits(slept);
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      EXPECT_EQ(door.waits(), slept) << "it wakes for nothing";
      door.put(request);
    }
    door.await_waits(std::ssize(requests) + 1);
    door.close();
  });
  std::atomic<bool> stop{false};
  engine.run(door, answers, stop);
  client.join();
  ASSERT_EQ(answers.of.size(), requests.size());
  for (const auto& [key, completion] : answers.of) expect_same(expected.at(key), completion);
}

/// In the order in which they end.
class EndedAnswers : public CompletionSink {
 public:
  void accept(Completion completion) override { all.push_back(std::move(completion)); }
  std::vector<Completion> all;
};

/// Of some 8000 states.
std::shared_ptr<const GrammarSpec> slow_grammar() {
  std::string text = "root ::= \"never\"";
  for (int i = 1; i < 128; ++i) text += fmt::format(" | [a-z]{{{}}} \"x\"", i);
  return std::make_shared<const GrammarSpec>(GrammarSpec{GrammarSpec::Kind::kEbnf, text, {}, true});
}

EngineOptions options_with_grammars() {
  EngineOptions options = options_of_test();
  options.model_directory = process_folder() + "/open-source-grammars";
  ensure_dummy_checkpoint(options.model_directory, kConfig, DType::kBF16, 17, nullptr);
  write_ascii_tokenizer(options.model_directory, 331, 5);
  options.load_tokenizer = true;
  return options;
}

TEST(OpenSource, AGrammarThatIsBeingCompiledHoldsUpNoOther) {
  if (const auto why = why_no_grammars()) GTEST_SKIP() << *why;
  EngineOptions options = options_with_grammars();
  std::vector<Request> requests(4);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].key = static_cast<int64_t>(i);
    requests[i].prompt = {7, 8, 9, static_cast<int32_t>(20 + i)};
    requests[i].params.max_tokens = i == 0 ? 1 : 4;
  }
  requests[0].params.grammar = requests[1].params.grammar = slow_grammar();
  requests[2].params.grammar = std::make_shared<const GrammarSpec>(GrammarSpec{GrammarSpec::Kind::kRegex, "[a-c]{2,5}x?", {}, true});
  Engine engine(options);
  engine.prepare(workload_of(requests));
  Door door;
  for (const Request& request : requests) door.put(request);
  EndedAnswers answers;
  std::thread client([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    door.cancel(1);
    door.await_waits(1);  // all are done
    door.close();
  });
  std::atomic<bool> stop{false};
  const RunReport report = engine.run(door, answers, stop);
  client.join();
  EXPECT_FALSE(report.stopped);
  ASSERT_EQ(answers.all.size(), requests.size());
  std::set<int64_t> keys;
  for (const Completion& completion : answers.all) {
    keys.insert(completion.key);
    EXPECT_EQ(completion.reason == FinishReason::kCancelled, completion.key == 1);
    EXPECT_EQ(completion.grammar_failure, "");
  }
  EXPECT_EQ(keys.size(), requests.size());
  EXPECT_EQ(answers.all.back().key, 0) << "of one token, and the first to come";
  EXPECT_EQ(answers.all.back().tokens.size(), 1u);
}

TEST(OpenSource, AThousandThatWaitForAGrammarHoldUpNoOther) {
  if (const auto why = why_no_grammars()) GTEST_SKIP() << *why;
  EngineOptions options = options_with_grammars();
  constexpr size_t kWaiting = 1100;
  std::vector<Request> requests(kWaiting + 1);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].key = static_cast<int64_t>(i);
    requests[i].prompt = {7, 8, 9};
    requests[i].params.max_tokens = 1;
    if (i < kWaiting) requests[i].params.grammar = slow_grammar();
  }
  Engine engine(options);
  engine.prepare(workload_of(requests));
  Door door;
  for (const Request& request : requests) door.put(request);
  // Nobody waits for any once one is answered.
  class FirstAnswer : public CompletionSink {
   public:
    explicit FirstAnswer(Door& door) : door_(door) {}
    void accept(Completion completion) override {
      if (completion.reason == FinishReason::kCancelled || first >= 0) return;
      first = completion.key;
      for (size_t i = 0; i < kWaiting; ++i) door_.cancel(static_cast<int64_t>(i));
      door_.close();
    }
    int64_t first = -1;

   private:
    Door& door_;
  } answers(door);
  std::atomic<bool> stop{false};
  engine.run(door, answers, stop);
  EXPECT_EQ(answers.first, static_cast<int64_t>(kWaiting));
}

/// As a server's queue while a batch is lent to it: what is below kCalls is of the batch.
class DoorOfBatch : public Door {
 public:
  static constexpr int64_t kCalls = 100;
  std::optional<Request> next() override {
    if (std::optional<Request> call = Door::next()) return call;
    if (batch.empty()) return std::nullopt;
    Request request = std::move(batch.front());
    batch.pop_front();
    return request;
  }
  std::optional<Request> next_before_others() override { return Door::next(); }
  bool gives_way(int64_t key) const override { return key < kCalls; }
  int64_t remaining() const override { return Door::remaining() + std::ssize(batch); }
  std::deque<Request> batch;  ///< before and while the engine runs, its thread's alone
};

TEST(OpenSource, ABatchWhoseGrammarsAreCompiledGivesWayToCalls) {
  if (const auto why = why_no_grammars()) GTEST_SKIP() << *why;
  EngineOptions options = options_with_grammars();
  options.policy.micro_batch_size = 1;
  options.policy.num_micro_batches = 1;
  constexpr int64_t kLines = 40;
  std::vector<Request> requests(kLines + 1);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].key = static_cast<int64_t>(i);
    requests[i].prompt = {7, 8, 9, static_cast<int32_t>(20 + i)};
    requests[i].params.max_tokens = 2;
    if (i < kLines) requests[i].params.grammar = slow_grammar();
  }
  requests.back().key = DoorOfBatch::kCalls;
  Engine engine(options);
  engine.prepare(workload_of(requests));
  DoorOfBatch door;
  door.batch.assign(requests.begin(), requests.end() - 1);
  // A call that comes when the batch's first line is answered, and so its grammar compiled.
  class Caller : public EndedAnswers {
   public:
    Caller(DoorOfBatch& door, const Request& call) : door_(door), call_(call) {}
    void accept(Completion completion) override {
      if (all.empty()) door_.put(call_);
      EndedAnswers::accept(std::move(completion));
      if (all.size() == kLines + 1) door_.close();
    }

   private:
    DoorOfBatch& door_;
    const Request& call_;
  } answers(door, requests.back());
  std::atomic<bool> stop{false};
  engine.run(door, answers, stop);
  ASSERT_EQ(answers.all.size(), requests.size());
  const auto call = std::ranges::find(answers.all, DoorOfBatch::kCalls, &Completion::key);
  EXPECT_LE(call - answers.all.begin(), 3) << "behind what was under way";
}

TEST(OpenSource, WhoIsGivenUpFreesItsSlotAndChangesNoOther) {
  std::mt19937 random(73);
  for (int round = 0; round < 12; ++round) {
    std::vector<Request> requests = related_requests(random, 20, 16);
    const auto expected = answers_in_batch(requests);
    Engine engine(narrow_options(random));
    const Workload workload = share_prefixes(requests, CacheLayout::page_tokens(engine.model(), engine.kv_dtype()));  // so that some wait for others' pages
    std::map<int64_t, int> patience;
    for (const Request& request : requests)
      if (random() % 3 == 0) patience[request.key] = static_cast<int>(random() % 6);
    engine.prepare(workload);
    GivingUp source(requests, patience);
    Answers answers;
    std::atomic<bool> stop{false};
    const RunReport report = engine.run(source, answers, stop);
    EXPECT_FALSE(report.stopped);
    ASSERT_EQ(answers.of.size(), requests.size());
    int64_t given_up = 0;
    for (const auto& [key, completion] : answers.of) {
      if (completion.reason != FinishReason::kCancelled) {
        expect_same(expected.at(key), completion);
        continue;
      }
      ++given_up;
      EXPECT_TRUE(patience.contains(key));
      const std::vector<int32_t>& whole = expected.at(key).tokens;  // it ends where it was
      ASSERT_LE(completion.tokens.size(), whole.size());
      EXPECT_TRUE(std::equal(completion.tokens.begin(), completion.tokens.end(), whole.begin()));
    }
    EXPECT_EQ(report.sequences, std::ssize(requests) - given_up);
    EXPECT_GT(given_up, 0);
  }
}

}  // namespace
}  // namespace flexgen::open_source_test
