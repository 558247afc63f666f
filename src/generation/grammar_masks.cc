#include "generation/grammar_masks.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <new>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/thread.h"

namespace flexgen {

struct GrammarMasks::Worker {
  const Tokenizer& tokenizer;
  int64_t vocab_size;
  std::vector<int32_t> ends;
  std::unique_ptr<GrammarCompiler> compiler;  // of the thread
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::packaged_task<TokenMask()>> tasks;
  bool closed = false;
  std::thread thread;

  void run() {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [&] { return closed || !tasks.empty(); });
      if (tasks.empty()) return;
      std::packaged_task<TokenMask()> task = std::move(tasks.front());
      tasks.pop_front();
      lock.unlock();
      task();
      lock.lock();
    }
  }

  TokenMask mask_behind(Follower& follower, const GrammarSpec& grammar, const std::vector<int32_t>& answer) {
    try {
      return made_mask(follower, grammar, answer);
    } catch (const std::bad_alloc&) {
      throw;  // no fault of the line's: the run ends, and goes on later
    } catch (const std::exception& error) {
      follower.failure = error.what();
      return TokenMask(static_cast<size_t>((vocab_size + 31) / 32), 0);
    }
  }

  TokenMask made_mask(Follower& follower, const GrammarSpec& grammar, const std::vector<int32_t>& answer) {
    if (!compiler) compiler = GrammarCompiler::create(tokenizer, vocab_size, ends, kGrammarCacheBytes);
    if (!follower.matcher) follower.matcher = compiler->start(grammar);
    for (; follower.taken < std::ssize(answer); ++follower.taken) {
      const int32_t token = answer[static_cast<size_t>(follower.taken)];
      FLEXGEN_CHECK(follower.matcher->accept(token), "token {} at {} of an answer is not in its grammar", token, follower.taken);
    }
    return follower.matcher->mask();
  }
};

GrammarMasks::GrammarMasks(const Tokenizer& tokenizer, int64_t vocab_size, std::vector<int32_t> ends)
    : worker_(new Worker{tokenizer, vocab_size, std::move(ends), {}, {}, {}, {}, false, {}}) {
  worker_->thread = start_thread("the masks of grammars", [worker = worker_.get()] { worker->run(); });
}

GrammarMasks::~GrammarMasks() {
  {
    std::lock_guard lock(worker_->mutex);
    worker_->closed = true;
  }
  worker_->changed.notify_one();
  worker_->thread.join();
}

std::shared_future<TokenMask> GrammarMasks::next(const std::shared_ptr<Follower>& follower, std::shared_ptr<const GrammarSpec> grammar,
                                                 std::vector<int32_t> answer) {
  std::packaged_task<TokenMask()> task([worker = worker_.get(), follower, grammar = std::move(grammar), answer = std::move(answer)] {
    return worker->mask_behind(*follower, *grammar, answer);
  });
  std::shared_future<TokenMask> mask = task.get_future().share();
  {
    std::lock_guard lock(worker_->mutex);
    worker_->tasks.push_back(std::move(task));
  }
  worker_->changed.notify_one();
  return mask;
}

}  // namespace flexgen
