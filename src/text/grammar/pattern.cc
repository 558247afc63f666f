#include "text/grammar/pattern.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "text/unicode.h"

namespace flexgen {
namespace {

/// Code points from the first to the second, both with it.
using CodeRange = std::pair<uint32_t, uint32_t>;
using CodeRanges = std::vector<CodeRange>;

constexpr std::string_view kMarks = "^$.*+?\\()[]{}|/";  ///< what means something outside of classes
constexpr size_t kMostDepth = 250;                       // xgrammar calls itself for each group
constexpr uint32_t kLastCode = 0x10ffff;
constexpr CodeRange kSurrogates{0xd800, 0xdfff};

const CodeRanges kDigits{{'0', '9'}}, kWordCharacters{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
// What is white space by every dialect, and by one at least (ECMAScript, Python): \s takes the ones, \S leaves out the others.
const CodeRanges kSurelySpaces{{0x09, 0x0d}, {' ', ' '}};
const CodeRanges kMaybeSpaces{{0x09, 0x0d},     {0x1c, ' '},      {0x85, 0x85},     {0xa0, 0xa0},     {0x1680, 0x1680}, {0x2000, 0x200a},
                              {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000}, {0xfeff, 0xfeff}};
const CodeRanges kEscapedInJson{{0, 0x1f}, {'"', '"'}, {'\\', '\\'}}, kMarkInXml{{'<', '<'}};

/// In order, and none touches the next.
CodeRanges joined(CodeRanges ranges) {
  std::sort(ranges.begin(), ranges.end());
  CodeRanges result;
  for (const CodeRange& range : ranges)
    if (!result.empty() && range.first <= result.back().second + 1) result.back().second = std::max(result.back().second, range.second);
    else result.push_back(range);
  return result;
}

CodeRanges all_but(CodeRanges ranges) {
  CodeRanges result;
  uint32_t next = 0;
  for (const auto& [from, to] : joined(std::move(ranges))) {
    if (from > next) result.emplace_back(next, from - 1);
    next = to + 1;
  }
  if (next <= kLastCode) result.emplace_back(next, kLastCode);
  return result;
}

void add(CodeRanges& ranges, const CodeRanges& more) { ranges.insert(ranges.end(), more.begin(), more.end()); }

CodeRanges without(CodeRanges ranges, const CodeRanges& left_out) {
  ranges = all_but(std::move(ranges));
  add(ranges, left_out);
  return all_but(std::move(ranges));
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_ascii_letter(uint32_t c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

std::optional<uint32_t> hex_digit(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return std::nullopt;
}

/// One character, or several of which one may come.
struct PatternUnit {
  std::optional<uint32_t> character;
  CodeRanges ranges;
};

class PatternReader {
 public:
  PatternReader(std::string_view text, PatternPlace place) : text_(text), in_json_(place == PatternPlace::kJsonString) {
    if (place != PatternPlace::kAnswer) left_out_ = in_json_ ? kEscapedInJson : kMarkInXml;
    if (text_.starts_with("(?i)")) {
      folds_ = true;
      at_ = 4;
    }
  }

  std::string read() {
    while (at_ < text_.size()) read_part();
    return std::move(out_);
  }
  /// Characters, with repetitions written out, once all is read.
  double size() const { return size_; }

 private:
  /// Whether the part before is a repetition: one that a '?' may follow still, or no more.
  enum class Repeats { kNot, kOnce, kAtEnd };

  [[noreturn]] void fail(const std::string& what) const { fail_user("at byte {} of the pattern: {}", start_ + 1, what); }

  bool comes(std::string_view what) const { return text_.substr(at_).starts_with(what); }

  void read_part() {
    start_ = at_;
    const bool begins_alternative = std::exchange(begins_alternative_, false);
    const Repeats repeats = std::exchange(repeats_, Repeats::kNot);
    switch (const char c = text_[at_]) {
      case '^':
        ++at_;
        if (!begins_alternative) out_ += c;
        return;
      case '$':
        ++at_;
        if (!groups_.empty() || !comes("|")) out_ += c;
        return;
      case '|':
      case ')':
        out_ += c;
        ++at_;
        if (c == ')') end_group();
        begins_alternative_ = c == '|' && groups_.empty();
        return;
      case '*':
      case '+':
      case '?':
        check_repeats(repeats, c);
        out_ += c;
        ++at_;
        return;
      case '(': return read_group();
      case '{': check_repeats(repeats, c); return read_repetition();
      default: return read_unit();
    }
  }

  /// A character, or a class of them.
  void read_unit() {
    part_ = {start_, 1};
    ++size_;
    switch (text_[at_]) {
      case '[': return write_set(read_class());
      case '.':
        ++at_;
        // No line end is one of its characters; in an answer that is no JSON it always was here.
        return write_set(in_json_ ? all_but({{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}}) : all_but({}));
      default: break;
    }
    const PatternUnit unit = text_[at_] == '\\' ? read_escape(false, false) : PatternUnit{read_character(), {}};
    if (!unit.character) return write_set(unit.ranges);
    if (folds_ && is_ascii_letter(*unit.character)) return write_set(folded({{*unit.character, *unit.character}}));
    if (without({{*unit.character, *unit.character}}, left_out_).empty()) fail_of_left_out();
    write_character(*unit.character, kMarks);
  }

  /// A '?' behind a repetition makes it take as little as it can, which changes no answer's fitness.
  void check_repeats(Repeats before, char c) {
    if (before == Repeats::kAtEnd || (before == Repeats::kOnce && c != '?'))
      fail("what is repeated is repeated again, which means different things; put it into (?:...)");
    repeats_ = before == Repeats::kOnce ? Repeats::kAtEnd : Repeats::kOnce;
  }

  [[noreturn]] void fail_of_left_out() const {
    fail(in_json_ ? "'\"', '\\' and control characters are not supported, as JSON escapes them"
                  : "'<' is not supported, as it may begin the mark that ends a value");
  }

  void read_group() {
    ++at_;
    groups_.push_back({start_, size_});
    size_ = 0;
    if (groups_.size() > kMostDepth) fail(fmt::format("groups are nested more than {} deep", kMostDepth));
    out_ += '(';
    if (!comes("?")) return;
    const bool named = comes("?<") || comes("?P<");
    if (comes("?=") || comes("?!") || comes("?<=") || comes("?<!")) fail("what looks ahead or back is not supported");
    if (!named && !comes("?:")) fail("'(?' begins no group that is supported: (?:...), (?<name>...) and, before all else, (?i) are");
    const size_t end = named ? text_.find('>', at_) : at_ + 1;
    if (end == std::string_view::npos) fail("the name of the group has no end");
    at_ = end + 1;
    out_ += "?:";
  }

  void end_group() {
    if (groups_.empty()) return;  // xgrammar says so
    part_ = {groups_.back().begin, size_};
    size_ += groups_.back().size;
    groups_.pop_back();
  }

  void read_repetition() {
    const size_t end = text_.find('}', at_);
    const std::string_view inside = text_.substr(at_, end - at_).substr(1);
    const size_t comma = std::min(inside.find(','), inside.size());
    const bool digits = std::all_of(inside.begin(), inside.end(), [](char c) { return is_digit(c) || c == ','; });
    if (end == std::string_view::npos || !digits || comma == 0 || std::count(inside.begin(), inside.end(), ',') > 1)
      fail("'{' begins no repetition {n}, {n,} or {n,m}; the character itself is \\{");
    out_ += text_.substr(at_, end + 1 - at_);
    at_ = end + 1;
    const std::string_view most = comma + 1 < inside.size() ? inside.substr(comma + 1) : inside.substr(0, comma);
    const int64_t count = most.size() > 6 ? 1000000 : std::stoll(std::string(most));
    if (repetitions_.insert(text_.substr(part_.begin, at_ - part_.begin)).second) counts_ += std::min(kMostCopies, count);
    const bool is_open = comma + 1 == inside.size();  // {n,}: n copies, and one that comes any number of times
    const double more = part_.size * static_cast<double>(std::max<int64_t>(0, is_open ? count : count - 1));
    part_.size += more;
    size_ += more;
    if (counts_ > kMostCounts)
      fail(fmt::format("repetitions {{n,m}} have larger counts than {} together, each counted up to {}: it takes too long to compile", kMostCounts,
                       kMostCopies));
    if (in_json_ && size_ > static_cast<double>(kMostCounts))
      fail(fmt::format("with its repetitions written out it is longer than {} characters: it takes too long to compile", kMostCounts));
  }

  uint32_t read_character() {
    const size_t length = utf8_length(text_, at_);
    if (length == 0) fail("it is not UTF-8");
    const auto code = static_cast<uint32_t>(character_at(text_, at_));
    at_ += length;
    return code;
  }

  /// `digits` of them, no fewer.
  uint32_t read_hex(size_t digits, const char* form) {
    uint64_t code = 0;
    for (size_t i = 0; i < digits; ++i, ++at_) {
      const std::optional<uint32_t> digit = at_ < text_.size() ? hex_digit(text_[at_]) : std::nullopt;
      if (!digit) fail(fmt::format("{} needs {} hexadecimal digits", form, digits));
      code = code * 16 + *digit;
    }
    if (code > kLastCode) fail(fmt::format("{} is beyond the last character, 10FFFF", form));
    return static_cast<uint32_t>(code);
  }

  uint32_t read_unicode() {
    uint32_t code = 0;
    if (comes("{")) {
      const size_t digits = std::min(text_.find('}', at_), text_.size()) - at_ - 1;
      if (digits < 1 || digits > 6 || at_ + 1 + digits >= text_.size()) fail("\\u{...} needs one to six hexadecimal digits");
      ++at_;
      code = read_hex(digits, "\\u{...}");
      ++at_;
    } else {
      code = read_hex(4, "\\u");
      if (code >= kSurrogates.first && code < 0xdc00 && comes("\\u") && !comes("\\u{")) {
        at_ += 2;
        const uint32_t low = read_hex(4, "\\u");
        if (low < 0xdc00 || low > kSurrogates.second) fail_of_surrogate();
        return 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
      }
    }
    if (is_surrogate(code)) fail_of_surrogate();
    return code;
  }

  [[noreturn]] void fail_of_surrogate() const { fail("half a pair of surrogates is no character; a pair is \\ud83d\\ude00, or \\u{1f600}"); }

  static CodeRanges spaces(bool at_least, bool in_json) {
    if (!at_least) return kMaybeSpaces;
    CodeRanges result = kSurelySpaces;
    if (!in_json) result.emplace_back(0xa0, 0xa0);
    return result;
  }

  /// At a '\'. `negated`: within a class of what may not come.
  PatternUnit read_escape(bool in_class, bool negated) {
    if (++at_ >= text_.size()) fail("nothing follows '\\'");
    const char c = text_[at_];
    if (static_cast<unsigned char>(c) >= 0x80) return {read_character(), {}};
    ++at_;
    switch (c) {
      case 'd': return {{}, kDigits};
      case 'D': return {{}, all_but(kDigits)};
      case 'w': return {{}, kWordCharacters};
      case 'W': return {{}, all_but(kWordCharacters)};
      case 's': return {{}, spaces(!negated, in_json_)};
      case 'S': return {{}, all_but(spaces(negated, in_json_))};
      case 'n': return {'\n', {}};
      case 't': return {'\t', {}};
      case 'r': return {'\r', {}};
      case 'f': return {'\f', {}};
      case 'v': return {'\v', {}};
      case 'a': return {'\a', {}};
      case 'e': return {0x1b, {}};
      case 'x': return {read_hex(2, "\\x"), {}};
      case 'u': return {read_unicode(), {}};
      case 'U': {
        const uint32_t code = read_hex(8, "\\U");
        if (is_surrogate(code)) fail_of_surrogate();
        return {code, {}};
      }
      case 'c':
        if (at_ >= text_.size() || !is_ascii_letter(static_cast<unsigned char>(text_[at_]))) fail("\\c needs a letter");
        return {static_cast<uint32_t>(text_[at_++]) % 32, {}};
      case '0':
        if (at_ < text_.size() && is_digit(text_[at_])) fail("an octal number is not supported; write \\x and two hexadecimal digits");
        return {0, {}};
      case 'b':
        if (in_class) return {'\b', {}};
        [[fallthrough]];
      case 'B': fail("bounds of words (\\b, \\B) are not supported");
      case 'p':
      case 'P': fail("classes of Unicode (\\p) are not supported");
      default: break;
    }
    if (c == 'k' || is_digit(c)) fail("references back to a group are not supported");
    if (is_ascii_letter(static_cast<unsigned char>(c))) fail(fmt::format("the escape \\{} is not supported", c));
    return {static_cast<unsigned char>(c), {}};
  }

  PatternUnit read_class_unit(bool negated) {
    if (at_ >= text_.size()) fail("'[' has no ']'");
    return text_[at_] == '\\' ? read_escape(true, negated) : PatternUnit{read_character(), {}};
  }

  /// "[:alpha:]".
  bool comes_class_name() const {
    if (!comes("[:")) return false;
    const size_t begin = at_ + 2, end = std::min(text_.find_first_not_of("abcdefghijklmnopqrstuvwxyz^", begin), text_.size());
    return end > begin && text_.substr(end).starts_with(":]");
  }

  /// At a '['.
  CodeRanges read_class() {
    ++at_;
    const bool negated = comes("^");
    if (negated) ++at_;
    if (comes("]")) fail("a class without characters means different things; write \\] for the character");
    CodeRanges ranges;
    while (!comes("]")) {
      if (comes_class_name()) fail("a class by name within a class ([:alpha:]) means different things; write its characters");
      const PatternUnit low = read_class_unit(negated);
      if (!low.character) {
        add(ranges, low.ranges);
        continue;
      }
      uint32_t to = *low.character;
      if (comes("-") && !comes("-]")) {
        ++at_;
        const PatternUnit high = read_class_unit(negated);
        if (!high.character || *high.character < to) fail("a range of a class goes from a character to one that is not before it");
        to = *high.character;
      }
      ranges.emplace_back(*low.character, to);
    }
    ++at_;
    ranges = folded(std::move(ranges));
    return negated ? all_but(std::move(ranges)) : ranges;
  }

  CodeRanges folded(CodeRanges ranges) const {
    if (!folds_) return ranges;
    for (const auto& [first, shift] : {std::pair<uint32_t, int>{'a', -32}, std::pair<uint32_t, int>{'A', 32}})
      for (size_t i = 0, count = ranges.size(); i < count; ++i) {
        const uint32_t from = std::max(ranges[i].first, first), to = std::min(ranges[i].second, first + 25);
        if (from <= to) ranges.emplace_back(from + static_cast<uint32_t>(shift), to + static_cast<uint32_t>(shift));
      }
    return ranges;
  }

  /// `marks`: what a '\' stands before.
  void write_character(uint32_t code, std::string_view marks) {
    if (code == 0) out_ += "\\0";
    else if (code >= 0x7f) out_ += code > 0xffff ? fmt::format("\\u{{{:x}}}", code) : fmt::format("\\u{:04x}", code);
    else (marks.find(static_cast<char>(code)) != std::string_view::npos ? out_ += '\\' : out_) += static_cast<char>(code);
  }
  void write_in_class(uint32_t code) {
    if (code == '\n' || code == '\r') out_ += code == '\n' ? "\\n" : "\\r";  // a class of xgrammar's grammars has no line ends
    else write_character(code, "\\[]^-");
  }

  void write_set(CodeRanges ranges) {
    ranges = without(std::move(ranges), {kSurrogates});
    if (ranges.empty()) fail("no character is in this class");
    ranges = without(std::move(ranges), left_out_);
    if (ranges.empty()) fail_of_left_out();
    // A '^' in front would mean all others, also behind a '\'.
    if (ranges.front().first == '^') {
      if (ranges.front().second > '^') ranges.emplace_back('^' + 1, ranges.front().second);
      ranges.front().second = '^';
      std::rotate(ranges.begin(), ranges.begin() + 1, ranges.end());
    }
    if (ranges.size() == 1 && ranges.front().first == ranges.front().second) return write_character(ranges.front().first, kMarks);
    out_ += '[';
    for (const auto& [from, to] : ranges) {
      write_in_class(from);
      if (to > from + 1) out_ += '-';
      if (to > from) write_in_class(to);
    }
    out_ += ']';
  }

  std::string_view text_;
  bool in_json_, folds_ = false;
  CodeRanges left_out_;        ///< characters that cannot come
  size_t at_ = 0, start_ = 0;  ///< of the part that is being read
  /// Behind a '|' outside of groups. The whole text matches, so a '^' there says nothing, and no more does a '$' before a '|'.
  bool begins_alternative_ = false;
  Repeats repeats_ = Repeats::kNot;
  /// A part of the text, and how many characters it is with its repetitions written out.
  struct Part {
    size_t begin;
    double size;
  };
  std::vector<Part> groups_;                ///< that have no end yet, with the size of what is before them in their own group
  Part part_{0, 0};                         ///< the last one: what a repetition would repeat
  double size_ = 0;                         ///< of the group that is being read, so far
  std::set<std::string_view> repetitions_;  ///< with their parts
  int64_t counts_ = 0;                      ///< of these
  std::string out_;
};

}  // namespace

std::string plain_pattern(std::string_view pattern, PatternPlace place, double* characters) {
  PatternReader reader(pattern, place);
  std::string plain = reader.read();
  if (characters) *characters = reader.size();
  return plain;
}

}  // namespace flexgen
