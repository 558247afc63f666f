#pragma once
// GrammarMasks: which tokens may come next in answers that follow grammars, found in a thread of its own while layers compute; grammars are compiled there too. Host thread; masks
// may be waited for in any.

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
  /// Finishes what was asked for.
  ~GrammarMasks();
  GrammarMasks(const GrammarMasks&) = delete;
  GrammarMasks& operator=(const GrammarMasks&) = delete;

  /// One answer; empty before its first mask.
  struct Follower {
    std::unique_ptr<GrammarMatcher> matcher;
    int64_t taken = 0;    ///< tokens of the answer that it has seen
    std::string failure;  ///< why no mask could be made; to be read behind a mask
  };
  /// Of the token behind `answer`, which must have grown since the last call alone. Where none can be made it has no token, and the follower says why: this answer ends, and no other.
  std::shared_future<TokenMask> next(const std::shared_ptr<Follower>& follower, std::shared_ptr<const GrammarSpec> grammar, std::vector<int32_t> answer);

 private:
  struct Worker;
  std::unique_ptr<Worker> worker_;
  TaskThread thread_;  ///< after what its tasks use
};

}  // namespace flexgen
