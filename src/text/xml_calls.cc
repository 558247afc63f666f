#include "text/xml_calls.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "text/jinja/characters.h"

namespace flexgen {
namespace {

using jinja::Value;

constexpr std::array kXmlMarks{
    XmlMarks{CallForm::kQwenXml, "<tool_call>", "</tool_call>", "<function=", "</function>", ">", "<parameter=", ">", "", "</parameter>"},
    XmlMarks{CallForm::kSeedXml, "<seed:tool_call>", "</seed:tool_call>", "<function=", "</function>", ">", "<parameter=", ">", "", "</parameter>"},
    XmlMarks{CallForm::kMiniMax, "<minimax:tool_call>", "</minimax:tool_call>", "<invoke name=", "</invoke>", ">", "<parameter name=", ">", "", "</parameter>",
             "\""},
    XmlMarks{CallForm::kGlm, "<tool_call>", "</tool_call>", "", "", "", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "", false}};

constexpr int kMaxUnclosed = 64;  // values that begin JSON without an end: each is looked through to the end of the answer

/// A whole number is of two types.
ValueTypes types_of_value(const Value& value) {
  if (value.none()) return kNullType;
  if (value.is<bool>()) return kBooleanType;
  if (value.text()) return kTextType;
  if (value.list()) return kListType;
  if (value.dict()) return kObjectType;
  const jinja::LargeInt* written = value.large();
  const bool whole = value.is<int64_t>() || (written && written->digits.find_first_of(".eE") == std::string::npos);
  return whole ? kIntegerType | kNumberType : kNumberType;
}

/// JSON, or a literal of Python's; a word of either in whatever case.
std::optional<Value> value_of_text(std::string_view text) {
  const std::string word = text.size() <= 5 ? jinja::to_lower(text) : "";
  if (word == "null" || word == "none") return Value();
  if (word == "true" || word == "false") return Value(word == "true");
  try {
    return call_text::parsed(text);
  } catch (const jinja::Failure&) {
  }
  try {
    call_text::Literals literals(text);
    Value value = literals.value();
    if (literals.at_end()) return value;
  } catch (const jinja::Failure&) {
  }
  return std::nullopt;
}

class XmlReader {
 public:
  XmlReader(std::string_view text, const XmlMarks& marks, const ParameterTypes* types, bool held) : text_(text), marks_(marks), types_(types), held_(held) {}

  call_text::Found read() {
    // Qwen3-Coder leaves the first mark out at times.
    const bool is_marked = held_ || marks_.call.empty() || text_.find(marks_.begin) != std::string_view::npos;
    const std::string_view first = is_marked ? marks_.begin : marks_.call;
    call_text::Found found{text_.find(first), {}};
    for (at_ = found.begin; at_ != std::string_view::npos; at_ = text_.find(first, at_)) {
      take(marks_.begin);
      do found.calls.push_back(read_call());
      while (!marks_.call.empty() && comes(marks_.call));
    }
    return found;
  }

 private:
  bool comes(std::string_view mark) {
    at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size());
    return text_.substr(at_).starts_with(mark);
  }
  bool take(std::string_view mark) {
    if (!comes(mark)) return false;
    at_ += mark.size();
    return true;
  }
  void expect(std::string_view mark) {
    if (!take(mark)) jinja::fail("no {}", mark);
  }

  /// A name, which ends before `end`; passes over both.
  std::string name_before(size_t end, std::string_view mark) {
    if (end == std::string_view::npos) jinja::fail("it ends within a name");
    std::string_view name = call_text::trimmed(text_.substr(at_, end - at_));
    at_ = end + mark.size();
    if (!marks_.quote.empty() && name.size() >= 2 && (name.front() == '"' || name.front() == '\'') && name.back() == name.front())
      name = name.substr(1, name.size() - 2);
    if (name.empty() || name.find_first_of("<>\n") != std::string_view::npos) jinja::fail("no name");
    return std::string(name);
  }

  /// Where a name ends that the first argument follows, or the end of the call.
  size_t end_of_lone_name() const {
    const size_t end = text_.find(marks_.end, at_);
    return std::min(text_.substr(0, end).find(marks_.key, at_), end);
  }

  ToolCall read_call() {
    expect(marks_.call);
    const bool is_alone = marks_.call.empty();
    const std::string function = is_alone ? name_before(end_of_lone_name(), "") : name_before(text_.find(marks_.name_end, at_), marks_.name_end);
    std::vector<jinja::Dict::Item> arguments;
    while (take(marks_.key)) {
      std::string key = name_before(text_.find(marks_.key_end, at_), marks_.key_end);
      if (!marks_.value.empty()) expect(marks_.value);
      const ParameterKind& kind = kind_of(function, key);
      const std::string_view text = read_value(kind.types);
      arguments.emplace_back(Value(std::move(key)), typed_value(text, kind));
    }
    expect(is_alone ? marks_.end : marks_.call_end);
    return {function, call_text::json_of(std::move(arguments))};
  }

  const ParameterKind& kind_of(const std::string& function, const std::string& key) const {
    static const ParameterKind any;
    if (!types_) return any;
    const auto parameters = types_->functions.find(function);
    if (parameters == types_->functions.end()) return any;
    const auto found = parameters->second.find(key);
    return found == parameters->second.end() ? any : found->second;
  }

  /// A value may have the mark that ends one within it: that counts which what may follow a value follows. JSON is passed over whole.
  std::string_view read_value(ValueTypes types) {
    const size_t value_begin = at_;  // comes() passes over blanks
    const bool is_json = types != 0 && (types & kTextType) == 0;
    const std::string_view last = marks_.call.empty() ? marks_.end : marks_.call_end;
    size_t from = at_;
    if (is_json && unclosed_ < kMaxUnclosed && (comes("{") || comes("["))) {
      from = call_text::behind_json(text_, at_);
      if (from == at_) ++unclosed_;
    }
    at_ = value_begin;
    for (size_t end = text_.find(marks_.value_end, from); end != std::string_view::npos; end = text_.find(marks_.value_end, end + 1)) {
      const size_t begin = std::exchange(at_, end + marks_.value_end.size());
      if (comes(marks_.key) || comes(last)) return without_lines(text_.substr(begin, end - begin));
      at_ = begin;
    }
    jinja::fail("it ends within a value");
  }

  std::string_view without_lines(std::string_view value) const {
    if (!marks_.strips_lines) return value;
    if (value.starts_with('\n')) value.remove_prefix(1);
    if (value.ends_with('\n')) value.remove_suffix(1);
    return value;
  }

  std::string_view text_;
  const XmlMarks& marks_;
  const ParameterTypes* types_;
  bool held_;
  size_t at_ = 0;
  int unclosed_ = 0;
};

}  // namespace

const XmlMarks* xml_marks(CallForm form) {
  const auto* found = std::find_if(kXmlMarks.begin(), kXmlMarks.end(), [&](const XmlMarks& marks) { return marks.form == form; });
  return found == kXmlMarks.end() ? nullptr : found;
}

Value typed_value(std::string_view text, const ParameterKind& kind) {
  const ValueTypes types = kind.types;
  if (types == kTextType || std::any_of(kind.texts.begin(), kind.texts.end(), [&](const auto& texts) { return texts->contains(text); })) return Value(text);
  const std::optional<Value> value = value_of_text(call_text::trimmed(text));
  const bool may_be_any = types == 0 || (types & kTextType) == 0;
  // Where texts may come one is not written as JSON's.
  return value && (may_be_any || (types_of_value(*value) & types & ~kTextType) != 0) ? *value : Value(text);
}

call_text::Found xml_calls(std::string_view text, const XmlMarks& marks, const ParameterTypes* types, bool held) {
  return XmlReader(text, marks, types, held).read();
}

}  // namespace flexgen
