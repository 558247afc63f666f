#include "text/jinja/format.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "text/jinja/access.h"
#include "text/jinja/characters.h"

namespace flexgen::jinja {
namespace {

constexpr int64_t kMaxWidth = 100'000, kMaxDigits = 1'000;

/// What stands between % and its letter, or behind a colon in braces.
struct FormatSpec {
  std::string fill = " ";
  char align = '\0';  ///< < > ^ =
  char sign = '\0';   ///< - + or a blank
  bool alternate = false, zero = false, no_minus_zero = false;
  char grouping = '\0';
  int64_t width = 0, digits = -1;
  char type = '\0';

  bool is_one_of(std::string_view types) const { return type != '\0' && types.find(type) != std::string_view::npos; }
  /// Zeros before the digits of a number, unless they have another place.
  void take_zero() {
    if (!zero) return;
    fill = "0";
    if (align == '\0') align = '=';
  }
};

int64_t read_number(std::string_view text, size_t& at, int64_t most) {
  int64_t number = 0;
  for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
    number = number * 10 + (text[at] - '0');
    if (number > most) fail("a format's width or precision is larger than {}", most);
  }
  return number;
}

/// A text within the form's width.
std::string padded(std::string_view text, const FormatSpec& form, char otherwise) {
  const int64_t missing = form.width - count_characters(text);
  if (missing <= 0) return std::string(text);
  const char align = form.align ? form.align : otherwise;
  const int64_t left = align == '<' ? 0 : align == '^' ? missing / 2 : missing;
  GrowingText out;
  for (int64_t i = 0; i < left; ++i) out.add(form.fill);
  out.add(text);
  for (int64_t i = left; i < missing; ++i) out.add(form.fill);
  return out.take();
}

/// Whole digits in groups, with zeros before them up to `least` characters, which are grouped like them.
std::string grouped(std::string_view digits, char between, size_t group, int64_t least) {
  std::string text;  // last first
  int64_t left = least;
  for (size_t end = digits.size();; --left) {
    const auto wanted =
        static_cast<size_t>(std::max<int64_t>(1, std::min<int64_t>(static_cast<int64_t>(group), std::max<int64_t>(static_cast<int64_t>(end), left))));
    for (size_t i = 0; i < wanted; ++i) text += end > 0 ? digits[--end] : '0';
    left -= static_cast<int64_t>(wanted);
    if (end == 0 && left <= 0) break;
    text += between;
  }
  std::reverse(text.begin(), text.end());
  return text;
}

/// Digits with the form's sign, groups, and what fills them up to the width.
std::string dressed(const std::string& digits, bool negative, const std::string& prefix, const FormatSpec& form) {
  const std::string sign = (negative ? "-" : form.sign == '\0' || form.sign == '-' ? "" : std::string(1, form.sign)) + prefix;
  std::string number = digits;
  if (form.grouping) {
    const size_t whole = form.is_one_of("xXob") ? digits.size() : std::min(digits.find_first_not_of("0123456789"), digits.size());
    const bool zeros = form.align == '=' && form.fill == "0";
    const int64_t least = zeros ? form.width - std::ssize(sign) - static_cast<int64_t>(digits.size() - whole) : 0;
    if (whole > 0) number = grouped(std::string_view(digits).substr(0, whole), form.grouping, form.is_one_of("xXob") ? 4 : 3, least) + digits.substr(whole);
  }
  if (form.align != '=') return padded(sign + number, form, '>');
  GrowingText out;
  out.add(sign);
  for (int64_t missing = form.width - std::ssize(sign) - std::ssize(number); missing > 0; --missing) out.add(form.fill);
  out.add(number);
  return out.take();
}

std::string with_least_digits(std::string digits, const FormatSpec& form) {
  if (form.digits > std::ssize(digits)) digits.insert(0, static_cast<size_t>(form.digits - std::ssize(digits)), '0');
  return digits;
}

/// A whole number that 64 bits do not hold: "-123".
std::string large_number(std::string_view text, const FormatSpec& form) {
  if (form.is_one_of("xXobc")) fail("a whole number does not fit 64 bits");
  const bool negative = text.starts_with('-');
  return dressed(with_least_digits(std::string(text.substr(negative ? 1 : 0)), form), negative, "", form);
}

std::string whole_number(const Value& value, const FormatSpec& form) {
  if (value.large()) return large_number(value.large()->digits, form);
  const int64_t number = *value.integer();
  const uint64_t size = number < 0 ? 0 - static_cast<uint64_t>(number) : static_cast<uint64_t>(number);
  const int base = form.is_one_of("xX") ? 16 : form.type == 'o' ? 8 : form.type == 'b' ? 2 : 10;
  char buffer[72];
  std::string digits(buffer, std::to_chars(buffer, buffer + sizeof buffer, size, base).ptr);
  if (form.type == 'X') digits = to_upper(digits);
  return dressed(with_least_digits(std::move(digits), form), number < 0, form.alternate && base != 10 ? std::string("0") + form.type : "", form);
}

std::string real_number(double number, const FormatSpec& form) {
  const bool percent = form.type == '%';
  const char type = percent ? 'f' : form.type;
  const double size = std::abs(percent ? number * 100 : number);
  std::string digits;
  if (type == '\0' && form.digits < 0) {
    digits = float_text(size);
  } else {
    const std::string format = fmt::format("%{}.{}{}", form.alternate ? "#" : "", form.digits < 0 ? 6 : form.digits, type == '\0' ? 'g' : type);
    const int bytes = std::snprintf(nullptr, 0, format.c_str(), size);
    digits.resize(static_cast<size_t>(bytes) + 1);
    std::snprintf(digits.data(), digits.size(), format.c_str(), size);
    digits.pop_back();
    if (type == '\0' && digits.find_first_of(".en") == std::string::npos) digits += ".0";
  }
  const bool is_zero = form.no_minus_zero && digits.substr(0, digits.find_first_of("eE")).find_first_not_of("0.") == std::string::npos;
  if (percent) digits += '%';
  return dressed(digits, std::signbit(number) && !std::isnan(number) && !is_zero, "", form);
}

/// chr().
std::string character(int64_t codepoint) {
  if (codepoint < 0 || codepoint > 0x10ffff) fail("%c arg not in range(0x110000)");
  if (is_surrogate(static_cast<uint32_t>(codepoint))) fail("the code point {} is half of a surrogate pair, and no character", codepoint);
  std::string text;
  append_utf8(text, static_cast<uint32_t>(codepoint));
  return text;
}

/// ascii(): repr() with escapes for all that is not ASCII.
std::string ascii(const Value& value) {
  const std::string text = repr(value);
  GrowingText out;
  for (size_t at = 0; at < text.size();) {
    const size_t bytes = character_bytes(text, at);
    const uint32_t c = codepoint_at(text, at);
    if (c < 0x80) out.add(std::string_view(text).substr(at, bytes));
    else out.add(c < 0x100 ? fmt::format("\\x{:02x}", c) : c < 0x10000 ? fmt::format("\\u{:04x}", c) : fmt::format("\\U{:08x}", c));
    at += bytes;
  }
  return out.take();
}

std::string text_field(std::string_view text, const FormatSpec& form, char otherwise) {
  if (form.digits >= 0) text = text.substr(0, byte_of_character(text, form.digits));
  return padded(text, form, otherwise);
}

std::string percent_field(const Value& value, FormatSpec form) {
  switch (form.type) {
    case 's': return text_field(str(value), form, '>');
    case 'r': return text_field(repr(value), form, '>');
    case 'a': return text_field(ascii(value), form, '>');
    case 'c':
      if (value.text() && count_characters(value.text()->bytes) == 1) return padded(value.text()->bytes, form, '>');
      if (const auto codepoint = value.integer()) return padded(character(*codepoint), form, '>');
      if (value.large()) fail("%c arg not in range(0x110000)");
      fail("%c requires int or char, not {}", type_name(value));
    case 'd':
    case 'i':
    case 'u':
      if (!value.is_number()) fail("%{} format: a real number is required, not {}", form.type, type_name(value));
      form.type = 'd';
      form.take_zero();
      if (const double* number = value.get<double>()) {
        if (!std::isfinite(*number)) fail("cannot convert float {} to integer", std::isnan(*number) ? "NaN" : "infinity");
        if (std::abs(*number) >= 0x1p62) return large_number(fmt::format("{:.0f}", *number), form);
        return whole_number(static_cast<int64_t>(*number), form);
      }
      return whole_number(value, form);
    case 'x':
    case 'X':
    case 'o':
      if (!value.integer() && !value.large()) fail("%{} format: an integer is required, not {}", form.type, type_name(value));
      form.take_zero();
      return whole_number(value, form);
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
      if (!value.is_number()) fail("must be real number, not {}", type_name(value));
      form.take_zero();
      return real_number(*value.number(), form);
    default: fail("unsupported format character '{}'", form.type);
  }
}

/// [[fill]align][sign][z][#][0][width][grouping][.digits][type]
FormatSpec read_brace_form(std::string_view text) {
  FormatSpec form;
  size_t at = 0;
  constexpr std::string_view kAligns = "<>^=";
  const auto aligns = [&](size_t place) { return place < text.size() && kAligns.find(text[place]) != std::string_view::npos; };
  const bool fills = !text.empty() && aligns(character_bytes(text, 0));
  if (fills) {
    at = character_bytes(text, 0);
    form.fill = std::string(text.substr(0, at));
    form.align = text[at++];
  } else if (aligns(0)) {
    form.align = text[at++];
  }
  const auto takes = [&](std::string_view letters) { return at < text.size() && letters.find(text[at]) != std::string_view::npos; };
  if (takes("+- ")) form.sign = text[at++];
  if (takes("z")) form.no_minus_zero = text[at++] == 'z';
  if (takes("#")) form.alternate = text[at++] == '#';
  if (!fills && takes("0")) form.zero = text[at++] == '0';
  form.width = read_number(text, at, kMaxWidth);
  if (takes(",_")) form.grouping = text[at++];
  if (takes(",_")) {
    if (text[at] == form.grouping) fail("Cannot specify '{0}' with '{0}'.", form.grouping);
    fail("Cannot specify both ',' and '_'.");
  }
  if (takes(".")) {
    ++at;
    if (!takes("0123456789")) fail("Format specifier missing precision");
    form.digits = read_number(text, at, kMaxDigits);
  }
  if (takes("sdfFeEgGxXob%nc")) form.type = text[at++];
  if (at != text.size()) fail("Invalid format specifier '{}'", text);
  if (form.grouping && (form.is_one_of("snc") || (form.grouping == ',' && form.is_one_of("xXob"))))
    fail("Cannot specify '{}' with '{}'.", form.grouping, form.type);
  return form;
}

std::string brace_number(const Value& value, FormatSpec form) {
  const bool real = value.is<double>();
  if (form.type == 's' || (real && form.is_one_of("dxXobc"))) fail("Unknown format code '{}' for object of type '{}'", form.type, type_name(value));
  form.take_zero();
  if (form.type == 'n') form.type = real ? 'g' : 'd';
  if (real || form.is_one_of("fFeEgG%")) return real_number(*value.number(), form);
  if (form.digits >= 0) fail("Precision not allowed in integer format specifier");
  if (form.no_minus_zero) fail("Negative zero coercion (z) not allowed in integer format specifier");
  if (form.type != 'c') return whole_number(value, form);
  if (form.sign) fail("Sign not allowed with integer format specifier 'c'");
  if (form.alternate) fail("Alternate form (#) not allowed with integer format specifier 'c'");
  if (!value.integer()) fail("%c arg not in range(0x110000)");
  return dressed(character(*value.integer()), false, "", form);
}

std::string brace_field(const Value& value, std::string_view spec) {
  if (spec.empty()) return str(value);
  FormatSpec form = read_brace_form(spec);
  if (value.is_number()) return brace_number(value, form);
  if (!value.text()) fail("unsupported format string passed to {}.__format__", type_name(value));
  if (form.type && form.type != 's') fail("Unknown format code '{}' for object of type 'str'", form.type);
  if (form.grouping) fail("Cannot specify '{}' with 's'.", form.grouping);
  if (form.sign) fail("Sign not allowed in string format specifier");
  if (form.no_minus_zero) fail("Negative zero coercion (z) not allowed in string format specifier");
  if (form.alternate) fail("Alternate form (#) not allowed in string format specifier");
  if (form.align == '=') fail("'=' alignment not allowed in string format specifier");
  if (form.zero) form.fill = "0";
  return text_field(str(value), form, '<');
}

/// Which arguments fields without a name take; in one text fields are numbered or not.
struct FieldNumbers {
  size_t next = 0;
  bool given = false;
};

/// A field's name: an index or a name, then .attributes and [items].
class Field {
 public:
  Field(const Args& args, FieldNumbers& numbers) : args_(args), numbers_(numbers) {}

  Value find(std::string_view name) {
    const size_t end = std::min(name.find_first_of(".["), name.size());
    Value value = first(name.substr(0, end));
    for (size_t at = end; at < name.size();) {
      const bool attribute = name[at] == '.';
      const size_t stop = attribute ? std::min(name.find_first_of(".[", at + 1), name.size()) : name.find(']', at);
      if (stop == std::string_view::npos) fail("Missing ']' in format string");
      const std::string_view part = name.substr(at + 1, stop - at - 1);
      if (part.empty()) fail("Empty attribute in format string");
      int64_t index = 0;
      const auto [rest, error] = std::from_chars(part.data(), part.data() + part.size(), index);
      const bool number = error == std::errc() && rest == part.data() + part.size();
      value = attribute ? get_attribute(value, part) : get_item(value, number ? Value(index) : Value(part));
      if (value.undefined()) fail_undefined(value);
      at = attribute ? stop : stop + 1;
    }
    return value;
  }

 private:
  Value first(std::string_view name) {
    size_t index = 0;
    if (name.empty()) {
      if (numbers_.given) fail("cannot switch from manual field specification to automatic field numbering");
      index = numbers_.next++;
    } else {
      const auto [rest, error] = std::from_chars(name.data(), name.data() + name.size(), index);
      if (error != std::errc() || rest != name.data() + name.size()) {
        for (const auto& [own, value] : args_.named)
          if (own == name) return value;
        fail("format() is given no argument '{}'", name);
      }
      if (numbers_.next > 0) fail("cannot switch from automatic field numbering to manual field specification");
      numbers_.given = true;
    }
    if (index >= args_.positional.size()) fail("Replacement index {} out of range for positional args tuple", index);
    return args_.positional[index];
  }

  const Args& args_;
  FieldNumbers& numbers_;
};

}  // namespace

std::string format_percent(std::string_view text, const Value& value) {
  const List* list = value.list();
  const bool tuple = list && list->form == List::Form::kTuple;
  size_t next = 0;
  bool by_name = false;
  const auto take = [&]() -> Value {
    if (next >= (tuple ? list->items.size() : 1)) fail("not enough arguments for format string");
    const size_t index = next++;
    return tuple ? list->items[index] : value;
  };
  GrowingText out;
  for (size_t at = 0; at < text.size();) {
    const size_t sign = std::min(text.find('%', at), text.size());
    out.add(text.substr(at, sign - at));
    if (sign == text.size()) break;
    at = sign + 1;
    if (at < text.size() && text[at] == '%') {
      out.add("%");
      ++at;
      continue;
    }
    std::optional<Value> named;
    if (at < text.size() && text[at] == '(') {
      size_t end = at;
      for (int open = 0; end < text.size(); ++end) {  // the name may have pairs of its own
        open += text[end] == '(' ? 1 : text[end] == ')' ? -1 : 0;
        if (open == 0) break;
      }
      if (end == text.size()) fail("incomplete format key");
      if (!value.dict()) fail("format requires a mapping");
      named = get_item(value, text.substr(at + 1, end - at - 1));
      if (named->undefined()) fail_undefined(*named);
      by_name = true;
      at = end + 1;
    }
    FormatSpec form;
    for (; at < text.size() && std::string_view("-+ #0").find(text[at]) != std::string_view::npos; ++at) {
      if (text[at] == '-') form.align = '<';
      else if (text[at] == '+') form.sign = '+';
      else if (text[at] == ' ' && form.sign == '\0') form.sign = ' ';
      else if (text[at] == '#') form.alternate = true;
      else if (text[at] == '0') form.zero = true;
    }
    const auto number = [&](int64_t most) -> int64_t {
      if (at >= text.size() || text[at] != '*') return read_number(text, at, most);
      ++at;
      const auto given = take().integer();
      if (!given) fail("* wants int");
      if (*given > most || *given < -most) fail("a format's width or precision is larger than {}", most);
      return *given;
    };
    form.width = number(kMaxWidth);
    if (form.width < 0) {
      form.align = '<';
      form.width = -form.width;
    }
    if (at < text.size() && text[at] == '.') {
      ++at;
      form.digits = std::max<int64_t>(0, number(kMaxDigits));
    }
    if (form.align == '<') form.zero = false;  // zeros behind a number would be another number
    while (at < text.size() && (text[at] == 'l' || text[at] == 'h' || text[at] == 'L')) ++at;
    if (at == text.size()) fail("incomplete format");
    form.type = text[at++];
    out.add(percent_field(named ? *named : take(), form));
  }
  if (!by_name && !value.dict() && !(list && !tuple) && next < (tuple ? list->items.size() : 1)) fail("not all arguments converted during string formatting");
  return out.take();
}

std::string format_braces(std::string_view text, const Args& args) {
  GrowingText out;
  FieldNumbers numbers;
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    const bool twice = at + 1 < text.size() && text[at + 1] == c;
    if (c != '{' && c != '}') {
      const size_t end = std::min(text.find_first_of("{}", at), text.size());
      out.add(text.substr(at, end - at));
      at = end;
      continue;
    }
    if (twice) {
      out.add({&c, 1});
      at += 2;
      continue;
    }
    if (c == '}') fail("Single '}}' encountered in format string");
    size_t end = at + 1;
    for (int open = 1; open > 0; ++end) {
      if (end >= text.size()) fail("expected '}}' before end of string");
      if (text[end] == '{') ++open;
      else if (text[end] == '}') --open;
    }
    const std::string_view field = text.substr(at + 1, end - at - 2);
    at = end;
    const size_t colon = std::min(field.find(':'), field.size());
    std::string_view name = field.substr(0, colon);
    char conversion = '\0';
    if (const size_t mark = name.find('!'); mark != std::string_view::npos) {
      if (mark + 2 != name.size()) fail("a format's conversion is one letter behind '!'");
      conversion = name[mark + 1];
      name = name.substr(0, mark);
    }
    const std::string_view spec = colon < field.size() ? field.substr(colon + 1) : "";
    Value value = Field(args, numbers).find(name);
    if (conversion == 'r') value = repr(value);
    else if (conversion == 'a') value = ascii(value);
    else if (conversion == 's') value = str(value);
    else if (conversion) fail("Unknown conversion specifier '{}'", conversion);
    if (spec.find('{') == std::string_view::npos) {
      out.add(brace_field(value, spec));
      continue;
    }
    // A width that is an argument itself: one level, as Python has it.
    std::string inner;
    for (size_t i = 0; i < spec.size();) {
      if (spec[i] != '{') {
        inner += spec[i++];
        continue;
      }
      const size_t close = spec.find('}', i);
      if (close == std::string_view::npos || spec.substr(i + 1, close - i - 1).find('{') != std::string_view::npos) fail("Max string recursion exceeded");
      inner += str(Field(args, numbers).find(spec.substr(i + 1, close - i - 1)));
      i = close + 1;
    }
    out.add(brace_field(value, inner));
  }
  return out.take();
}

}  // namespace flexgen::jinja
