#include "batch/line_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "io/checked_json.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;
using Form = PromptField::Form;

constexpr size_t kQuotedBytes = 100;  // of a text that is no prompt: more than messages show
/// Fields of a body whose order counts: templates write them out.
constexpr std::array<std::string_view, 7> kValueFields{"messages",        "tools",       "documents",         "chat_template_kwargs",
                                                       "response_format", "guided_json", "structured_outputs"};
constexpr std::array<std::string_view, 6> kLineFields{"custom_id", "method", "url", "body", "prompt", "messages"};
constexpr int kOutOfRange = 406;  // nlohmann's number for what no double can hold

/// Takes the values of body.prompt. Level 0 is the field itself, 1 what its list holds, 2 what those lists hold.
class PromptReader {
 public:
  PromptReader(PromptField& field, const LineBounds& bounds) : field_(field), bounds_(bounds) {}

  void text(int level, std::string&& value) {
    if (level == 0) {
      field_.form = Form::kText;
      field_.texts.push_back(std::move(value));
    } else if (level == 1 && item(Item::kText)) {
      field_.texts.push_back(std::move(value));
    } else if (level > 1 || first_ == Item::kId) {
      no_id(value.substr(0, kQuotedBytes));
    }
  }

  /// A number, true, false or null.
  void scalar(int level, Json value) {
    if (level == 0) {
      field_.form = value.is_null() ? Form::kNone : Form::kOther;
      return;
    }
    const bool kept = level == 1 ? item(Item::kId) : level == 2 && !mixed_ && field_.count <= bounds_.prompts;
    if (value.is_number_integer() && value.get<int64_t>() == 0) value = 0u;  // -0 too
    if (value.is_number_float()) value = whole_number(value);
    if (!value.is_number_unsigned() || value.get<uint64_t>() >= static_cast<uint64_t>(bounds_.vocab_size)) return no_id(std::move(value));
    if (!kept) return;
    PromptField::Ids& ids = field_.ids.back();
    const auto id = static_cast<int32_t>(value.get<uint64_t>());
    if (ids.count < bounds_.first_ids) ids.first.push_back(id);
    if (++ids.count <= bounds_.ids) ids.kept.push_back(id);
    else ids.kept[static_cast<size_t>((ids.count - 1) % bounds_.ids)] = id;
  }

  void array(int level) {
    if (level == 0) field_.form = Form::kEmpty;
    else if (level == 1 && item(Item::kList)) field_.ids.emplace_back();
    else if (level > 1 || first_ == Item::kId) no_id(Json::array());
  }

  void object(int level) {
    if (level == 0) field_.form = Form::kOther;
    else if (level > 1 || (item(Item::kId), first_ == Item::kId)) no_id(Json::object());
  }

  void end() {
    if (field_.count == 0) return;
    for (PromptField::Ids& ids : field_.ids)
      if (ids.count > bounds_.ids) std::rotate(ids.kept.begin(), ids.kept.begin() + ids.count % bounds_.ids, ids.kept.end());
    if (first_ == Item::kId) field_.form = Form::kIds;
    else field_.form = mixed_ ? Form::kMixed : first_ == Item::kText ? Form::kTexts : Form::kLists;
  }

 private:
  enum class Item { kNone, kText, kList, kId };
  /// Counts an item of the list; whether it is kept.
  bool item(Item kind) {
    if (++field_.count == 1) {
      first_ = kind;
      if (kind == Item::kId) field_.ids.emplace_back();
    }
    mixed_ = mixed_ || kind != first_;
    return !mixed_ && (kind == Item::kId || field_.count <= bounds_.prompts);
  }
  void no_id(Json value) {
    if (!field_.no_id) field_.no_id = std::move(value);
  }

  PromptField& field_;
  const LineBounds& bounds_;
  Item first_ = Item::kNone;
  bool mixed_ = false;
};

/// Takes the parser's events to the prompt or into the tree.
class LineJsonReader : public nlohmann::json_sax<Json> {
 public:
  LineJsonReader(LineJson& out, const LineBounds& bounds) : out_(out), prompt_(out.prompt, bounds) {}
  bool has_overflow() const { return overflow_; }

  bool null() override { return scalar(nullptr); }
  bool boolean(bool value) override { return scalar(value); }
  bool number_integer(number_integer_t value) override { return scalar(value); }
  bool number_unsigned(number_unsigned_t value) override { return scalar(value); }
  bool number_float(number_float_t value, const string_t& digits) override {
    if (!in_value_) return scalar(value);
    return build([&] { builder_->number(value, digits); });
  }
  bool string(string_t& value) override {
    if (in_value_) return build([&] { builder_->scalar(std::move(value)); });
    waits_for_value_ = false;
    if (in_prompt_) {
      if (prompt_objects_ == 0) prompt_.text(depth_ - kPromptDepth, std::move(value));
      leave_prompt();
    } else {
      put(std::move(value));
    }
    return true;
  }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return enter(true); }
  bool start_array(std::size_t) override { return enter(false); }
  bool end_object() override { return leave(); }
  bool end_array() override { return leave(); }
  bool key(string_t& name) override {
    waits_for_value_ = false;
    if (depth_ == 1) names_[1].clear();
    if (depth_ <= kPromptDepth) names_[depth_ - 1] = name.substr(0, kQuotedBytes);
    if (in_value_) return build([&] { builder_->key(std::move(name)); });
    if (passed_over_ > 0 || in_prompt_) return true;
    if (!is_line_field(name) && full()) {
      member_ = nullptr;
      return true;
    }
    const bool of_body = depth_ == kPromptDepth && names_[0] == "body";
    const bool is_prompt = of_body && name == "prompt";
    waits_for_value_ = of_body && std::find(kValueFields.begin(), kValueFields.end(), name) != kValueFields.end();
    auto [place, fresh] = open_.back()->get_ref<Json::object_t&>().emplace(std::move(name), nullptr);
    if (!fresh) note_twice(place->first, depth_ <= kPromptDepth ? "" : path());
    member_ = &place->second;
    in_prompt_ = is_prompt && fresh;
    return true;
  }
  bool parse_error(std::size_t position, const std::string& token, const nlohmann::detail::exception& error) override {
    if (error.id == kOutOfRange) {
      overflow_ = true;
      out_.overflow = {path(), token.substr(0, kQuotedBytes)};
      return false;
    }
    // "[json.exception.parse_error.101] parse error at line 1, column 9: syntax error while ... - why; last read: ..."
    std::string_view what = error.what();
    const size_t dash = what.find(" - ");
    what = dash == std::string_view::npos ? "syntax error" : what.substr(dash + 3);
    what = what.substr(0, what.find("; last read"));
    out_.broken_at = position;
    out_.syntax_error = fmt::format("not valid JSON at byte {} of the line: {}", position, what.substr(0, 200));
    // A token that is none still has what came before it in front.
    if (what.starts_with("invalid literal") || what.starts_with("invalid number"))
      if (token.ends_with("N") || token.ends_with("I")) out_.syntax_error += "; JSON has no NaN, no None and no Infinity";
    return false;
  }

 private:
  static constexpr int kPromptDepth = 2;  // structures that are open around body.prompt

  bool scalar(Json value) {
    if (in_value_) return build([&] { builder_->scalar(value_of(value)); });
    waits_for_value_ = false;
    if (in_prompt_) {
      if (prompt_objects_ == 0) prompt_.scalar(depth_ - kPromptDepth, std::move(value));
      leave_prompt();
    } else {
      put(std::move(value));
    }
    return true;
  }

  bool enter(bool object) {
    if (in_value_ || (std::exchange(waits_for_value_, false) && passed_over_ == 0)) return enter_value(object);
    if (depth_ == kMaxLineDepth) out_.too_deep = true;
    const int level = depth_ - kPromptDepth;
    ++depth_;
    if (in_prompt_) {
      if (prompt_objects_ == 0) object ? prompt_.object(level) : prompt_.array(level);
      if (object || prompt_objects_ > 0) ++prompt_objects_;  // what is in an object cannot be a prompt
      return true;
    }
    Json* place = passed_over_ > 0 || out_.too_deep ? nullptr : put(object ? Json::object() : Json::array());
    if (place) open_.push_back(place);
    else ++passed_over_;
    return true;
  }

  bool enter_value(bool object) {
    if (!in_value_) {
      in_value_ = true;
      value_is_object_ = object;
      builder_.emplace(kMaxFieldValues);
    }
    ++depth_;
    return build([&] { builder_->open(object); });
  }

  /// What does not fit is passed over, up to the end of the field.
  template <typename Act>
  bool build(Act act) {
    if (!builder_) return true;
    try {
      act();
    } catch (const jinja::Failure&) {
      out_.too_large_value = path();
      builder_.reset();
    }
    return true;
  }

  bool leave_value() {
    --depth_;
    build([&] { builder_->close(); });
    if (builder_ && !builder_->twice().empty()) note_twice(builder_->twice(), path());
    if (depth_ > kPromptDepth) return true;
    in_value_ = false;
    const bool empty = builder_ && jinja::length_of(builder_->peek()) == 0;
    Json stands = value_is_object_ ? Json::object() : Json::array();
    if (!empty && value_is_object_) stands[""] = nullptr;
    else if (!empty) stands.push_back(nullptr);
    if (member_) *member_ = std::move(stands);
    if (builder_) out_.values.emplace_back(names_[kPromptDepth - 1], builder_->take());
    builder_.reset();
    return true;
  }

  void note_twice(const std::string& name, std::string field) {
    if (out_.twice) return;
    out_.twice = name;
    out_.twice_in = std::move(field);
  }

  static jinja::Value value_of(const Json& value) {
    if (value.is_boolean()) return value.get<bool>();
    if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      return std::make_shared<const jinja::LargeInt>(jinja::LargeInt{std::to_string(value.get<uint64_t>())});
    if (value.is_number_integer()) return value.get<int64_t>();
    return jinja::None();
  }

  bool leave() {
    if (in_value_) return leave_value();
    --depth_;
    if (in_prompt_) {
      if (prompt_objects_ > 0) --prompt_objects_;
      leave_prompt();
    } else if (passed_over_ > 0) {
      --passed_over_;
    } else {
      open_.pop_back();
    }
    return true;
  }

  void leave_prompt() {
    if (depth_ > kPromptDepth) return;
    prompt_.end();
    in_prompt_ = false;
  }

  /// What tells lines apart is never passed over, whatever came before it.
  bool is_line_field(std::string_view name) const { return depth_ == 1 && std::find(kLineFields.begin(), kLineFields.end(), name) != kLineFields.end(); }

  bool full() {
    if (++num_values_ <= kMaxLineValues) return false;
    if (!out_.too_large) out_.too_large = path();
    return true;
  }

  /// Where the value was put; null if it was passed over.
  Json* put(Json value) {
    if (passed_over_ > 0) return nullptr;
    if (open_.empty()) return &(out_.line = std::move(value));
    if (open_.back()->is_array()) {
      if (full()) return nullptr;
      open_.back()->push_back(std::move(value));
      return &open_.back()->back();
    }
    if (!member_) return nullptr;
    *member_ = std::move(value);
    return member_;
  }

  /// The field that is being read: "custom_id", "body.stop".
  std::string path() const {
    if (depth_ == 0) return "";
    return names_[0] == "body" && !names_[1].empty() ? names_[0] + "." + names_[1] : names_[0];
  }

  LineJson& out_;
  PromptReader prompt_;
  std::string names_[kPromptDepth];  ///< of the fields that are being read, line's and body's
  std::vector<Json*> open_;          ///< from the root inwards; stable, as only the innermost grows
  Json* member_ = nullptr;           ///< of the innermost object, waiting for its value; null: passed over
  int depth_ = 0;                    ///< structures that are open
  int64_t passed_over_ = 0;          ///< of these, the innermost that are not built
  bool in_prompt_ = false;
  bool waits_for_value_ = false, in_value_ = false, value_is_object_ = false;  ///< a field of kValueFields
  std::optional<jinja::ValueBuilder> builder_;                                 ///< null within a field: it is passed over
  int64_t prompt_objects_ = 0;                                                 ///< within the prompt, the outermost object and what is open in it
  int64_t num_values_ = 0;
  bool overflow_ = false;
};

/// Numbers with an exponent, or too many digits for a double, become 0 of the same length.
std::string without_large_numbers(std::string_view text) {
  constexpr size_t kMostDigits = 300;
  std::string out(text);
  bool quoted = false;
  for (size_t at = 0; at < out.size(); ++at) {
    if (quoted && out[at] == '\\') ++at;
    else if (out[at] == '"') quoted = !quoted;
    else if (!quoted && (out[at] == '-' || (out[at] >= '0' && out[at] <= '9'))) {
      const size_t end = std::min(out.find_first_not_of("+-.0123456789eE", at), out.size());
      const std::string_view number = std::string_view(out).substr(at, end - at);
      if (number.size() > kMostDigits || number.find_first_of("eE") != std::string_view::npos) {
        out.replace(at, end - at, end - at, ' ');
        out[at] = '0';
      }
      at = end - 1;
    }
  }
  return out;
}

}  // namespace

const jinja::Value* LineJson::value(std::string_view name) const {
  for (const auto& [own, value] : values)
    if (own == name) return &value;
  return nullptr;
}

LineJson read_line_json(std::string_view text, const LineBounds& bounds) {
  LineJson out;
  bool overflow = false;
  {
    LineJsonReader reader(out, bounds);
    Json::sax_parse(text.begin(), text.end(), &reader);
    overflow = reader.has_overflow();
  }
  if (overflow) {
    // The parser ends there. The line's other fields are still wanted: above all its custom_id.
    auto first = std::move(out.overflow);
    out = LineJson{};
    const std::string rest = without_large_numbers(text);
    LineJsonReader reader(out, bounds);
    Json::sax_parse(rest.begin(), rest.end(), &reader);
    out.overflow = std::move(first);
  }
  const size_t nul = nul_in(text);
  if (nul != std::string_view::npos && (out.syntax_error.empty() || out.broken_at > nul)) {
    out.syntax_error = fmt::format("not valid JSON at byte {} of the line: {}", nul + 1, kNulAdvice);
    out.broken_at = nul + 1;
  }
  return out;
}

}  // namespace flexgen
