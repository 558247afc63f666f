#include <charconv>
#include <cmath>
#include <functional>
#include <map>

#include "text/jinja/characters.h"
#include "text/jinja/filters.h"
#include "text/jinja/format.h"
#include "text/jinja/methods.h"
#include "text/jinja/operators.h"

namespace flexgen::jinja {
namespace {

/// A text as it is, anything else as it prints.
Value soft_text(const Value& value) { return value.text() ? value : Value(str(value)); }

template <std::string (*kMap)(std::string_view)>
Value map_text(Run&, const Value& self, Args& args) {
  const Bound none(args, "the filter", {});
  const Value text = soft_text(self);
  step_bytes(text.text()->bytes.size());
  return Value(kMap(text.text()->bytes), text.text()->markup);
}

/// The filter title: words begin behind blanks, hyphens and opening brackets.
std::string title_words(std::string_view text) {
  std::string out;
  bool begins = true;
  for (size_t at = 0; at < text.size(); at += character_bytes(text, at)) {
    const std::string_view character = text.substr(at, character_bytes(text, at));
    const uint32_t c = codepoint_at(text, at);
    out += begins ? to_upper(character) : to_lower(character);
    begins = is_python_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
  }
  return out;
}

Value trim(Run&, const Value& self, Args& args) {
  const Bound bound(args, "trim", {"chars"});
  const Value text = soft_text(self);
  const std::string_view chars = bound.has(0) ? bound.text(0, "") : "";
  if (bound.has(0) && chars.empty()) return text;
  step_bytes(text.text()->bytes.size());
  return Value(std::string(strip(text.text()->bytes, chars, true, true)), text.text()->markup);
}

Value replace_filter(Run&, const Value& self, Args& args) {
  const Bound bound(args, "replace", {"old", "new", "count"}, 2);
  return replaced(str(self), str(*bound[0]), str(*bound[1]), bound.has(2) ? bound.integer(2, -1) : -1);
}

Value center(Run& run, const Value& self, Args& args) {
  const Bound bound(args, "center", {"width"});
  Args width{{bound.integer(0, 80)}, {}};
  return text_method("center")(run, soft_text(self), width);
}

Value default_filter(Run&, const Value& self, Args& args) {
  const Bound bound(args, "default", {"default_value", "boolean"});
  if (self.undefined() || (bound.flag(1, false) && !truth(self))) return bound.value(0, "");
  return self;
}

Value string_filter(Run&, const Value& self, Args& args) {
  const Bound none(args, "string", {});
  return soft_text(self);
}

Value safe(Run&, const Value& self, Args& args) {
  const Bound none(args, "safe", {});
  return Value(str(self), true);
}

Value escape(Run&, const Value& self, Args& args) {
  const Bound none(args, "escape", {});
  if (self.text() && self.text()->markup) return self;
  return Value(escaped_html(str(self)), true);
}

Value format_filter(Run&, const Value& self, Args& args) {
  if (!args.positional.empty() && !args.named.empty()) fail("format takes arguments by place or by name, not both");
  const std::string text = str(self);
  if (args.named.empty()) return format_percent(text, make_list(args.positional, List::Form::kTuple));
  std::vector<Dict::Item> items;
  for (const auto& [name, value] : args.named) items.emplace_back(name, value);
  return format_percent(text, make_dict(std::move(items)));
}

Value indent(Run&, const Value& self, Args& args) {
  const Bound bound(args, "indent", {"width", "first", "blank"});
  if (self.undefined()) fail_undefined(self);
  if (!self.text()) fail("indent: '{}' is not a text", type_name(self));
  const int64_t width = bound.given(0) && bound[0]->text() ? 0 : bound.integer(0, 4);
  if (Budget* budget = Budget::current()) budget->check_room(width);
  const std::string by = bound.given(0) && bound[0]->text() ? bound[0]->text()->bytes : std::string(static_cast<size_t>(std::max<int64_t>(0, width)), ' ');
  const bool blank = bound.flag(2, false);
  const std::string text = self.text()->bytes + "\n";
  GrowingText out;
  if (bound.flag(1, false)) out.add(by);
  bool first_line = true;
  for (std::string_view line : split_lines(text, false)) {
    if (!std::exchange(first_line, false)) {
      out.add("\n");
      if (blank || !line.empty()) out.add(by);
    }
    out.add(line);
  }
  return Value(out.take(), self.text()->markup);
}

std::optional<int64_t> whole_of(std::string_view text, int64_t base) {
  text = strip(text, "", true, true);
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') digits += text[i];
    else if (i == 0 || i + 1 == text.size() || text[i - 1] == '_') return std::nullopt;
  }
  const auto prefixed = [&](std::string_view small, std::string_view large) { return digits.starts_with(small) || digits.starts_with(large); };
  if ((base == 16 && prefixed("0x", "0X")) || (base == 8 && prefixed("0o", "0O")) || (base == 2 && prefixed("0b", "0B"))) digits.erase(0, 2);
  if (digits.starts_with('-') || digits.starts_with('+')) return std::nullopt;
  int64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number, static_cast<int>(base));
  if (error == std::errc::result_out_of_range) fail("a whole number does not fit 64 bits");
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return negative ? -number : number;
}

std::optional<double> float_of(std::string_view text) {
  text = strip(text, "", true, true);
  if (text.starts_with('+')) text.remove_prefix(1);
  if (text.starts_with('+')) return std::nullopt;
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc::invalid_argument || end != text.data() + text.size()) return std::nullopt;
  if (error == std::errc::result_out_of_range) return std::strtod(std::string(text).c_str(), nullptr);
  return number;
}

Value truncated(double number, const Value& otherwise) {
  if (!(std::abs(number) < 0x1p63)) {
    if (std::isfinite(number)) fail("a whole number does not fit 64 bits");
    return otherwise;
  }
  return static_cast<int64_t>(number);
}

Value int_filter(Run&, const Value& self, Args& args) {
  const Bound bound(args, "int", {"default", "base"});
  const Value otherwise = bound.value(0, 0);
  if (self.undefined()) fail_undefined(self);
  if (const Text* text = self.text()) {
    const int64_t base = bound.integer(1, 10);
    if (base < 2 || base > 36) return otherwise;
    if (auto whole = whole_of(text->bytes, base)) return *whole;
    const auto number = float_of(text->bytes);
    return number ? truncated(*number, otherwise) : otherwise;
  }
  if (self.large()) return self;
  if (auto whole = self.integer()) return *whole;
  return self.is_number() ? truncated(*self.number(), otherwise) : otherwise;
}

Value float_filter(Run&, const Value& self, Args& args) {
  const Bound bound(args, "float", {"default"});
  if (self.undefined()) fail_undefined(self);
  if (self.is_number()) return *self.number();
  if (const Text* text = self.text())
    if (auto number = float_of(text->bytes)) return *number;
  return bound.value(0, 0.0);
}

Value abs_filter(Run&, const Value& self, Args& args) {
  const Bound none(args, "abs", {});
  if (self.undefined()) fail_undefined(self);
  if (!self.is_number()) fail("bad operand type for abs(): '{}'", type_name(self));
  if (auto whole = self.integer()) return *whole < 0 ? negate(self) : Value(*whole);
  return std::abs(*self.number());
}

Value round_filter(Run&, const Value& self, Args& args) {
  const Bound bound(args, "round", {"precision", "method"});
  const int64_t precision = bound.integer(0, 0);
  const std::string_view method = bound.text(1, "common");
  if (method != "common" && method != "ceil" && method != "floor") fail("method must be common, ceil or floor");
  if (self.undefined()) fail_undefined(self);
  if (!self.is_number()) fail("type {} doesn't define __round__ method", type_name(self));
  if (precision < -300 || precision > 300) fail("round: a precision of {} is out of range", precision);
  const double number = *self.number();
  if (method != "common") {
    const double scale = std::pow(10.0, static_cast<double>(precision));
    return (method == "ceil" ? std::ceil(number * scale) : std::floor(number * scale)) / scale;
  }
  if (self.integer() && precision >= 0) return *self.integer();
  if (precision >= 0) {  // correctly rounded, ties of what the double really is to even
    const std::string digits = fmt::format("{:.{}f}", number, precision);
    return std::strtod(digits.c_str(), nullptr);
  }
  const double scale = std::pow(10.0, static_cast<double>(-precision)), rounded = std::nearbyint(number / scale) * scale;
  return self.integer() ? truncated(rounded, 0) : Value(rounded);
}

Value tojson(Run&, const Value& self, Args& args) {
  const Bound bound(args, "tojson", {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonForm form;
  form.ascii_only = bound.flag(0, false);
  form.sort_keys = bound.flag(3, false);
  if (bound.has(1)) {
    form.between_items = ",";
    if (const Text* by = bound[1]->text()) form.indent = by->bytes;
    else form.indent = std::string(static_cast<size_t>(std::clamp<int64_t>(bound.integer(1, 0), 0, 1000)), ' ');
  }
  if (bound.has(2)) {
    const std::vector<Value> pair = items_of(*bound[2]);
    if (pair.size() != 2 || !pair[0].text() || !pair[1].text()) fail("tojson: separators must be two texts");
    form.between_items = pair[0].text()->bytes;
    form.behind_key = pair[1].text()->bytes;
  }
  return to_json(self, form);
}

Value truncate(Run&, const Value& self, Args& args) {
  const Bound bound(args, "truncate", {"length", "killwords", "end", "leeway"});
  const int64_t length = bound.integer(0, 255), leeway = bound.has(3) ? bound.integer(3, 5) : 5;
  const std::string_view end = bound.text(2, "...");
  const std::string text = str(self);
  if (length < count_characters(end)) fail("expected length >= {}, got {}", count_characters(end), length);
  if (leeway < 0) fail("expected leeway >= 0, got {}", leeway);
  if (count_characters(text) - length <= leeway) return text;
  std::string_view kept = std::string_view(text).substr(0, byte_of_character(text, length - count_characters(end)));
  if (!bound.flag(1, false)) kept = kept.substr(0, kept.rfind(' '));  // npos: all
  return std::string(kept) + std::string(end);
}

Value wordcount(Run&, const Value& self, Args& args) {
  const Bound none(args, "wordcount", {});
  const std::string text = str(self);
  int64_t words = 0;
  bool inside = false;
  for (size_t at = 0; at < text.size(); at += character_bytes(text, at)) {
    const uint32_t c = codepoint_at(text, at);
    const bool letter = c == '_' || class_of(c) != CharacterClass::kOther;
    words += letter && !inside;
    inside = letter;
  }
  return words;
}

}  // namespace

Operation value_filter(std::string_view name) {
  // clang-format off
  static const std::map<std::string_view, Operation, std::less<>> kFilters = {
      {"upper", map_text<to_upper>}, {"lower", map_text<to_lower>}, {"capitalize", map_text<capitalized>}, {"title", map_text<title_words>}, {"trim", trim},
      {"replace", replace_filter}, {"center", center}, {"default", default_filter}, {"d", default_filter}, {"string", string_filter}, {"safe", safe}, {"escape", escape}, {"e", escape},
      {"format", format_filter}, {"indent", indent}, {"int", int_filter}, {"float", float_filter}, {"abs", abs_filter}, {"round", round_filter}, {"tojson", tojson},
      {"truncate", truncate}, {"wordcount", wordcount}};
  // clang-format on
  const auto found = kFilters.find(name);
  return found == kFilters.end() ? nullptr : found->second;
}

Operation find_filter(std::string_view name) {
  const Operation found = value_filter(name);
  return found ? found : item_filter(name);
}

}  // namespace flexgen::jinja
