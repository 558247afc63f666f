#include "text/jinja/json_values.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "io/checked_json.h"

namespace flexgen::jinja {
namespace {

using Json = nlohmann::json;

class Events : public nlohmann::json_sax<Json> {
 public:
  Events(ValueBuilder& builder, Digits digits) : builder_(builder), digits_(digits) {}
  std::string error;

  bool null() override { return add(None()); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override {
    if (value != 0 || digits_ == Digits::kOfValue) return add(value);
    builder_.number_as_written("-0");
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (value <= static_cast<uint64_t>(INT64_MAX)) return add(static_cast<int64_t>(value));
    builder_.number(0, std::to_string(value));
    return true;
  }
  bool number_float(number_float_t value, const string_t& digits) override {
    if (digits_ == Digits::kAsWritten) builder_.number_as_written(digits);
    else builder_.number(value, digits);
    return true;
  }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(true); }
  bool start_array(std::size_t) override { return open(false); }
  bool key(string_t& name) override {
    builder_.key(std::move(name));
    return true;
  }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool parse_error(std::size_t position, const std::string& token, const nlohmann::detail::exception& why) override {
    constexpr int kOutOfRange = 406;  // nlohmann's number for what no double can hold
    error = why.id == kOutOfRange ? fmt::format("the number {} is out of range", token.substr(0, 40)) : fmt::format("not valid JSON at byte {}", position);
    if (why.id != kOutOfRange && (token.ends_with("N") || token.ends_with("I"))) error += "; JSON has no NaN and no Infinity, so write null";
    return false;
  }

 private:
  bool add(Value value) {
    builder_.scalar(std::move(value));
    return true;
  }
  bool open(bool dict) {
    builder_.open(dict);
    return true;
  }
  bool close() {
    builder_.close();
    return true;
  }
  ValueBuilder& builder_;
  Digits digits_;
};

/// Empty if there is none.
std::string name_that_comes_twice(const std::vector<Dict::Item>& pairs) {
  if (pairs.size() < 2) return "";
  std::vector<std::string_view> names;
  names.reserve(pairs.size());
  for (const auto& [name, value] : pairs) names.push_back(name.text()->bytes);
  std::sort(names.begin(), names.end());
  const auto found = std::adjacent_find(names.begin(), names.end());
  return found == names.end() ? "" : std::string(*found);
}

}  // namespace

void ValueBuilder::number(double value, std::string_view digits) {
  if (digits.find_first_of(".eE") == std::string_view::npos) number_as_written(digits);
  else put(value);
}

void ValueBuilder::open(bool dict) {
  if (open_.size() >= static_cast<size_t>(kMaxValueDepth)) fail("JSON is nested more than {} levels deep", kMaxValueDepth);
  if (--left_ < 0) fail("JSON has too many values");
  open_.push_back({dict, "", {}, {}});
}

void ValueBuilder::close() {
  Open inner = std::move(open_.back());
  open_.pop_back();
  ++left_;  // it was counted when it was opened
  if (inner.dict && twice_.empty()) twice_ = name_that_comes_twice(inner.pairs);
  put(inner.dict ? make_dict(std::move(inner.pairs)) : make_list(std::move(inner.items)));
}

void ValueBuilder::put(Value value) {
  if (--left_ < 0) fail("JSON has too many values");
  if (open_.empty()) result_ = std::move(value);
  else if (open_.back().dict) open_.back().pairs.emplace_back(Value(std::move(open_.back().key)), std::move(value));
  else open_.back().items.push_back(std::move(value));
}

Value parse_json_value(std::string_view json, int64_t max_values, std::string* twice, Digits digits) {
  ValueBuilder builder(max_values);
  Events events(builder, digits);
  if (!Json::sax_parse(json.begin(), json.end(), &events)) throw Failure(events.error.empty() ? "not valid JSON" : events.error);
  if (const size_t nul = nul_in(json); nul != std::string_view::npos) fail("not valid JSON at byte {}: {}", nul + 1, kNulAdvice);
  if (twice) *twice = builder.twice();
  return builder.take();
}

}  // namespace flexgen::jinja
