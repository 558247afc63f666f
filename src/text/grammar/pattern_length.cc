#include "text/grammar/pattern_length.h"

#include <fmt/format.h>

#include <algorithm>

namespace flexgen {
namespace {

constexpr int64_t kNoEnd = int64_t{1} << 40;

/// Characters of a text: from, to.
struct Lengths {
  int64_t least = 0, most = 0;
};

class LengthReader {
 public:
  explicit LengthReader(std::string_view text) : text_(text) {}

  /// Alternatives, up to the ')' of their group or the end.
  Lengths read() {
    Lengths all{kNoEnd, 0}, one;
    for (;; ++at_) {
      const bool ends = at_ >= text_.size() || text_[at_] == ')';
      if (ends || text_[at_] == '|') {
        all = {std::min(all.least, one.least), std::max(all.most, one.most)};
        one = {};
        if (ends) return all;
        continue;
      }
      if (text_[at_] == '^' || text_[at_] == '$') continue;
      const Lengths part = repeated(read_unit());
      one = {capped(one.least + part.least), capped(one.most + part.most)};
      --at_;
    }
  }
  bool at_end() const { return at_ >= text_.size(); }

  /// Steps over a character, class or group.
  Lengths read_unit() {
    if (text_[at_] == '(') {
      at_ += text_.substr(at_).starts_with("(?:") ? 3 : 1;
      const Lengths inside = read();
      ++at_;
      return inside;
    }
    if (text_[at_] == '[') {
      while (++at_ < text_.size() && text_[at_] != ']')
        if (text_[at_] == '\\') ++at_;
      ++at_;
    } else if (text_[at_] != '\\') {
      ++at_;
    } else if (text_.substr(at_).starts_with("\\u{")) {
      at_ = std::min(text_.find('}', at_), text_.size() - 1) + 1;
    } else {
      at_ += text_.substr(at_).starts_with("\\u") ? 6 : 2;
    }
    return {1, 1};
  }

  /// Steps over a repetition, if one follows: how often.
  Lengths read_counts() {
    Lengths counts{1, 1};
    const char c = at_ < text_.size() ? text_[at_] : '\0';
    if (c == '*' || c == '+') counts = {c == '+' ? 1 : 0, kNoEnd};
    else if (c == '?') counts = {0, 1};
    else if (c != '{') return counts;
    ++at_;
    if (c == '{') {
      counts.least = counts.most = read_number();
      if (text_[at_] == ',') {
        ++at_;
        counts.most = text_[at_] == '}' ? kNoEnd : read_number();
      }
      ++at_;
    }
    if (at_ < text_.size() && text_[at_] == '?') ++at_;
    return counts;
  }
  size_t place() const { return at_; }

 private:
  static int64_t capped(int64_t length) { return std::min(length, kNoEnd); }

  int64_t read_number() {
    int64_t number = 0;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) number = std::min<int64_t>(10 * number + (text_[at_] - '0'), 1'000'000);
    return number;
  }

  Lengths repeated(Lengths one) {
    const Lengths counts = read_counts();
    const auto times = [](int64_t length, int64_t count) { return length == 0 || count == 0 ? 0 : length > kNoEnd / count ? kNoEnd : length * count; };
    return {times(one.least, counts.least), times(one.most, counts.most)};
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

std::optional<std::string> pattern_of_length(std::string_view plain, int64_t least, int64_t most) {
  const Lengths all = LengthReader(plain).read();
  if (all.least >= least && all.most <= most) return std::string(plain);
  std::string_view inside = plain;
  if (inside.starts_with('^')) inside.remove_prefix(1);
  if (inside.ends_with('$') && !inside.ends_with("\\$")) inside.remove_suffix(1);
  if (inside.empty() || inside.front() == '(' || inside.front() == '|' || inside.front() == '^' || inside.front() == '$') return std::nullopt;
  LengthReader reader(inside);
  reader.read_unit();
  const std::string unit(inside.substr(0, reader.place()));
  const Lengths counts = reader.read_counts();
  const int64_t from = std::max(counts.least, least), to = std::min(counts.most, most);
  if (!reader.at_end() || from > to) return std::nullopt;
  return to >= kNoEnd ? fmt::format("^{}{{{},}}$", unit, from) : fmt::format("^{}{{{},{}}}$", unit, from, to);
}

}  // namespace flexgen
