#include "generation/grammar_masks.h"

#include <fmt/format.h>

#include <new>
#include <stdexcept>
#include <utility>

namespace flexgen {

struct GrammarMasks::Worker {
  const Tokenizer& tokenizer;
  int64_t vocab_size;
  std::vector<int32_t> ends;
  std::unique_ptr<GrammarCompiler> compiler = nullptr;  // of the thread

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
      // The mask let it through, so this is a fault of ours or of xgrammar's. It costs this answer and no other.
      if (!follower.matcher->accept(token))
        throw std::runtime_error(
            fmt::format("token {} at {} of the answer is not in its grammar: a bug in flexgen; please report it with the grammar", token, follower.taken));
    }
    return follower.matcher->mask();
  }
};

GrammarMasks::GrammarMasks(const Tokenizer& tokenizer, int64_t vocab_size, std::vector<int32_t> ends)
    : worker_(new Worker{tokenizer, vocab_size, std::move(ends)}), thread_("the masks of grammars") {}

GrammarMasks::~GrammarMasks() = default;

std::shared_future<TokenMask> GrammarMasks::next(const std::shared_ptr<Follower>& follower, std::shared_ptr<const GrammarSpec> grammar,
                                                 std::vector<int32_t> answer) {
  const auto task =
      std::make_shared<std::packaged_task<TokenMask()>>([worker = worker_.get(), follower, grammar = std::move(grammar), answer = std::move(answer)] {
        return worker->mask_behind(*follower, *grammar, answer);
      });
  std::shared_future<TokenMask> mask = task->get_future().share();
  thread_.give([task] { (*task)(); });
  return mask;
}

}  // namespace flexgen
