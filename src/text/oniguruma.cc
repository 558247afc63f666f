#include "text/oniguruma.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "text/unicode.h"

namespace flexgen {
namespace {

// Members of sets, in PCRE2's words. Outside of sets a word has six characters more: Oniguruma looks those below U+0100 up in Latin-1's table.
constexpr std::string_view kWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})", kWordOutside = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\xb2\xb3\xb9\xbc-\xbe)",
                           kHex = "0-9a-fA-F", kAlnum = R"(\p{Alphabetic}\p{Nd})", kBlank = R"(\p{Zs}\t)";

using Names = std::pair<std::string_view, std::string_view>;
/// Names of POSIX brackets, and of properties, that PCRE2 does not have or that mean another set there.
constexpr auto kBrackets = std::to_array<Names>({{"alnum", kAlnum},
                                                 {"alpha", R"(\p{Alphabetic})"},
                                                 {"digit", R"(\p{Nd})"},
                                                 {"lower", R"(\p{Lowercase})"},
                                                 {"upper", R"(\p{Uppercase})"},
                                                 {"punct", R"(\p{P}\p{S})"},
                                                 {"space", R"(\p{White_Space})"},
                                                 {"blank", kBlank},
                                                 {"word", kWord}});
constexpr auto kProperties = std::to_array<Names>({{"alnum", kAlnum},
                                                   {"blank", kBlank},
                                                   {"cntrl", R"(\p{Cc})"},
                                                   {"digit", R"(\p{Nd})"},
                                                   {"graph", "[:graph:]"},
                                                   {"print", "[:print:]"},
                                                   {"punct", R"(\p{P})"},
                                                   {"xdigit", kHex},
                                                   {"letter", R"(\p{L})"},
                                                   {"casedletter", R"(\p{L&})"},
                                                   {"uppercaseletter", R"(\p{Lu})"},
                                                   {"lowercaseletter", R"(\p{Ll})"},
                                                   {"titlecaseletter", R"(\p{Lt})"},
                                                   {"modifierletter", R"(\p{Lm})"},
                                                   {"otherletter", R"(\p{Lo})"},
                                                   {"mark", R"(\p{M})"},
                                                   {"nonspacingmark", R"(\p{Mn})"},
                                                   {"number", R"(\p{N})"},
                                                   {"decimalnumber", R"(\p{Nd})"},
                                                   {"letternumber", R"(\p{Nl})"},
                                                   {"othernumber", R"(\p{No})"},
                                                   {"punctuation", R"(\p{P})"},
                                                   {"symbol", R"(\p{S})"},
                                                   {"mathsymbol", R"(\p{Sm})"},
                                                   {"currencysymbol", R"(\p{Sc})"},
                                                   {"separator", R"(\p{Z})"},
                                                   {"spaceseparator", R"(\p{Zs})"},
                                                   {"other", R"(\p{C})"},
                                                   {"control", R"(\p{Cc})"}});

/// Scripts, by which PCRE2 means all characters that are used with one too unless it is told otherwise.
constexpr auto kScripts = std::to_array<std::string_view>(
    {"arabic",    "armenian", "bengali", "bopomofo", "cherokee", "common",    "cyrillic", "devanagari", "ethiopic", "georgian", "greek", "gujarati",
     "gurmukhi",  "han",      "hangul",  "hebrew",   "hiragana", "inherited", "kannada",  "katakana",   "khmer",    "lao",      "latin", "malayalam",
     "mongolian", "myanmar",  "oriya",   "sinhala",  "syriac",   "tamil",     "telugu",   "thaana",     "thai",     "tibetan",  "yi"});

template <typename Table>
std::string_view members_of(const Table& table, std::string_view name) {
  const auto found = std::find_if(table.begin(), table.end(), [&](const Names& one) { return one.first == name; });
  return found == table.end() ? std::string_view() : found->second;
}

/// A set: an expression that matches one character; with members alone it is a plain class.
struct Set {
  std::string members;              ///< in PCRE2's words
  std::vector<std::string> others;  ///< expressions that match one character each
  bool negated = false;

  bool is_plain() const { return others.empty(); }
  std::string expression() const {
    if (is_plain() && members.empty()) return negated ? "(?s:.)" : "(?!)";
    std::string all;
    if (!members.empty()) all = (is_plain() && negated ? "[^" : "[") + members + "]";
    if (is_plain()) return all;
    for (const std::string& other : others) all += (all.empty() ? "" : "|") + other;
    return negated ? "(?:(?!" + all + ")(?s:.))" : "(?:" + all + ")";
  }
  void add(const Set& inner) {
    if (inner.is_plain() && !inner.negated) members += inner.members;
    else others.push_back(inner.expression());
  }
};

class Translator {
 public:
  Translator(const std::string& pattern, const std::string& where, bool exact_spaces) : in_(pattern), where_(where), exact_spaces_(exact_spaces) {}

  std::string translate() {
    while (at_ < in_.size()) {
      const char c = in_[at_];
      if (c == '(') open_group();
      else if (c == ')') close_group();
      else if (c == '{') interval();
      else if (c == '[') atom([&] { ++at_, out_ += set(0).expression(); });
      else if (c == '\\') atom([&] { escape(); });
      else if (c == '*' || c == '+' || c == '?') out_ += in_[at_++];
      else atom([&] { character(); });
    }
    return std::move(out_);
  }

 private:
  bool next_is(std::string_view text) const { return std::string_view(in_).substr(at_).starts_with(text); }

  template <typename Write>
  void atom(const Write& write) {
    atom_ = out_.size();
    write();
  }
  void character() {
    out_ += in_[at_++];
    while (at_ < in_.size() && is_continuation(in_[at_])) out_ += in_[at_++];
  }

  void open_group() {
    groups_.push_back(out_.size());
    out_ += in_[at_++];
    if (next_is("?#")) return comment();
    if (!next_is("?")) return;
    out_ += in_[at_++];
    // Options, "imx-imx": Ruby's m is PCRE2's s. All else that follows a question mark begins otherwise.
    while (at_ < in_.size() && (std::isalpha(static_cast<unsigned char>(in_[at_])) != 0 || in_[at_] == '-'))
      if (const char c = in_[at_++]; c == 's') fail_user("{}: the pattern '{}' has the option 's', which Oniguruma does not know", where_, in_.substr(0, 200));
      else out_ += c == 'm' ? 's' : c;
    // A name, a look around, an atomic group.
    if (next_is("<") && !next_is("<=") && !next_is("<!"))
      while (at_ < in_.size() && in_[at_] != '>') out_ += in_[at_++];
    else if (at_ < in_.size() && std::string_view("<=!>:").find(in_[at_]) != std::string_view::npos) out_ += in_[at_++];
  }
  void comment() {
    while (at_ < in_.size() && in_[at_] != ')') out_ += in_[at_++];
  }
  void close_group() {
    if (!groups_.empty()) {
      atom_ = groups_.back();
      groups_.pop_back();
    }
    out_ += in_[at_++];
  }

  /// "{n}", "{n,}", "{n,m}" or "{,m}"; anything else is characters.
  void interval() {
    size_t end = at_ + 1;
    const auto digits = [&] {
      const size_t first = end;
      while (end < in_.size() && std::isdigit(static_cast<unsigned char>(in_[end])) != 0) ++end;
      return end - first;
    };
    const size_t low = digits();
    const bool has_comma = end < in_.size() && in_[end] == ',';
    if (has_comma) ++end;
    const size_t high = has_comma ? digits() : 0;
    if ((low == 0 && high == 0) || end >= in_.size() || in_[end] != '}') return atom([&] { character(); });
    out_ += low == 0 ? "{0" : "{";
    out_.append(in_, at_ + 1, end - at_);
    at_ = end + 1;
    // A plus repeats all of it, where PCRE2's makes it possessive; a question mark behind "{n}" makes it optional.
    if (!next_is("+") && (has_comma || !next_is("?"))) return;
    out_.insert(atom_, "(?:");
    out_ += ')';
  }

  /// A backslash outside of sets.
  void escape() {
    const char c = at_ + 1 < in_.size() ? in_[at_ + 1] : '\0';
    if (c == 'b' || c == 'B') {
      at_ += 2;
      const std::string word = "[" + std::string(kWordOutside) + "]", inside = c == 'b' ? "!" : "=", outside = c == 'b' ? "=" : "!";
      out_ += "(?:(?<=" + word + ")(?" + inside + word + ")|(?<!" + word + ")(?" + outside + word + "))";
      return;
    }
    Set set;
    if (escaped_members(set, kWordOutside)) {
      out_ += set.expression();
      return;
    }
    out_ += in_[at_++];
    if (at_ < in_.size()) character();
    // What follows in braces or angles belongs to it: \x{41}, \p{L}, \k<name>, \g<name>.
    const char end = next_is("{") && (c == 'x' || c == 'p' || c == 'P' || c == 'o') ? '}' : next_is("<") && (c == 'k' || c == 'g') ? '>' : '\0';
    if (end != '\0') do
        out_ += in_[at_];
      while (in_[at_++] != end && at_ < in_.size());
  }

  /// Adds what a backslash at at_ means where that is a set of characters, or a character that PCRE2 writes otherwise; false, and nothing read, if it is another.
  bool escaped_members(Set& set, std::string_view word = kWord) {
    const char c = at_ + 1 < in_.size() ? in_[at_ + 1] : '\0';
    const auto take = [&](std::string_view members, bool negated, size_t length) {
      at_ += length;
      set.add({std::string(members), {}, negated});
      return true;
    };
    switch (c) {
      case 'w': return take(word, false, 2);
      case 'W': return take(word, true, 2);
      case 'h': return take(kHex, false, 2);
      case 'H': return take(kHex, true, 2);
      case 'v': return take("\\x0b", false, 2);
      case 'Q': return take("Q", false, 2);  // not a quotation there
      case 'E': return take("E", false, 2);
      default: break;
    }
    if (exact_spaces_ && (c == 's' || c == 'S')) return take(R"(\p{White_Space})", c == 'S', 2);
    const std::string_view rest = std::string_view(in_).substr(at_ + 1);
    if (c == 'u' && rest.size() >= 5 && std::all_of(rest.begin() + 1, rest.begin() + 5, [](unsigned char x) { return std::isxdigit(x) != 0; }))
      return take("\\x{" + std::string(rest.substr(1, 4)) + "}", false, 6);
    if ((c != 'p' && c != 'P') || !rest.substr(1).starts_with('{')) return false;
    const size_t end = rest.find('}');
    if (end == std::string_view::npos) return false;
    std::string name;
    for (const char x : rest.substr(2, end - 2))
      if (x != ' ' && x != '_' && x != '-') name += static_cast<char>(std::tolower(static_cast<unsigned char>(x)));
    const bool turned = name.starts_with('^');
    if (turned) name.erase(0, 1);
    std::string members(name == "word" ? word : members_of(kProperties, name));
    if (std::find(kScripts.begin(), kScripts.end(), name) != kScripts.end()) members = "\\p{sc:" + name + "}";
    return !members.empty() && take(members, turned != (c == 'P'), end + 2);
  }

  /// A set whose bracket was read.
  Set set(int depth) {
    constexpr int kMaxDepth = 100;
    if (depth == kMaxDepth) fail_user("{}: the pattern '{}' has sets more than {} deep", where_, in_.substr(0, 200), kMaxDepth);
    const bool negated = next_is("^");
    if (negated) ++at_;
    Set operand;
    std::vector<std::string> earlier;  // operands of an intersection
    bool first = true, after_set = false;
    for (; at_ < in_.size(); first = false) {
      const bool was_set = std::exchange(after_set, false);
      if (next_is("]") && !first) {
        ++at_;
        if (earlier.empty()) {
          operand.negated = negated;
          return operand;
        }
        std::string all = "(?:";
        for (const std::string& one : earlier) all += "(?=" + one + ")";
        return {"", {all + operand.expression() + ")"}, negated};
      }
      if (next_is("&&")) {
        at_ += 2;
        earlier.push_back(operand.expression());
        operand = {};
      } else if (next_is("[")) {
        after_set = true;
        if (bracket(operand)) continue;
        ++at_;
        operand.add(set(depth + 1));
      } else if (next_is("\\")) {
        member_escape(operand);
      } else if (const bool is_range = !first && !was_set && !next_is("-]") && !next_is("-[") && !next_is("-&&"); in_[at_] == '-' && !is_range) {
        operand.members += "\\-";
        ++at_;
      } else {
        if (next_is("]")) operand.members += '\\';
        operand.members += in_[at_++];
      }
    }
    fail_user("{}: the pattern '{}' has a set that does not end", where_, in_.substr(0, 200));
  }

  void member_escape(Set& operand) {
    if (escaped_members(operand)) return;
    operand.members += in_[at_++];
    if (at_ < in_.size()) operand.members += in_[at_++];
  }

  /// "[:name:]" or "[:^name:]"; false, and nothing read, if it is none.
  bool bracket(Set& operand) {
    if (!next_is("[:")) return false;
    const bool negated = next_is("[:^");
    const size_t begin = at_ + (negated ? 3 : 2);
    size_t end = begin;
    while (end < in_.size() && std::isalpha(static_cast<unsigned char>(in_[end])) != 0) ++end;
    if (std::string_view(in_).substr(end, 2) != ":]") return false;
    const std::string name = in_.substr(begin, end - begin);
    const std::string_view members = members_of(kBrackets, name);
    at_ = end + 2;
    operand.add({members.empty() ? "[:" + name + ":]" : std::string(members), {}, negated});
    return true;
  }

  const std::string& in_;
  const std::string& where_;
  const bool exact_spaces_;
  size_t at_ = 0;
  std::string out_;
  size_t atom_ = 0;             ///< where what a quantifier repeats begins in out_
  std::vector<size_t> groups_;  ///< where the open ones begin
};

}  // namespace

std::string pcre_of_oniguruma(const std::string& pattern, const std::string& where, bool exact_spaces) {
  return Translator(pattern, where, exact_spaces).translate();
}

}  // namespace flexgen
