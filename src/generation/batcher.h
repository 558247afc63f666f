#pragma once
// Batcher: the slots, and what each does in a step. Takes requests from the source as slots fall free (nothing waits for a
// whole block to end), mixes prompt chunks with generated tokens, and hands finished sequences to the sink. A source may be open: then the batcher sleeps
// while there is nothing to do, and what comes in meanwhile enters at the next step.
// Host thread only; counters may be read from any thread.

#include <atomic>
#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "generation/answer_text.h"
#include "generation/grammar_masks.h"
#include "generation/logit_edits.h"
#include "generation/logit_reader.h"
#include "generation/page_pool.h"
#include "generation/prefix_pages.h"
#include "generation/request.h"
#include "schedule/batch_plan.h"
#include "schedule/cache_store.h"
#include "schedule/held_pages.h"
#include "schedule/policy.h"
#include "schedule/prefix_ends.h"
#include "schedule/slot_rules.h"
#include "text/tokenizer.h"

namespace flexgen {

/// Where requests come from. Asked by the thread of the batcher; an open source is filled by others.
class RequestSource {
 public:
  virtual ~RequestSource() = default;
  /// Nothing: there is none now, and unless it is_open() there will be none.
  virtual std::optional<Request> next() = 0;
  /// As next(), but nothing that gives way: what comes for slots that no other request wants.
  virtual std::optional<Request> next_before_others() { return next(); }
  virtual bool gives_way(int64_t /*key*/) const { return false; }
  /// A request that it gave has a slot now.
  virtual void began(int64_t /*key*/) {}
  /// How many next() will still give; of an open source, how many it has now.
  virtual int64_t remaining() const = 0;
  /// Whether requests may come that are not there yet.
  virtual bool is_open() const { return false; }
  /// Of an open source: blocks until it has a request, or is open no more. Called when nothing is under way.
  virtual void wait() {}
  /// Whether nobody waits for this request any more. Asked at each step of all that are under way; one that is cancelled goes to the sink as kCancelled.
  virtual bool is_cancelled(int64_t /*key*/) const { return false; }
  /// Sequences of the same job that earlier runs have done; for progress alone.
  virtual int64_t done_before() const { return 0; }
};

/// Where answers go. Called by the thread of the batcher.
class CompletionSink {
 public:
  virtual ~CompletionSink() = default;
  virtual void accept(Completion completion) = 0;
  /// Whether follow() is to be called.
  virtual bool follows_text() const { return false; }
  /// An answer that is under way, after each token but the last: its key, tokens and logprobs, and its text as far as that will stay as it is.
  virtual void follow(const Completion& /*so_far*/, std::string_view /*text*/) {}
};

/// What was done so far; any thread may read it.
struct TokenCounters {
  std::atomic<int64_t> sequences{0}, prompt_tokens{0}, generated_tokens{0};  ///< prompt_tokens: that are in the cache, whoever computed them
  std::atomic<int64_t> shared_prompt_tokens{0};                              ///< of these, not computed, as other sequences had computed them
  std::atomic<int64_t> answer_tokens{0}, answer_max_tokens{0};               ///< of sequences that are done: generated, and the most that might have been
};

class Batcher : public StepSource {
 public:
  /// `logit_store`: V floats for each slot of the block if anything samples, else empty. `tokenizer` may be null (then
  /// there are no texts and no stop strings).
  Batcher(const Model& model, const Policy& policy, const CacheLayout& cache, const Tokenizer* tokenizer, std::span<float> logit_store, RequestSource& source,
          CompletionSink& sink);

  std::shared_ptr<BatchPlan> next(int64_t step, int64_t batch) override;
  /// Where nothing is left to do and the source is open, waits for it.
  bool finished() override;
  /// Whether nothing is under way, and the source has nothing now.
  bool idle() const;
  /// Takes the results of all plans that are done; for the end of a run that was stopped.
  void settle();
  /// From the next step on at most so many tokens a micro-batch and step, and so many sequences a micro-batch: no more than the policy's, whose memory
  /// there is; sequences under way stay. Answers do not change.
  void set_limits(int64_t max_rows, int64_t max_slots);
  const TokenCounters& counters() const { return counters_; }
  /// Of their max_tokens, the share that answers took so far; any thread. Nothing until kEnoughAnswers are done, and as many as there are slots: of those
  /// that begin together the short ones end first.
  std::optional<double> answer_share() const;
  static constexpr int64_t kEnoughAnswers = 32;  ///< fewer say little of the rest

 private:
  struct Slot {
    bool active = false;
    Request request;
    std::vector<int32_t> tokens;           ///< prompt and what was generated
    int64_t past = 0;                      ///< of these, how many are in the cache
    std::vector<HeldPages<PagePool>> own;  ///< a state
    int64_t reserved = 0;                  ///< own pages that it would have in the end if nothing was given back: of MicroBatch::unreserved
    PrefixPath prefix;
    int64_t number = 0;                ///< sequences are numbered as they start
    std::unique_ptr<AnswerText> text;  ///< null without a tokenizer
    LogitEdits edits;
    std::shared_ptr<GrammarMasks::Follower> follower;  ///< null without a grammar
    Completion completion;

    int64_t prompt_size() const { return static_cast<int64_t>(request.prompt.size()); }
    int64_t size() const { return static_cast<int64_t>(tokens.size()); }
    SlotProgress progress() const { return {prompt_size(), size(), past, request.params.scores_prompt(), request.params.max_tokens > 0}; }
  };
  /// A request that has no slot yet.
  struct Drawn {
    Request request;
    std::shared_ptr<GrammarMasks::Follower> follower;  ///< null without a grammar
  };
  /// Drawn from an open source before their grammars were compiled.
  struct Aside {
    std::deque<Drawn> compiling, compiled;  ///< as look_aside() has found them
    int64_t size() const { return std::ssize(compiling) + std::ssize(compiled); }
  };
  struct MicroBatch {
    std::vector<Slot> slots;
    std::vector<PagePool> pools;  ///< a state
    int64_t unreserved = 0;       ///< of Policy::pages_per_micro_batch. Within these all pools suffice (StateSpec::most_pages())
    std::span<float> logit_store;
    std::shared_ptr<BatchPlan> plan;     ///< the newest, results not taken yet
    std::vector<int32_t> planned_slots;  ///< slot of each SlotRows of the plan
    std::shared_ptr<LogitReader> reader;
  };

  /// What is wanted of the logits of the row at this position.
  LogitReader::Row logit_row(Slot& slot, int32_t index, int64_t at, bool scored);
  void take_results(MicroBatch& batch);
  void take_token(MicroBatch& batch, Slot& slot, const TokenLogprob& result);
  void finish(MicroBatch& batch, Slot& slot, FinishReason reason);
  void refill(MicroBatch& batch);
  /// Requests without a slot that nobody waits for any more.
  void drop_cancelled_drawn();
  /// These, and the slots that nobody waits for any more.
  void drop_cancelled(MicroBatch& batch);
  /// All of the slot's pages that its next `num_rows` rows see and write, of each state; takes what is lacking.
  std::vector<SlotPages> pages_of(MicroBatch& batch, Slot& slot, int64_t num_rows);
  /// One that the source gave, or nothing.
  std::optional<Drawn> drawn(std::optional<Request> request);
  /// Of those aside, looks whose grammars are compiled by now.
  void look_aside();
  /// Puts one whose grammar is compiled into waiting_; false if there is none.
  bool take_compiled(Aside& aside);
  /// Puts the next one to start into waiting_; false if there is none now. One of an open source whose grammar takes a while to compile lets others go first.
  bool find_next();
  /// False, and nothing has changed, if there are too few pages.
  bool start(MicroBatch& batch, Slot& slot);
  int64_t pages_for(const Request& request) const;
  /// Of the pages of its prompt, those that it may share.
  int64_t prefix_pages_for(const Request& request) const;
  /// Whether all that the slot reads of others' pages is there for rows that are planned now.
  bool can_read_prefix(const Slot& slot, int64_t step, int64_t batch) const;
  /// Pages that others may read from now on: those of the prefix that the slot's next `num_rows` rows fill.
  void share_filled(const Slot& slot, int64_t num_rows, int64_t step, int64_t batch);

  const Model& model_;
  Policy policy_;
  const CacheLayout& cache_;
  const Tokenizer* tokenizer_;
  RequestSource& source_;
  CompletionSink& sink_;
  std::vector<MicroBatch> batches_;
  std::vector<int64_t> window_of_;  ///< a state: as PrefixPages counts those that keep the ends of prefixes; -1: another
  PrefixPages prefixes_;
  int64_t num_started_ = 0;
  std::unique_ptr<GrammarMasks> masks_;  ///< from the first request with a grammar on
  std::optional<Drawn> waiting_;         ///< drawn from the source, but no pool had room yet
  std::chrono::steady_clock::time_point patient_until_;
  Aside aside_, aside_giving_way_;
  int64_t active_ = 0;
  int64_t row_limit_, slot_limit_;
  TokenCounters counters_;
};

}  // namespace flexgen
