#include "text/grammar/pattern_relation.h"

#include <algorithm>
#include <bitset>
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "text/grammar/schema_work.h"

namespace flexgen {
namespace {

constexpr size_t kAscii = 128;
constexpr size_t kMostStates = 4096, kMostPairs = 5000, kMostWork = 2'000'000;

using Characters = std::bitset<kAscii + 1>;  ///< of ASCII; the last one stands for all others
using States = std::vector<uint32_t>;        ///< in order

/// A regular expression as states between which characters lead (Thompson 1968).
class Automaton {
 public:
  explicit Automaton(std::string_view pattern) : text_(pattern) {
    const Part all = read();
    start_ = all.from;
    end_ = all.to;
    fits_ = fits_ && at_ >= text_.size();
  }

  /// Whether it is all of the pattern.
  bool fits() const { return fits_; }
  States start() const { return closed({start_}); }
  bool ends(const States& states) const { return std::binary_search(states.begin(), states.end(), end_); }
  States next(const States& states, size_t character) const {
    States to;
    for (const uint32_t state : states)
      if (states_[state].on.test(character)) to.push_back(states_[state].to);
    return closed(std::move(to));
  }
  /// That lead on from there.
  Characters characters(const States& states) const {
    Characters all;
    for (const uint32_t state : states) all |= states_[state].on;
    return all;
  }

 private:
  struct State {
    Characters on;
    uint32_t to = 0;
    std::vector<uint32_t> free;
  };
  struct Part {
    uint32_t from, to;
  };

  uint32_t add() {
    if (states_.size() >= kMostStates) fits_ = false;
    else states_.emplace_back();
    return static_cast<uint32_t>(states_.size() - 1);
  }
  void lead(uint32_t from, uint32_t to) { states_[from].free.push_back(to); }

  States closed(States states) const {
    seen_.resize(states_.size());
    for (const uint32_t state : states) seen_[state] = true;
    for (size_t i = 0; i < states.size(); ++i)
      for (const uint32_t to : states_[states[i]].free)
        if (!seen_[to]) {
          seen_[to] = true;
          states.push_back(to);
        }
    for (const uint32_t state : states) seen_[state] = false;
    std::sort(states.begin(), states.end());
    states.erase(std::unique(states.begin(), states.end()), states.end());
    return states;
  }

  /// Alternatives, up to the ')' of their group or the end.
  Part read() {
    const Part all{add(), add()};
    uint32_t at = add();
    lead(all.from, at);
    while (fits_ && at_ < text_.size() && text_[at_] != ')') {
      if (text_[at_] == '|') {
        lead(at, all.to);
        at = add();
        lead(all.from, at);
        ++at_;
      } else if (text_[at_] == '^' || text_[at_] == '$') {
        ++at_;
      } else {
        const size_t begin = at_;
        read_unit();
        const size_t end = at_;
        const auto [least, most] = read_counts();
        const size_t behind = at_;
        at = repeat(begin, end, least, most, at);
        at_ = behind;
      }
    }
    lead(at, all.to);
    return all;
  }

  /// What stands from `begin` to `end`, so often, behind `at`. Returns the state behind it.
  uint32_t repeat(size_t begin, size_t end, int64_t least, int64_t most, uint32_t at) {
    const auto once = [&] {
      at_ = begin;
      const Part part = read_unit();
      fits_ = fits_ && at_ == end;
      return part;
    };
    for (int64_t i = 0; i < least && fits_; ++i) {
      const Part part = once();
      lead(at, part.from);
      at = part.to;
    }
    if (most < 0) {
      const Part part = once();
      const uint32_t round = add();
      lead(at, round);
      lead(round, part.from);
      lead(part.to, round);
      return round;
    }
    const uint32_t behind = add();
    for (int64_t i = least; i < most && fits_; ++i) {
      lead(at, behind);
      const Part part = once();
      lead(at, part.from);
      at = part.to;
    }
    lead(at, behind);
    return behind;
  }

  Part read_unit() {
    if (text_[at_] == '(') {
      at_ += text_.substr(at_).starts_with("(?:") ? 3 : 1;
      const Part inside = read();
      fits_ = fits_ && at_ < text_.size();
      ++at_;
      return inside;
    }
    Characters on;
    if (text_[at_] == '[') {
      ++at_;
      while (at_ < text_.size() && text_[at_] != ']') {
        const uint32_t from = read_character();
        uint32_t to = from;
        if (at_ + 1 < text_.size() && text_[at_] == '-' && text_[at_ + 1] != ']') {
          ++at_;
          to = read_character();
        }
        for (uint32_t c = from; c <= to && c < kAscii; ++c) on.set(c);
        if (to >= kAscii) on.set(kAscii);
      }
      ++at_;
    } else {
      on.set(std::min<size_t>(read_character(), kAscii));
    }
    const Part part{add(), add()};
    states_[part.from].on = on;
    states_[part.from].to = part.to;
    return part;
  }

  uint32_t read_character() {
    if (text_[at_] != '\\') return static_cast<unsigned char>(text_[at_++]);
    const char c = at_ + 1 < text_.size() ? text_[at_ + 1] : '\0';
    at_ += 2;
    if (c == 'n' || c == 'r' || c == '0') return c == 'n' ? '\n' : c == 'r' ? '\r' : 0;
    if (c != 'u') return static_cast<unsigned char>(c);
    const bool braces = at_ < text_.size() && text_[at_] == '{';
    const size_t begin = at_ + (braces ? 1 : 0), end = braces ? text_.find('}', at_) : at_ + 4;
    if (end == std::string_view::npos || end > text_.size()) {
      fits_ = false;
      at_ = text_.size();
      return 0;
    }
    at_ = braces ? end + 1 : end;
    return static_cast<uint32_t>(std::stoul("0" + std::string(text_.substr(begin, end - begin)), nullptr, 16));
  }

  /// From, to; to less than 0: any number.
  std::pair<int64_t, int64_t> read_counts() {
    const char c = at_ < text_.size() ? text_[at_] : '\0';
    std::pair<int64_t, int64_t> counts{1, 1};
    if (c == '*' || c == '+') counts = {c == '+' ? 1 : 0, -1};
    else if (c == '?') counts = {0, 1};
    else if (c != '{') return counts;
    ++at_;
    if (c == '{') {
      counts.first = counts.second = read_number();
      if (at_ < text_.size() && text_[at_] == ',') {
        ++at_;
        counts.second = at_ < text_.size() && text_[at_] == '}' ? -1 : read_number();
      }
      ++at_;
    }
    if (at_ < text_.size() && text_[at_] == '?') ++at_;
    return counts;
  }
  int64_t read_number() {
    int64_t number = 0;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) number = std::min<int64_t>(10 * number + (text_[at_] - '0'), kMostStates);
    return number;
  }

  std::string_view text_;
  size_t at_ = 0;
  std::vector<State> states_;
  mutable std::vector<bool> seen_;  ///< of closed(), all false between its calls
  uint32_t start_ = 0, end_ = 0;
  bool fits_ = true;
};

/// Whether `holds` of the ends of both, for each text of `inner`; these must be of ASCII.
template <typename Holds>
bool of_all_texts(std::string_view inner, std::string_view outer, const Holds& holds) {
  const Automaton one(inner), other(outer);
  if (!one.fits() || !other.fits()) return false;
  std::set<std::pair<States, States>> seen;
  size_t work = 0;
  std::vector<std::pair<States, States>> to_do{{one.start(), other.start()}};
  seen.insert(to_do.back());
  while (!to_do.empty()) {
    const auto [mine, theirs] = std::move(to_do.back());
    to_do.pop_back();
    if (one.ends(mine) && !holds(other.ends(theirs))) return false;
    const Characters characters = one.characters(mine);
    if (characters.test(kAscii)) return false;
    for (size_t c = 0; c < kAscii; ++c) {
      if (!characters.test(c)) continue;
      SchemaWork::spend(mine.size() + theirs.size());
      if ((work += mine.size() + theirs.size()) > kMostWork) return false;
      std::pair<States, States> next{one.next(mine, c), other.next(theirs, c)};
      if (!seen.insert(next).second) continue;
      if (seen.size() > kMostPairs) return false;
      to_do.push_back(std::move(next));
    }
  }
  return true;
}

}  // namespace

bool all_match(std::string_view inner, std::string_view outer) {
  return of_all_texts(inner, outer, [](bool ends) { return ends; });
}

bool none_match(std::string_view one, std::string_view other) {
  return of_all_texts(one, other, [](bool ends) { return !ends; });
}

}  // namespace flexgen
