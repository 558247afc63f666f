#include "generation/grammar_masks.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <utility>

namespace flexgen {
namespace {

constexpr const char* kCompiling = "compiling grammars";
constexpr int64_t kSmall = 4096;     // what compiles in less than about a second
constexpr int64_t kCountTakes = 16;  // as bytes: each repetition, or character of a bounded length, is a state of its own
constexpr int64_t kMostCount = 256, kMostJsonCount = 4096;

/// About how much there is to compile of a text, in bytes of a grammar without counts: by its numbers, whatever they say.
int64_t size_to_compile(const std::string& text, bool is_json) {
  int64_t size = std::ssize(text), number = 0;
  for (size_t i = 0; i <= text.size(); ++i) {
    const char c = i < text.size() ? text[i] : ' ';
    if (c >= '0' && c <= '9') {
      number = std::min<int64_t>(1'000'000, 10 * number + (c - '0'));
      continue;
    }
    if (!is_json || number <= kMostJsonCount) size += kCountTakes * std::min(number, kMostCount);  // larger ones are bounds of numbers, or tokens
    number = 0;
  }
  return size;
}
int64_t size_to_compile(const GrammarSpec& grammar) {
  int64_t size = size_to_compile(grammar.text, grammar.kind == GrammarSpec::Kind::kJsonSchema || grammar.kind == GrammarSpec::Kind::kStructure);
  for (const std::string& choice : grammar.choices) size += std::ssize(choice);
  for (const std::string* part : {&grammar.before, &grammar.after, &grammar.instead}) size += size_to_compile(*part, true);
  return size;
}

}  // namespace

/// A grammar that was given to a lane, with all who wait for it: once it is compiled they go on at once, whatever else their lane has to do.
struct GrammarMasks::Compilation {
  struct Waiting {
    std::weak_ptr<Follower> follower;
    std::promise<void> compiled;
  };
  const std::shared_ptr<const GrammarSpec> grammar;
  const size_t lane;
  std::mutex mutex;  ///< of what follows
  std::vector<Waiting> waiting = {};
  bool begun = false, done = false;  ///< done: nobody may wait for it any more

  /// False: it is done.
  bool add(const std::shared_ptr<Follower>& follower, std::promise<void>& compiled) {
    const std::lock_guard lock(mutex);
    if (!done) waiting.push_back({follower, std::move(compiled)});
    return !done;
  }
  /// All that nobody has taken yet; where there is none, it is done.
  std::vector<Waiting> take() {
    const std::lock_guard lock(mutex);
    begun = true;
    done = !is_awaited();
    return std::exchange(waiting, {});
  }
  /// Or given up before it was begun.
  bool is_over() {
    const std::lock_guard lock(mutex);
    return done || (!begun && !is_awaited());
  }

 private:
  bool is_awaited() const {
    return std::ranges::any_of(waiting, [](const Waiting& each) { return !each.follower.expired(); });
  }
};

struct GrammarMasks::Worker {
  const int64_t vocab_size;
  const std::function<std::unique_ptr<GrammarCompiler>()> make;
  std::atomic<bool> closing{false};
  std::mutex mutex;  ///< while the compiler is made, which takes a while itself
  std::unique_ptr<GrammarCompiler> made = nullptr;
  std::atomic<GrammarCompiler*> compiler{nullptr};

  GrammarCompiler& made_compiler() {
    std::lock_guard lock(mutex);
    if (!made) made = make();
    compiler = made.get();
    return *made;
  }

  void compile(Compilation& compilation) {
    std::string failure;
    for (std::vector<Compilation::Waiting> all = compilation.take(); !all.empty(); all = compilation.take())
      for (Compilation::Waiting& each : all) {
        const std::shared_ptr<Follower> follower = each.follower.lock();
        if (!follower) continue;
        try {
          if (failure.empty()) start(*follower);  // compiles for the first of them
          else follower->failure = failure;
          failure = follower->failure;
          each.compiled.set_value();
        } catch (...) {
          each.compiled.set_exception(std::current_exception());
        }
      }
  }

  void start(Follower& follower) {
    if (closing) {
      follower.failure = "the run has ended";
      return;
    }
    try {
      follower.matcher = made_compiler().start(*follower.grammar);
    } catch (const std::bad_alloc&) {
      throw;  // no fault of the line's: the run ends, and goes on later
    } catch (const std::exception& error) {
      follower.failure = error.what();
    }
  }

  TokenMask mask_behind(Follower& follower, const std::vector<int32_t>& answer) {
    follower.compiled.get();
    try {
      if (follower.failure.empty()) return made_mask(follower, answer);
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& error) {
      follower.failure = error.what();
    }
    return TokenMask(static_cast<size_t>((vocab_size + 31) / 32), 0);
  }

  static TokenMask made_mask(Follower& follower, const std::vector<int32_t>& answer) {
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
    : GrammarMasks(vocab_size,
                   [&tokenizer, vocab_size, ends = std::move(ends)] { return GrammarCompiler::create(tokenizer, vocab_size, ends, kGrammarCacheBytes); }) {}

GrammarMasks::GrammarMasks(int64_t vocab_size, std::function<std::unique_ptr<GrammarCompiler>()> make)
    : worker_(new Worker{vocab_size, std::move(make)}), lanes_{TaskThread(kCompiling), TaskThread(kCompiling), TaskThread(kCompiling)},
      masks_("the masks of grammars") {}

GrammarMasks::~GrammarMasks() { worker_->closing = true; }

bool GrammarMasks::join(const std::shared_ptr<Follower>& follower, std::promise<void>& compiled) {
  std::erase_if(given_, [](const auto& given) { return given->is_over(); });
  const auto same =
      std::ranges::find_if(given_, [&](const auto& given) { return given->grammar == follower->grammar || *given->grammar == *follower->grammar; });
  return same != given_.end() && (*same)->add(follower, compiled);
}

size_t GrammarMasks::lane_of(const GrammarSpec& grammar) const {
  if (size_to_compile(grammar) <= kSmall) return kSmallLane;
  std::array<int64_t, kLanes> waiting{};
  for (const auto& given : given_) ++waiting[given->lane];
  return waiting[0] <= waiting[1] ? 0 : 1;
}

std::shared_ptr<GrammarMasks::Follower> GrammarMasks::begin(std::shared_ptr<const GrammarSpec> grammar) {
  std::promise<void> compiled;
  const auto follower = std::make_shared<Follower>(Follower{std::move(grammar), compiled.get_future().share()});
  if (join(follower, compiled)) return follower;
  if (GrammarCompiler* const compiler = worker_->compiler) follower->matcher = compiler->start_kept(*follower->grammar);
  if (follower->matcher) {
    compiled.set_value();
    return follower;
  }
  const std::shared_ptr<Compilation> compilation(new Compilation{follower->grammar, lane_of(*follower->grammar), {}});
  compilation->add(follower, compiled);
  given_.push_back(compilation);
  lanes_[compilation->lane].give([worker = worker_.get(), given = std::weak_ptr(compilation)] {
    if (const std::shared_ptr<Compilation> wanted = given.lock()) worker->compile(*wanted);
  });
  return follower;
}

std::shared_future<TokenMask> GrammarMasks::next(const std::shared_ptr<Follower>& follower, std::vector<int32_t> answer) {
  const auto task = std::make_shared<std::packaged_task<TokenMask()>>(
      [worker = worker_.get(), follower, answer = std::move(answer)] { return worker->mask_behind(*follower, answer); });
  std::shared_future<TokenMask> mask = task->get_future().share();
  masks_.give([task] { (*task)(); });
  return mask;
}

}  // namespace flexgen
