#pragma once
// StateSpec: what a layer keeps of every sequence from step to step. The layer's family declares it (Architecture::state()); the page pools, the stores, the memory plan and the cost
// model take it as data. Pure arithmetic; any thread.

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>

#include <fmt/format.h>

#include "base/units.h"
#include "tensor/dtype.h"

namespace flexgen {

struct StateSpec {
  enum class Kind {
    kPaged,  ///< rows of each position, in pages that hold as many positions in every layer
    kFixed,  ///< as many bytes whatever the length, which each visit reads and writes: the state of a recurrence. One page that holds all positions
  };
  Kind kind = Kind::kPaged;
  int64_t heads = 0, head_size = 0;  ///< kPaged: G rows of H elements each
  int64_t rows = 2;                  ///< of a head and position: key and value; 1: one row is both, or a latent that both are made of
  int64_t window = 0;                ///< positions that a token sees, itself included; 0: all
  int64_t fixed_bytes = 0;           ///< kFixed
  bool operator==(const StateSpec&) const = default;

  int64_t page_bytes(DType dtype, int64_t page_tokens) const {
    return kind == Kind::kFixed ? fixed_bytes : rows * heads * page_tokens * row_bytes(dtype, head_size);
  }
  /// Of a sequence of so many positions.
  double bytes(DType dtype, double positions) const {
    if (kind == Kind::kFixed) return static_cast<double>(fixed_bytes);
    return static_cast<double>(page_bytes(dtype, 1)) * (window > 0 ? std::min(positions, static_cast<double>(window)) : positions);
  }

  /// The page that has a position.
  int64_t page_of(int64_t position, int64_t page_tokens) const { return kind == Kind::kFixed ? 0 : position / page_tokens; }
  /// Positions [page_begin, page_end) are in a page.
  int64_t page_begin(int64_t page, int64_t page_tokens) const { return kind == Kind::kFixed ? 0 : page * page_tokens; }
  int64_t page_end(int64_t page, int64_t page_tokens) const { return kind == Kind::kFixed ? std::numeric_limits<int64_t>::max() : (page + 1) * page_tokens; }
  /// The first page that a token at `position`, or a later one, sees. What lies before it is read no more.
  int64_t first_page(int64_t position, int64_t page_tokens) const { return window > 0 && position >= window ? (position + 1 - window) / page_tokens : 0; }
  /// The page after the last of a sequence of so many tokens.
  int64_t end_page(int64_t tokens, int64_t page_tokens) const { return kind == Kind::kFixed ? 1 : ceil_div(tokens, page_tokens); }

  /// Whether a sequence has no more pages at its end than it has while it waits in its middle. It takes them all when it starts; a longer one as its window moves on.
  bool takes_all_at_start(int64_t pages, int64_t page_tokens) const {
    return window == 0 || pages <= 1 + ceil_div(std::max<int64_t>(window - 2, 0), page_tokens);
  }
  /// Pages that `slots` sequences have together at the most, while they compute up to `new_rows` rows together and no two of them wait for each other's pages; `pages` if all of theirs were kept.
  /// With r new rows a sequence sees window - 1 + r positions, which lie in 1 + ceil((window - 2 + r) / page_tokens) pages where they lie worst.
  int64_t most_pages(int64_t slots, int64_t new_rows, int64_t pages, int64_t page_tokens) const {
    if (kind == Kind::kFixed) return slots;
    return window == 0 ? pages : std::min(pages, slots + (slots * (window + page_tokens - 3) + new_rows) / page_tokens);
  }
  /// Pages of shared prefixes that its layers keep, of `prefix_pages` in all: those that a row sees which follows one of so many places where prefixes end. 0: they may end anywhere, so all are kept.
  int64_t most_prefix_pages(int64_t prefix_pages, int64_t prefix_ends, int64_t page_tokens) const {
    return window == 0 || prefix_ends == 0 ? prefix_pages : std::min(prefix_pages, prefix_ends * ceil_div(window - 1, page_tokens));
  }
  /// Whether sequences that begin alike may have pages in common: positions have pages of their own, which nobody changes later.
  bool can_share() const { return kind == Kind::kPaged; }

  std::string to_string() const {
    if (kind == Kind::kFixed) return fmt::format("{} a sequence", format_bytes(fixed_bytes));
    return fmt::format("{} of {} heads of {}{}", rows == 2 ? "keys and values" : "a row a position", heads, head_size,
                       window > 0 ? fmt::format(", window {}", window) : "");
  }
};

}  // namespace flexgen
