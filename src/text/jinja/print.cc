#include "text/jinja/print.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/jinja/characters.h"

namespace flexgen::jinja {
namespace {

void add_repr(GrowingText& out, const Value& value);

/// For going through a text character by character.
void step_characters(std::string_view text) { step(static_cast<int64_t>(text.size() / 16)); }

void add_text_repr(GrowingText& out, std::string_view text) {
  step_characters(text);
  const char quote = text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos ? '"' : '\'';
  out.add({&quote, 1});
  for (size_t at = 0; at < text.size();) {
    const size_t bytes = character_bytes(text, at);
    const uint32_t c = codepoint_at(text, at);
    if (c == static_cast<uint32_t>(quote) || c == '\\') out.add("\\").add(text.substr(at, bytes));
    else if (c == '\n') out.add("\\n");
    else if (c == '\r') out.add("\\r");
    else if (c == '\t') out.add("\\t");
    else if (is_printable(c)) out.add(text.substr(at, bytes));
    else if (c < 0x100) out.add(fmt::format("\\x{:02x}", c));
    else if (c < 0x10000) out.add(fmt::format("\\u{:04x}", c));
    else out.add(fmt::format("\\U{:08x}", c));
    at += bytes;
  }
  out.add({&quote, 1});
}

void add_items(GrowingText& out, const std::vector<Value>& items) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out.add(", ");
    add_repr(out, items[i]);
  }
}

void add_list_repr(GrowingText& out, const List& list) {
  switch (list.form) {
    case List::Form::kIterator: fail("an iterator has no text; put |list behind what makes it");
    case List::Form::kRange: out.add(fmt::format("range({}, {}{})", list.start, list.stop, list.stride == 1 ? "" : fmt::format(", {}", list.stride))); return;
    case List::Form::kTuple:
      out.add("(");
      add_items(out, list.items);
      out.add(list.items.size() == 1 ? ",)" : ")");
      return;
    case List::Form::kKeys: out.add("dict_keys(["); break;
    case List::Form::kValues: out.add("dict_values(["); break;
    case List::Form::kItems: out.add("dict_items(["); break;
    case List::Form::kList: out.add("["); break;
  }
  add_items(out, list.items);
  out.add(list.form == List::Form::kList ? "]" : "])");
}

void add_repr(GrowingText& out, const Value& value) {
  step(1);
  if (value.undefined()) {
    out.add("Undefined");
  } else if (value.none()) {
    out.add("None");
  } else if (const bool* flag = value.get<bool>()) {
    out.add(*flag ? "True" : "False");
  } else if (const int64_t* whole = value.get<int64_t>()) {
    out.add(std::to_string(*whole));
  } else if (const double* number = value.get<double>()) {
    out.add(float_text(*number));
  } else if (const LargeInt* large = value.large()) {
    out.add(large->digits);
  } else if (const Text* text = value.text()) {
    if (text->markup) out.add("Markup(");
    add_text_repr(out, text->bytes);
    if (text->markup) out.add(")");
  } else if (const List* list = value.list()) {
    add_list_repr(out, *list);
  } else if (const Dict* dict = value.dict()) {
    out.add("{");
    bool first = true;
    for (const auto& [key, item] : dict->items()) {
      if (!std::exchange(first, false)) out.add(", ");
      add_repr(out, key);
      out.add(": ");
      add_repr(out, item);
    }
    out.add("}");
  } else {
    out.add(value.object()->text());
  }
}

void add_json_text(GrowingText& out, std::string_view text, bool ascii_only) {
  step_characters(text);
  out.add("\"");
  size_t from = 0;
  const auto flush = [&](size_t to) { out.add(text.substr(from, to - from)); };
  for (size_t at = 0; at < text.size();) {
    const size_t bytes = character_bytes(text, at);
    const uint32_t c = codepoint_at(text, at);
    std::string escaped;
    if (c == '"') escaped = "\\\"";
    else if (c == '\\') escaped = "\\\\";
    else if (c == '\n') escaped = "\\n";
    else if (c == '\r') escaped = "\\r";
    else if (c == '\t') escaped = "\\t";
    else if (c == '\b') escaped = "\\b";
    else if (c == '\f') escaped = "\\f";
    else if (c < 0x20 || (ascii_only && c > 0x7e && c < 0x10000)) escaped = fmt::format("\\u{:04x}", c);
    else if (ascii_only && c > 0x7e) escaped = fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + ((c - 0x10000) >> 10), 0xdc00 + ((c - 0x10000) & 0x3ff));
    if (!escaped.empty()) {
      flush(at);
      out.add(escaped);
      from = at + bytes;
    }
    at += bytes;
  }
  flush(text.size());
  out.add("\"");
}

class JsonWriter {
 public:
  JsonWriter(GrowingText& out, const JsonForm& form) : out_(out), form_(form) {}

  void add(const Value& value) {
    step(1);
    if (value.none()) {
      out_.add("null");
    } else if (const bool* flag = value.get<bool>()) {
      out_.add(*flag ? "true" : "false");
    } else if (const double* number = value.get<double>()) {
      out_.add(json_float(*number));
    } else if (value.is_number()) {
      add_repr(out_, value);
    } else if (const Text* text = value.text()) {
      add_json_text(out_, text->bytes, form_.ascii_only);
    } else if (const Dict* dict = value.dict()) {
      add_dict(*dict);
    } else if (const List* list = value.list(); list && (list->form == List::Form::kList || list->form == List::Form::kTuple)) {
      add_list(list->items);
    } else {
      if (value.undefined()) fail_undefined_json(value);
      fail("Object of type {} is not JSON serializable", type_name(value));
    }
  }

 private:
  [[noreturn]] static void fail_undefined_json(const Value& value) {
    fail("Object of type Undefined is not JSON serializable: {}", *value.get<Undefined>()->why);
  }

  static std::string json_float(double number) {
    return std::isnan(number) ? "NaN" : std::isinf(number) ? (number < 0 ? "-Infinity" : "Infinity") : float_text(number);
  }

  void add_list(const std::vector<Value>& items) {
    if (items.empty()) {
      out_.add("[]");
      return;
    }
    open("[");
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) next();
      add(items[i]);
    }
    close("]");
  }

  void add_dict(const Dict& dict) {
    if (dict.items().empty()) {
      out_.add("{}");
      return;
    }
    std::vector<const Dict::Item*> items;
    for (const Dict::Item& item : dict.items()) items.push_back(&item);
    if (form_.sort_keys) std::stable_sort(items.begin(), items.end(), [](const Dict::Item* a, const Dict::Item* b) { return less(a->first, b->first); });
    open("{");
    bool first = true;
    for (const Dict::Item* item : items) {
      if (!std::exchange(first, false)) next();
      add_json_text(out_, key_text(item->first), form_.ascii_only);
      out_.add(form_.behind_key);
      add(item->second);
    }
    close("}");
  }

  static std::string key_text(const Value& key) {
    if (const Text* text = key.text()) return text->bytes;
    if (key.none()) return "null";
    if (const bool* flag = key.get<bool>()) return *flag ? "true" : "false";
    if (const double* number = key.get<double>()) return json_float(*number);
    if (key.is_number()) return repr(key);
    fail("keys must be str, int, float, bool or None, not {}", type_name(key));
  }

  void open(std::string_view bracket) {
    out_.add(bracket);
    ++level_;
    new_line();
  }
  void next() {
    out_.add(form_.between_items);
    new_line();
  }
  void close(std::string_view bracket) {
    --level_;
    new_line();
    out_.add(bracket);
  }
  void new_line() {
    if (!form_.indent) return;
    out_.add("\n");
    for (int i = 0; i < level_; ++i) out_.add(*form_.indent);
  }

  GrowingText& out_;
  const JsonForm& form_;
  int level_ = 0;
};

}  // namespace

GrowingText& GrowingText::add(std::string_view piece) {
  if (budget_) {
    budget_->step(1 + static_cast<int64_t>(piece.size() / 64));
    if (text_.size() + piece.size() > text_.capacity()) {
      const auto wanted = static_cast<int64_t>(std::max(text_.size() + piece.size(), 2 * text_.capacity()));
      budget_->take(wanted - counted_);
      counted_ = wanted;
      text_.reserve(static_cast<size_t>(wanted));
    }
  }
  text_ += piece;
  return *this;
}

std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const std::string_view digits(buffer, static_cast<size_t>(std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr - buffer));
  const size_t e = digits.find('e');
  int exponent = 0;
  std::from_chars(digits.data() + e + (digits[e + 1] == '+' ? 2 : 1), digits.data() + digits.size(), exponent);
  if (exponent < -4 || exponent >= 16) return std::string(digits);  // at least two digits of exponent, as Python has them
  std::string text(buffer, std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed).ptr);
  return text.find('.') == std::string::npos ? text + ".0" : text;
}

void add_str(GrowingText& out, const Value& value) {
  if (value.undefined()) return;
  if (const Text* text = value.text()) out.add(text->bytes);
  else add_repr(out, value);
}

std::string str(const Value& value) {
  GrowingText out;
  add_str(out, value);
  return out.take();
}

std::string repr(const Value& value) {
  GrowingText out;
  add_repr(out, value);
  return out.take();
}

std::string to_json(const Value& value, const JsonForm& form) {
  GrowingText out;
  JsonWriter(out, form).add(value);
  return out.take();
}

}  // namespace flexgen::jinja
