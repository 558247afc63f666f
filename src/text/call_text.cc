#include "text/call_text.h"

#include <algorithm>
#include <cctype>
#include <memory>
#include <utility>

#include "text/jinja/characters.h"
#include "text/jinja/json_values.h"
#include "text/jinja/print.h"

namespace flexgen::call_text {
namespace {

using jinja::Value;

constexpr int64_t kMaxValues = 100'000;
constexpr int kMaxLiteralDepth = 100;
constexpr std::string_view kBlanks = " \t\r\n";

}  // namespace

std::string_view trimmed(std::string_view text) { return jinja::strip(text, "", true, true); }

size_t end_of_json(std::string_view text) {
  int64_t depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      else if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if ((c == '}' || c == ']') && --depth == 0) {
      return i + 1;
    }
  }
  return std::string_view::npos;
}

size_t behind_json(std::string_view text, size_t at) {
  const size_t begin = std::min(text.find_first_not_of(kBlanks, at), text.size());
  const std::string_view rest = text.substr(begin);
  const size_t end = rest.starts_with('{') || rest.starts_with('[') ? end_of_json(rest) : std::string_view::npos;
  return end == std::string_view::npos ? at : begin + end;
}

Value parsed(std::string_view json) { return jinja::parse_json_value(trimmed(json), kMaxValues, nullptr, jinja::Digits::kAsWritten); }

std::string json_of(const Value& value) { return jinja::to_json(value, {}); }

std::string json_of(std::vector<jinja::Dict::Item> arguments) { return json_of(Value(std::make_shared<const jinja::Dict>(std::move(arguments)))); }

bool Literals::take(std::string_view what) {
  at_ = std::min(text_.find_first_not_of(kBlanks, at_), text_.size());
  if (!rest().starts_with(what)) return false;
  at_ += what.size();
  return true;
}

bool Literals::pass(std::string_view mark) {
  const size_t found = text_.find(mark, at_);
  if (found != std::string_view::npos) at_ = found + mark.size();
  return found != std::string_view::npos;
}

void Literals::expect(std::string_view what) {
  if (!take(what)) jinja::fail("no {}", what);
}

std::string_view Literals::up_to(std::string_view mark) {
  const size_t end = text_.find(mark, at_);
  if (end == std::string_view::npos) jinja::fail("no {}", mark);
  return trimmed(text_.substr(std::exchange(at_, end + mark.size()), end - at_));
}

bool Literals::at_end() {
  take("");
  return rest().empty();
}

/// The rest of a text whose first quote was taken, by way of JSON's escapes.
std::string Literals::quoted(char quote) {
  std::string json = "\"";
  for (; at_ < text_.size() && text_[at_] != quote; ++at_) {
    const char c = text_[at_];
    if (c == '\\' && at_ + 1 < text_.size()) {
      const char escaped = text_[++at_];
      if (escaped == '\'') json += '\'';
      else if (escaped == 'x') json += "\\u00";
      else (json += c) += escaped;
    } else if (c == '"') {
      json += "\\\"";
    } else if (c == '\n' || c == '\r' || c == '\t') {
      json += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else {
      json += c;
    }
  }
  if (at_ == text_.size()) jinja::fail("it ends within a text");
  ++at_;
  return parsed(json + '"').text()->bytes;
}

std::string Literals::name(char between) {
  if (!quote_.empty() && take(quote_)) {
    const size_t end = text_.find(quote_, at_);
    if (end == std::string_view::npos) jinja::fail("it ends within a name");
    return std::string(text_.substr(std::exchange(at_, end + quote_.size()), end - at_));
  }
  for (const char quote : {'"', '\''})
    if (take(std::string_view(&quote, 1))) return quoted(quote);
  const size_t end = std::min(text_.find(between, at_), text_.size());
  return std::string(trimmed(text_.substr(std::exchange(at_, end), end - at_)));
}

std::vector<jinja::Dict::Item> Literals::members(char between, char close) {
  std::vector<jinja::Dict::Item> members;
  const std::string_view behind_name(&between, 1), end(&close, 1);
  while (!take(end)) {
    std::string key = name(between);
    if (key.empty()) jinja::fail("a value without a name");
    expect(behind_name);
    members.emplace_back(Value(std::move(key)), value());
    if (take(",")) continue;
    expect(end);
    break;
  }
  return members;
}

Value Literals::value() {
  if (++depth_ > kMaxLiteralDepth) jinja::fail("it is nested too deep");
  const auto done = [&](Value value) {
    --depth_;
    return value;
  };
  if (!quote_.empty() && take(quote_)) {
    const size_t end = text_.find(quote_, at_);
    if (end == std::string_view::npos) jinja::fail("it ends within a text");
    return done(Value(text_.substr(std::exchange(at_, end + quote_.size()), end - at_)));
  }
  if (take("\"")) return done(Value(quoted('"')));
  if (take("'")) return done(Value(quoted('\'')));
  if (take("{")) return done(Value(std::make_shared<const jinja::Dict>(members(':', '}'))));
  if (take("[")) {
    std::vector<Value> items;
    while (!take("]")) {
      items.push_back(value());
      if (take(",")) continue;
      expect("]");
      break;
    }
    return done(Value(std::make_shared<const jinja::List>(jinja::List::Form::kList, std::move(items))));
  }
  const std::string_view from = rest();
  const auto is_of_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '+' || c == '-' || c == '.'; };
  const std::string_view word = from.substr(0, static_cast<size_t>(std::find_if_not(from.begin(), from.end(), is_of_word) - from.begin()));
  at_ += word.size();
  if (word == "True") return done(true);
  if (word == "False") return done(false);
  if (word == "None") return done(Value());
  return done(parsed(word));
}

}  // namespace flexgen::call_text
