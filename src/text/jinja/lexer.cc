#include "text/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "text/jinja/characters.h"
#include "text/unicode.h"

namespace flexgen::jinja {
namespace {

using Kind = Token::Kind;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool begins_name(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || static_cast<unsigned char>(c) >= 0x80; }

/// Line ends of any kind become \n, and the last one goes.
std::string with_plain_line_ends(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(with_plain_line_ends(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) read_data();
    add(Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  std::string_view rest() const { return std::string_view(source_).substr(at_); }
  bool here(std::string_view text) const { return rest().starts_with(text); }
  [[noreturn]] void fail_here(const std::string& message) const { throw SyntaxError(line_, message); }
  void add(Kind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }

  void advance(size_t bytes) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_), source_.begin() + static_cast<std::ptrdiff_t>(at_ + bytes), '\n'));
    at_ += bytes;
    if (bytes > 0) line_starting_ = source_[at_ - 1] == '\n';
  }
  void skip_blanks() { advance(rest().size() - strip(rest(), "", true, false).size()); }

  /// What stands before the next tag, and the tag.
  void read_data() {
    size_t begin = at_;
    for (;; ++begin) {
      begin = source_.find('{', begin);
      if (begin == std::string::npos || begin + 1 == source_.size()) {
        add(Kind::kData, std::string(rest()));
        advance(rest().size());
        return;
      }
      const char next = source_[begin + 1];
      if (next == '{' || next == '%' || next == '#') break;
    }
    const std::string_view data = rest().substr(0, begin - at_);
    const char tag = source_[begin + 1];
    const char sign = begin + 2 < source_.size() ? source_[begin + 2] : '\0';
    const bool signed_tag = sign == '-' || sign == '+';
    add_stripped(data, tag, sign);
    advance(data.size() + (signed_tag ? 3 : 2));
    if (tag == '#') read_comment();
    else if (tag == '{') read_tag(Kind::kPrintBegin, Kind::kPrintEnd, "}}");
    else if (!read_raw()) read_tag(Kind::kBlockBegin, Kind::kBlockEnd, "%}");
  }

  void add_stripped(std::string_view data, char tag, char sign) {
    if (sign == '-') {
      data = strip(data, "", false, true);
    } else if (sign != '+' && tag != '{') {
      const size_t line_end = data.rfind('\n');
      const size_t begin = line_end == std::string_view::npos ? 0 : line_end + 1;
      if ((begin > 0 || line_starting_) && strip(data.substr(begin), "", true, false).empty()) data = data.substr(0, begin);
    }
    if (!data.empty()) add(Kind::kData, std::string(data));
  }

  /// Behind the closing of a block, a comment or a raw block.
  bool close(std::string_view closing, bool takes_line_end) {
    const auto signed_closing = [&](char sign) { return here({&sign, 1}) && rest().substr(1).starts_with(closing); };
    if (signed_closing('-')) {
      advance(1 + closing.size());
      skip_blanks();
    } else if (takes_line_end && signed_closing('+')) {
      advance(1 + closing.size());
    } else if (here(closing)) {
      advance(closing.size());
      if (takes_line_end && here("\n")) advance(1);
    } else {
      return false;
    }
    return true;
  }

  void read_comment() {
    const size_t end = rest().find("#}");
    if (end == std::string_view::npos) fail_here("a comment has no end: '#}' is missing");
    const size_t before = end > 0 && (rest()[end - 1] == '-' || rest()[end - 1] == '+') ? end - 1 : end;
    advance(before);
    close("#}", true);
  }

  /// A raw block, if the tag that begins here is one.
  bool read_raw() {
    const size_t start = at_;
    const int start_line = line_;
    const bool line_starting = line_starting_;
    const auto give_up = [&] {
      at_ = start;
      line_ = start_line;
      line_starting_ = line_starting;
      return false;
    };
    skip_blanks();
    if (!here("raw")) return give_up();
    advance(3);
    skip_blanks();
    if (!close("%}", false)) return give_up();
    for (size_t from = 0;; from += 2) {
      from = rest().find("{%", from);
      if (from == std::string_view::npos) throw SyntaxError(start_line, "a raw block has no end: '{% endraw %}' is missing");
      size_t name = from + 2;
      const char sign = name < rest().size() ? rest()[name] : '\0';
      if (sign == '-' || sign == '+') ++name;
      const std::string_view tag = strip(rest().substr(name), "", true, false);
      if (!tag.starts_with("endraw")) continue;
      const std::string_view closing = strip(tag.substr(6), "", true, false);
      if (!closing.starts_with("%}") && !closing.starts_with("-%}") && !closing.starts_with("+%}")) continue;
      add_stripped(rest().substr(0, from), '%', sign);
      advance(rest().size() - closing.size());
      close("%}", true);
      return true;
    }
  }

  void read_tag(Kind begin, Kind end, std::string_view closing) {
    add(begin, "");
    std::vector<char> open;
    for (;;) {
      skip_blanks();
      if (at_ == source_.size()) fail_here(fmt::format("the template ends within a tag: '{}' is missing", closing));
      const bool closes = here(closing) || (here("-") && rest().substr(1).starts_with(closing)) ||
                          (end == Kind::kBlockEnd && here("+") && rest().substr(1).starts_with(closing));
      if (open.empty() && closes) {
        add(end, "");
        close(closing, end == Kind::kBlockEnd);
        return;
      }
      read_token(open);
    }
  }

  void read_token(std::vector<char>& open) {
    const char c = source_[at_];
    if (is_digit(c)) return read_number();
    if (begins_name(c)) {
      size_t bytes = 1;
      while (bytes < rest().size() && (begins_name(rest()[bytes]) || is_digit(rest()[bytes]))) ++bytes;
      add(Kind::kName, std::string(rest().substr(0, bytes)));
      return advance(bytes);
    }
    if (c == '\'' || c == '"') return read_text(c);
    static constexpr std::array<std::string_view, 25> kOperators{"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
                                                                 "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ","};
    for (std::string_view sign : kOperators) {
      if (!here(sign)) continue;
      if (c == '(' || c == '[' || c == '{') open.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
      if (c == ')' || c == ']' || c == '}') {
        if (open.empty()) fail_here(fmt::format("'{}' closes nothing", c));
        if (open.back() != c) fail_here(fmt::format("'{}' where '{}' is expected", c, open.back()));
        open.pop_back();
      }
      add(Kind::kOperator, std::string(sign));
      return advance(sign.size());
    }
    fail_here(fmt::format("the character '{}' has no meaning here", rest().substr(0, character_bytes(rest(), 0))));
  }

  /// Digits with single underscores between them.
  size_t digits(size_t from, bool (*is_one)(char)) const {
    size_t to = from;
    while (to < rest().size() &&
           (is_one(rest()[to]) || (rest()[to] == '_' && to > from && rest()[to - 1] != '_' && to + 1 < rest().size() && is_one(rest()[to + 1]))))
      ++to;
    return to;
  }

  void read_number() {
    size_t end = 0;
    Kind kind = Kind::kInt;
    const auto is_one_of = [&](size_t at, std::string_view letters) { return at < rest().size() && letters.find(rest()[at]) != std::string_view::npos; };
    if (source_[at_] == '0' && is_one_of(1, "bBoOxX")) {
      static constexpr auto kHex = [](char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); };
      end = digits(2, kHex);
    } else {
      end = digits(0, is_digit);
      if (is_one_of(end, ".") && end + 1 < rest().size() && is_digit(rest()[end + 1])) {
        kind = Kind::kFloat;
        end = digits(end + 1, is_digit);
      }
      if (is_one_of(end, "eE")) {
        const size_t exponent = end + (is_one_of(end + 1, "+-") ? 2 : 1);
        if (exponent < rest().size() && is_digit(rest()[exponent])) {
          kind = Kind::kFloat;
          end = digits(exponent, is_digit);
        }
      }
    }
    std::string text(rest().substr(0, end));
    std::erase(text, '_');
    add(kind, std::move(text));
    advance(end);
  }

  void read_text(char quote) {
    std::string out;
    size_t at = 1;
    for (;; ++at) {
      if (at >= rest().size()) fail_here("a text has no end: its closing quote is missing");
      const char c = rest()[at];
      if (c == quote) break;
      if (c == '\\') at = read_escape(at, out);
      else out += c;
    }
    add(Kind::kText, std::move(out));
    advance(at + 1);
  }

  /// Of the backslash at `at`; where its last character is. As in Python's literals; an unknown one stays as it is.
  size_t read_escape(size_t at, std::string& out) const {
    if (at + 1 >= rest().size()) fail_here("a text has no end: its closing quote is missing");
    const char c = rest()[at + 1];
    static constexpr std::string_view kLetters = "\\'\"abfnrtv", kMeant = "\\'\"\a\b\f\n\r\t\v";
    if (c == '\n') return at + 1;  // a line that goes on
    if (const size_t known = kLetters.find(c); known != std::string_view::npos) {
      out += kMeant[known];
      return at + 1;
    }
    if (c >= '0' && c <= '7') return read_code(at + 1, 3, 8, false, out);
    if (c == 'x') return read_code(at + 2, 2, 16, true, out);
    if (c == 'u') return read_code(at + 2, 4, 16, true, out);
    if (c == 'U') return read_code(at + 2, 8, 16, true, out);
    if (c == 'N') fail_here("characters by name (\\N) are not supported in a text; write the character itself");
    out += '\\';
    return at;
  }

  size_t read_code(size_t from, size_t most, int base, bool all, std::string& out) const {
    const std::string_view digits = rest().substr(std::min(from, rest().size()), most);
    uint32_t code = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), code, base);
    const auto length = static_cast<size_t>(end - digits.data());
    if (error != std::errc() || (all && length != most)) fail_here("a text has an escape (\\x, \\u) that is not complete");
    if (code > 0x10ffff || is_surrogate(code)) fail_here("a text has an escape for what is no character");
    append_utf8(out, code);
    return from + length - 1;
  }

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  ///< a line ended just before
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  if (std::ssize(source) > kMaxTemplateBytes) throw SyntaxError(1, fmt::format("the template is larger than {} bytes", kMaxTemplateBytes));
  if (source.find('\0') != std::string_view::npos || sanitize_utf8(source) != source) throw SyntaxError(1, "the template is not UTF-8 text");
  return Lexer(source).run();
}

}  // namespace flexgen::jinja
