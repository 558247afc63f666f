#include "text/jinja/json_values.h"

#include <nlohmann/json.hpp>

namespace flexgen::jinja {
namespace {

using Json = nlohmann::json;

class Events : public nlohmann::json_sax<Json> {
 public:
  explicit Events(ValueBuilder& builder) : builder_(builder) {}
  std::string error;

  bool null() override { return add(None()); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value <= static_cast<uint64_t>(INT64_MAX)) return add(static_cast<int64_t>(value));
    builder_.number(0, std::to_string(value));
    return true;
  }
  bool number_float(number_float_t value, const string_t& digits) override {
    builder_.number(value, digits);
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
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    error = fmt::format("not valid JSON at byte {}", position);
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
};

}  // namespace

void ValueBuilder::number(double value, std::string_view digits) {
  if (digits.find_first_of(".eE") == std::string_view::npos) put(std::make_shared<const LargeInt>(LargeInt{std::string(digits)}));
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
  put(inner.dict ? make_dict(std::move(inner.pairs)) : make_list(std::move(inner.items)));
}

void ValueBuilder::put(Value value) {
  if (--left_ < 0) fail("JSON has too many values");
  if (open_.empty()) result_ = std::move(value);
  else if (open_.back().dict) open_.back().pairs.emplace_back(Value(std::move(open_.back().key)), std::move(value));
  else open_.back().items.push_back(std::move(value));
}

Value parse_json_value(std::string_view json, int64_t max_values) {
  ValueBuilder builder(max_values);
  Events events(builder);
  if (!Json::sax_parse(json.begin(), json.end(), &events)) throw Failure(events.error.empty() ? "not valid JSON" : events.error);
  return builder.take();
}

}  // namespace flexgen::jinja
