#pragma once
// GrammarMasks: which tokens may come next in answers that follow grammars, found in a thread of its own while layers compute. Grammars are compiled in others: large ones, which take seconds,
// and beside them small ones, so that no large one holds these up. Host thread; masks may be waited for in any.

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "base/task_thread.h"
#include "text/grammar/grammar.h"

namespace flexgen {

class GrammarMasks {
 public:
  /// As GrammarCompiler::create() takes them; `tokenizer` must outlive it.
  GrammarMasks(const Tokenizer& tokenizer, int64_t vocab_size, std::vector<int32_t> ends);
  /// `make` is called once, where a grammar is compiled first; for tests.
  GrammarMasks(int64_t vocab_size, std::function<std::unique_ptr<GrammarCompiler>()> make);
  /// Finishes the masks that were asked for; what nobody has begun to compile is left out.
  ~GrammarMasks();
  GrammarMasks(const GrammarMasks&) = delete;
  GrammarMasks& operator=(const GrammarMasks&) = delete;

  /// One answer.
  struct Follower {
    std::shared_ptr<const GrammarSpec> grammar;
    std::shared_future<void> compiled;  ///< once it is, `matcher` is there, or `failure`
    std::unique_ptr<GrammarMatcher> matcher = nullptr;
    int64_t taken = 0;         ///< tokens of the answer that it has seen
    std::string failure = {};  ///< why no mask could be made; to be read behind a mask

    /// Whether next() has not to wait for the grammar, after a wait of `time` at the most.
    bool is_ready(std::chrono::milliseconds time = {}) const { return compiled.wait_for(time) == std::future_status::ready; }
  };
  /// Begins to compile the grammar, if it is not kept. Given up once nobody has the follower any more.
  std::shared_ptr<Follower> begin(std::shared_ptr<const GrammarSpec> grammar);
  /// Of the token behind `answer`, which must have grown since the last call alone. Where none can be made it has no token, and the follower says why: this answer ends, and no other.
  std::shared_future<TokenMask> next(const std::shared_ptr<Follower>& follower, std::vector<int32_t> answer);

 private:
  static constexpr size_t kSmallLane = 2, kLanes = 3;  ///< the last is for small grammars
  struct Worker;
  struct Compilation;
  /// Puts the follower to those that wait for its grammar already; false if nobody does.
  bool join(const std::shared_ptr<Follower>& follower, std::promise<void>& compiled);
  /// Where the grammar is to be compiled.
  size_t lane_of(const GrammarSpec& grammar) const;

  std::unique_ptr<Worker> worker_;
  std::vector<std::shared_ptr<Compilation>> given_;  ///< to the lanes, and not over when last looked at
  std::array<TaskThread, kLanes> lanes_;
  TaskThread masks_;  ///< behind what its tasks use and wait for
};

}  // namespace flexgen
