#pragma once
// SharedPrefixes: what the prompts of a job have in common at their beginnings, in whole pages of the KV cache, and an order in which prompts that share stay together.
// It knows pages by 32-bit hashes, so what it says guides the work alone: whether two sequences may share a page is for PrefixPages, which compares tokens.
// One thread. Memory: 24 bytes a prompt while the order is found, of kMostAtATime prompts at the most; hashes beyond a window lie in a temporary file, four bytes a page.

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "io/spilled_records.h"

namespace flexgen {

/// A prompt in the order, and the tokens that it shares with the one before it: whole pages, 0 for the first.
struct PlacedPrompt {
  int64_t prompt = 0;
  int64_t shared_tokens = 0;
  bool operator==(const PlacedPrompt&) const = default;
};

/// A beginning that `count` prompts in a row of the order have, the first of them at place `first`.
struct SharedPrefix {
  int64_t tokens = 0, first = 0, count = 0;
  bool operator==(const SharedPrefix&) const = default;
};

/// Full pages that a prompt can take from others: its last token is always computed, as its logits are wanted.
constexpr int64_t shareable_pages(int64_t prompt_tokens, int64_t page_tokens) { return prompt_tokens > 0 ? (prompt_tokens - 1) / page_tokens : 0; }

class SharedPrefixes {
 public:
  explicit SharedPrefixes(int64_t page_tokens, const SpillPlace& place = {});

  /// The next prompt; one that must not share is given as an empty one.
  void add(std::span<const int32_t> prompt);
  int64_t num_prompts() const { return begins_.size(); }
  int64_t page_tokens() const { return page_tokens_; }

  /// Gives the wanted prompts in order until `take` returns false: where the first of those that share stands among all, the others follow it. Without anything in common
  /// that is the order in which they were added. `same_as`: the first prompt that is the same as this one to the last token; those stay together where all of their
  /// whole pages are the same. Empty: it is not known.
  void order(const std::function<bool(int64_t prompt)>& wanted, const std::function<bool(const PlacedPrompt&)>& take,
             const std::function<int64_t(int64_t prompt)>& same_as = {});

  static constexpr int64_t kMaxPages = 8192;  ///< of a prompt; those after them are taken as its own
  /// Of prefixes within prefixes so many levels are always found, deeper ones (conversations that grow) as long as no more than kDeepVisits prompts, and as many for each prompt,
  /// are looked at for them; the rest is taken as the prompts' own.
  static constexpr int kMaxLevels = 16;
  static constexpr int64_t kDeepVisits = int64_t{1} << 20, kDeepVisitsEach = 4;
  static constexpr int64_t kMostAtATime = int64_t{1} << 20;  ///< prompts, so 24 MiB; of more, each part is put in order by itself

 private:
  struct Entry {
    uint64_t key = 0;
    int64_t prompt = 0;
    int32_t shared_pages = 0;  ///< with the one before it
  };
  struct Range {
    size_t first = 0, end = 0;
    int64_t pages = 0;  ///< that all of it share
    int level = 0;
  };
  using SameAs = std::function<int64_t(int64_t prompt)>;
  void put_in_order(std::vector<Entry>& entries, const SameAs& same_as);
  /// Finds what all of the range share, and the ranges within it that share more.
  void split(std::vector<Entry>& entries, const Range& range, const SameAs& same_as, std::vector<Range>* more);
  int64_t pages_of(int64_t prompt) { return (prompt + 1 < begins_.size() ? begins_[prompt + 1] : hashes_.size()) - begins_[prompt]; }

  int64_t page_tokens_;
  SpilledRecords<int64_t> begins_;  ///< a prompt: of its pages' hashes
  SpilledRecords<uint32_t> hashes_;
  std::vector<uint32_t> common_, other_;
  int64_t deep_visits_ = 0;  ///< that are left
};

/// All that is shared in an order, the longer prefixes of a place after the shorter ones.
std::vector<SharedPrefix> prefixes_of(std::span<const PlacedPrompt> order);

}  // namespace flexgen
