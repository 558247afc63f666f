#include <algorithm>
#include <functional>
#include <map>

#include "text/jinja/characters.h"
#include "text/jinja/format.h"
#include "text/jinja/methods.h"
#include "text/jinja/operators.h"

namespace flexgen::jinja {
namespace {

std::string_view bytes_of(const Value& self) {
  step_bytes(self.text()->bytes.size());
  return self.text()->bytes;
}

/// The same kind of text as it was made of.
Value like(const Value& self, std::string text) { return Value(std::move(text), self.text()->markup); }

Value list_of(const std::vector<std::string_view>& parts) {
  std::vector<Value> items;
  items.reserve(parts.size());
  for (std::string_view part : parts) items.emplace_back(part);
  return make_list(std::move(items));
}

template <bool kLeft, bool kRight>
Value strip_method(Run&, const Value& self, Args& args) {
  const Bound bound(args, "strip()", {"chars"});
  const std::string_view text = bytes_of(self);
  const std::string_view chars = bound.has(0) ? bound.text(0, "") : "";
  if (bound.has(0) && chars.empty()) return self;
  return like(self, std::string(strip(text, chars, kLeft, kRight)));
}

template <bool kFromRight>
Value split_method(Run&, const Value& self, Args& args) {
  const Bound bound(args, "split()", {"sep", "maxsplit"});
  std::optional<std::string_view> separator;
  if (bound.has(0)) separator = bound.text(0, "");
  return list_of(split_text(bytes_of(self), separator, bound.integer(1, -1), kFromRight));
}

Value splitlines(Run&, const Value& self, Args& args) {
  const Bound bound(args, "splitlines()", {"keepends"});
  return list_of(split_lines(bytes_of(self), bound.flag(0, false)));
}

template <std::string (*kMap)(std::string_view)>
Value map_method(Run&, const Value& self, Args& args) {
  const Bound none(args, "the method", {});
  return like(self, kMap(bytes_of(self)));
}

std::string swapped_case(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size(); at += character_bytes(text, at)) {
    const std::string_view character = text.substr(at, character_bytes(text, at));
    out += is_upper(codepoint_at(text, at)) ? to_lower(character) : to_upper(character);
  }
  return out;
}

/// The part from start to stop, which count characters; where it begins.
std::string_view part_of(std::string_view text, const Bound& bound, size_t start, size_t stop, int64_t* first) {
  const int64_t size = count_characters(text);
  const auto place = [&](size_t index, int64_t otherwise) {
    int64_t at = bound.has(index) ? bound.integer(index, 0) : otherwise;
    if (at < 0) at = std::max<int64_t>(0, at < -size ? 0 : at + size);
    return std::min(at, size);
  };
  const int64_t from = place(start, 0), to = std::max(from, place(stop, size));
  if (first) *first = from;
  const size_t begin = byte_of_character(text, from);
  return text.substr(begin, byte_of_character(text.substr(begin), to - from));
}

template <bool kEnd>
Value affix_method(Run&, const Value& self, Args& args) {
  const char* name = kEnd ? "endswith()" : "startswith()";
  const Bound bound(args, name, {"prefix", "start", "end"}, 1);
  const std::string_view text = part_of(bytes_of(self), bound, 1, 2, nullptr);
  const auto fits = [&](std::string_view part) { return kEnd ? text.ends_with(part) : text.starts_with(part); };
  const List* list = bound[0]->list();
  if (!list || list->form != List::Form::kTuple) return fits(bound.text(0, ""));
  return std::any_of(list->items.begin(), list->items.end(), [&](const Value& item) {
    if (!item.text()) fail("tuple for {} must only contain str, not {}", name, type_name(item));
    return fits(item.text()->bytes);
  });
}

template <bool kRight, bool kMustBe>
Value find_method(Run&, const Value& self, Args& args) {
  const Bound bound(args, "find()", {"sub", "start", "end"}, 1);
  int64_t first = 0;
  const std::string_view text = part_of(bytes_of(self), bound, 1, 2, &first);
  const size_t at = kRight ? rfind_text(text, bound.text(0, "")) : find_text(text, bound.text(0, ""));
  if (at != std::string_view::npos) return first + count_characters(text.substr(0, at));
  if (kMustBe) fail("substring not found");
  return -1;
}

Value count(Run&, const Value& self, Args& args) {
  const Bound bound(args, "count()", {"sub", "start", "end"}, 1);
  const std::string_view text = part_of(bytes_of(self), bound, 1, 2, nullptr), part = bound.text(0, "");
  if (part.empty()) return count_characters(text) + 1;
  int64_t found = 0;
  for (size_t at = find_text(text, part); at != std::string_view::npos; at = find_text(text, part, at + part.size())) ++found;
  return found;
}

Value replace(Run&, const Value& self, Args& args) {
  const Bound bound(args, "replace()", {"old", "new", "count"}, 2);
  return like(self, replaced(bytes_of(self), bound.text(0, ""), bound.text(1, ""), bound.integer(2, -1)));
}

Value join(Run&, const Value& self, Args& args) {
  const Bound bound(args, "join()", {"iterable"}, 1);
  GrowingText out;
  bool first = true;
  for (const Value& item : items_of(*bound[0])) {
    if (!item.text()) fail("join(): expected str instance, {} found", type_name(item));
    if (!std::exchange(first, false)) out.add(self.text()->bytes);
    out.add(item.text()->bytes);
  }
  return like(self, out.take());
}

Value format(Run&, const Value& self, Args& args) { return like(self, format_braces(bytes_of(self), args)); }

template <bool kRight>
Value partition(Run&, const Value& self, Args& args) {
  const Bound bound(args, "partition()", {"sep"}, 1);
  const std::string_view text = bytes_of(self), separator = bound.text(0, "");
  if (separator.empty()) fail("empty separator");
  const size_t at = kRight ? rfind_text(text, separator) : find_text(text, separator);
  std::vector<Value> parts;
  if (at != std::string_view::npos) parts = {text.substr(0, at), separator, text.substr(at + separator.size())};
  else if (kRight) parts = {"", "", text};
  else parts = {text, "", ""};
  return make_list(std::move(parts), List::Form::kTuple);
}

template <bool kEnd>
Value remove_affix(Run&, const Value& self, Args& args) {
  const Bound bound(args, kEnd ? "removesuffix()" : "removeprefix()", {"affix"}, 1);
  std::string_view text = bytes_of(self);
  const std::string_view affix = bound.text(0, "");
  if (kEnd && !affix.empty() && text.ends_with(affix)) text.remove_suffix(affix.size());
  if (!kEnd && text.starts_with(affix)) text.remove_prefix(affix.size());
  return like(self, std::string(text));
}

/// ljust, rjust, center: the share of the fill that goes to the left, in halves.
template <int kHalves>
Value justify(Run&, const Value& self, Args& args) {
  const Bound bound(args, "the method", {"width", "fillchar"}, 1);
  const std::string_view text = bytes_of(self), fill = bound.text(1, " ");
  if (count_characters(fill) != 1) fail("The fill character must be exactly one character long");
  const int64_t width = std::max<int64_t>(0, bound.integer(0, 0)), missing = std::max<int64_t>(0, width - count_characters(text));
  if (Budget* budget = Budget::current()) budget->check_room(missing);
  const int64_t left = kHalves == 0 ? 0 : kHalves == 2 ? missing : missing / 2 + (missing & width & 1);
  GrowingText out;
  for (int64_t i = 0; i < left; ++i) out.add(fill);
  out.add(text);
  for (int64_t i = left; i < missing; ++i) out.add(fill);
  return like(self, out.take());
}

Value zfill(Run&, const Value& self, Args& args) {
  const Bound bound(args, "zfill()", {"width"}, 1);
  const std::string_view text = bytes_of(self);
  const int64_t missing = std::max<int64_t>(0, std::max<int64_t>(0, bound.integer(0, 0)) - count_characters(text));
  if (Budget* budget = Budget::current()) budget->check_room(missing);
  const size_t sign = text.starts_with('+') || text.starts_with('-') ? 1 : 0;
  return like(self, std::string(text.substr(0, sign)) + std::string(static_cast<size_t>(missing), '0') + std::string(text.substr(sign)));
}

Value expandtabs(Run&, const Value& self, Args& args) {
  const Bound bound(args, "expandtabs()", {"tabsize"});
  const std::string_view text = bytes_of(self);
  const int64_t size = std::min<int64_t>(bound.integer(0, 8), 1000);
  GrowingText out;
  int64_t column = 0;
  for (size_t at = 0; at < text.size(); at += character_bytes(text, at)) {
    if (text[at] == '\t') {
      for (int64_t left = size > 0 ? size - column % size : 0; left > 0; --left, ++column) out.add(" ");
      continue;
    }
    out.add(text.substr(at, character_bytes(text, at)));
    column = text[at] == '\n' || text[at] == '\r' ? 0 : column + 1;
  }
  return like(self, out.take());
}

/// All characters are such, and there is one.
template <bool (*kIsOne)(uint32_t)>
Value all_are(Run&, const Value& self, Args& args) {
  const Bound none(args, "the method", {});
  const std::string_view text = bytes_of(self);
  for (size_t at = 0; at < text.size(); at += character_bytes(text, at))
    if (!kIsOne(codepoint_at(text, at))) return false;
  return !text.empty();
}

bool is_letter(uint32_t c) { return class_of(c) == CharacterClass::kLetter; }
bool is_decimal(uint32_t c) { return class_of(c) == CharacterClass::kDigit; }
bool is_letter_or_numeric(uint32_t c) { return is_letter(c) || is_python_numeric(c); }

/// islower and isupper: none of the other case, and one of the own.
template <bool kUpper>
Value case_is(Run&, const Value& self, Args& args) {
  const Bound none(args, "the method", {});
  const std::string_view text = bytes_of(self);
  bool has_own = false;
  for (size_t at = 0; at < text.size(); at += character_bytes(text, at)) {
    const uint32_t c = codepoint_at(text, at);
    if (kUpper ? is_lower(c) : is_upper(c)) return false;
    has_own = has_own || (kUpper ? is_upper(c) : is_lower(c));
  }
  return has_own;
}

Value is_title(Run&, const Value& self, Args& args) {
  const Bound none(args, "istitle()", {});
  const std::string_view text = bytes_of(self);
  return titled(text) == text && to_lower(text) != text;  // it has letters with a case
}

Value is_ascii(Run&, const Value& self, Args& args) {
  const Bound none(args, "isascii()", {});
  const std::string_view text = bytes_of(self);
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

}  // namespace

std::vector<std::string_view> split_text(std::string_view text, std::optional<std::string_view> separator, int64_t most, bool from_right) {
  std::vector<std::string_view> parts;
  const auto more = [&] { return most < 0 || std::ssize(parts) < most; };
  if (separator) {
    if (separator->empty()) fail("empty separator");
    // From the right it is the text turned around that is searched.
    const std::string turned = from_right ? std::string(text.rbegin(), text.rend()) : "", looked_for(separator->rbegin(), separator->rend());
    size_t begin = 0;  // as counted from where the search begins
    const auto part = [&](size_t end) { return text.substr(from_right ? text.size() - end : begin, end - begin); };
    while (more()) {
      const size_t at = from_right ? find_text(turned, looked_for, begin) : find_text(text, *separator, begin);
      if (at == std::string_view::npos) break;
      parts.push_back(part(at));
      begin = at + separator->size();
    }
    parts.push_back(part(text.size()));
  } else {
    for (;;) {
      text = strip(text, "", !from_right, from_right);
      if (text.empty()) break;
      if (!more()) {
        parts.push_back(text);
        break;
      }
      size_t begin = 0, end = text.size();
      if (from_right) {
        for (size_t at = 0; at < text.size(); at += character_bytes(text, at))
          if (is_python_space(codepoint_at(text, at))) begin = at + character_bytes(text, at);
      } else {
        for (end = 0; end < text.size() && !is_python_space(codepoint_at(text, end));) end += character_bytes(text, end);
      }
      if (from_right) step_bytes(text.size());  // it is gone through once more for each part
      parts.push_back(text.substr(begin, end - begin));
      text = from_right ? text.substr(0, begin) : text.substr(end);
    }
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  const auto ends_line = [](uint32_t c) { return (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029; };
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const uint32_t c = codepoint_at(text, at);
    const size_t end = at;
    at += character_bytes(text, at);
    if (!ends_line(c)) continue;
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    lines.push_back(text.substr(begin, (keep_ends ? at : end) - begin));
    begin = at;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

std::string replaced(std::string_view text, std::string_view old, std::string_view by, int64_t most) {
  GrowingText out;
  size_t at = 0;
  for (int64_t done = 0; most < 0 || done < most; ++done) {
    if (old.empty()) {  // before each character, and at the end
      out.add(by);
      if (at == text.size()) return out.take();
      out.add(text.substr(at, character_bytes(text, at)));
      at += character_bytes(text, at);
      continue;
    }
    const size_t found = find_text(text, old, at);
    if (found == std::string_view::npos) break;
    out.add(text.substr(at, found - at)).add(by);
    at = found + old.size();
  }
  return out.add(text.substr(at)).take();
}

Operation text_method(std::string_view name) {
  // clang-format off
  static const std::map<std::string_view, Operation, std::less<>> kMethods = {
      {"strip", strip_method<true, true>}, {"lstrip", strip_method<true, false>}, {"rstrip", strip_method<false, true>},
      {"split", split_method<false>}, {"rsplit", split_method<true>}, {"splitlines", splitlines},
      {"upper", map_method<to_upper>}, {"lower", map_method<to_lower>}, {"casefold", map_method<to_lower>}, {"title", map_method<titled>},
      {"capitalize", map_method<capitalized>}, {"swapcase", map_method<swapped_case>},
      {"startswith", affix_method<false>}, {"endswith", affix_method<true>},
      {"find", find_method<false, false>}, {"rfind", find_method<true, false>}, {"index", find_method<false, true>}, {"rindex", find_method<true, true>},
      {"count", count}, {"replace", replace}, {"join", join}, {"format", format},
      {"partition", partition<false>}, {"rpartition", partition<true>}, {"removeprefix", remove_affix<false>}, {"removesuffix", remove_affix<true>},
      {"ljust", justify<0>}, {"center", justify<1>}, {"rjust", justify<2>}, {"zfill", zfill}, {"expandtabs", expandtabs},
      {"isalpha", all_are<is_letter>}, {"isdigit", all_are<is_python_digit>}, {"isdecimal", all_are<is_decimal>}, {"isnumeric", all_are<is_python_numeric>},
      {"isalnum", all_are<is_letter_or_numeric>}, {"isspace", all_are<is_python_space>}, {"isupper", case_is<true>}, {"islower", case_is<false>}, {"istitle", is_title},
      {"isascii", is_ascii}};
  // clang-format on
  const auto found = kMethods.find(name);
  return found == kMethods.end() ? nullptr : found->second;
}

}  // namespace flexgen::jinja
