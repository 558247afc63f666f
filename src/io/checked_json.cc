#include "io/checked_json.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "base/error.h"
#include "io/lfs_pointer.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;

/// Builds the value from the parser's events, and stops at the first problem.
class CheckedBuilder : public nlohmann::json_sax<Json> {
 public:
  CheckedBuilder(Json& root, int max_depth, std::vector<std::string>* twice) : root_(root), max_depth_(static_cast<size_t>(max_depth)), twice_(twice) {}
  const std::string& problem() const { return problem_; }
  size_t broken_at() const { return broken_at_; }  ///< the byte, from 1, where what is no JSON begins; 0: none does

  bool null() override { return scalar(nullptr); }
  bool boolean(bool value) override { return scalar(value); }
  bool number_integer(number_integer_t value) override { return scalar(value); }
  bool number_unsigned(number_unsigned_t value) override { return scalar(value); }
  bool number_float(number_float_t value, const string_t&) override { return scalar(value); }
  bool string(string_t& value) override { return scalar(std::move(value)); }
  bool binary(binary_t&) override { return stop("holds binary data"); }
  bool start_object(std::size_t) override { return enter(Json::object()); }
  bool start_array(std::size_t) override { return enter(Json::array()); }
  bool end_object() override { return leave(); }
  bool end_array() override { return leave(); }
  bool key(string_t& value) override {
    auto [place, fresh] = open_.back()->get_ref<Json::object_t&>().emplace(std::move(value), nullptr);
    if (!fresh && !twice_) return stop(fmt::format("names '{}' twice", printable(place->first)));
    if (!fresh) twice_->push_back(place->first);
    member_ = &place->second;
    return true;
  }
  bool parse_error(std::size_t position, const std::string& token, const nlohmann::detail::exception& error) override {
    constexpr int kOutOfRange = 406;
    if (error.id == kOutOfRange) return stop(fmt::format("has a number that is out of range, {} (at byte {})", printable(token), position));
    broken_at_ = position;
    return stop(fmt::format("is not JSON (at byte {})", position));
  }

 private:
  Json* put(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      open_.back()->push_back(std::move(value));
      return &open_.back()->back();
    }
    *member_ = std::move(value);
    return member_;
  }
  bool scalar(Json value) {
    put(std::move(value));
    return true;
  }
  bool enter(Json value) {
    if (open_.size() >= max_depth_) return stop("is nested too deep");
    open_.push_back(put(std::move(value)));
    return true;
  }
  bool leave() {
    open_.pop_back();
    return true;
  }
  bool stop(std::string problem) {
    problem_ = std::move(problem);
    return false;
  }

  Json& root_;
  size_t max_depth_;
  std::vector<std::string>* twice_;
  std::vector<Json*> open_;  ///< from the root inwards; stable, as only the innermost grows
  Json* member_ = nullptr;   ///< of the innermost object, waiting for its value
  std::string problem_;
  size_t broken_at_ = 0;
};

}  // namespace

nlohmann::json parse_checked_json(const std::string& text, int max_depth, const std::string& file_name, const std::string& what, const std::string& advice,
                                  std::vector<std::string>* twice) {
  if (is_lfs_pointer(text)) refuse_lfs_pointer(file_name);
  Json root;
  CheckedBuilder builder(root, max_depth, twice);
  const size_t nul = nul_in(text);
  const bool read = Json::sax_parse(text, &builder);
  // The parser fails at a NUL byte, or ends there as at the end of the text. What it found before counts first.
  if (nul != std::string::npos && (read || builder.broken_at() > nul))
    fail_user("{}: {} is not JSON (at byte {}: {}); {}", file_name, what, nul + 1, kNulAdvice, advice);
  if (!read) fail_user("{}: {} {}; {}", file_name, what, builder.problem(), advice);
  return root;
}

std::string said_of_twice(const std::vector<std::string>& names) {
  constexpr size_t kMost = 5;
  std::string list;
  for (size_t i = 0; i < std::min(kMost, names.size()); ++i) list += fmt::format("{}'{}'", i == 0 ? "" : ", ", printable(names[i]));
  if (names.size() > kMost) list += fmt::format(" and {} more", names.size() - kMost);
  return fmt::format("it names {} twice; the last counts, as in transformers", list);
}

bool nests_deeper(std::string_view json, int max_depth) {
  int depth = 0;
  bool quoted = false;
  for (size_t at = 0; at < json.size(); ++at) {
    const char c = json[at];
    if (quoted && c == '\\') ++at;
    else if (c == '"') quoted = !quoted;
    else if (!quoted && (c == '[' || c == '{') && ++depth > max_depth) return true;
    else if (!quoted && (c == ']' || c == '}')) --depth;
  }
  return false;
}

std::string printable(std::string_view name) {
  constexpr size_t kMax = 100;
  std::string out;
  for (char c : name.substr(0, kMax)) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    else out += c;
  }
  if (name.size() > kMax) {
    while (!out.empty() && (static_cast<unsigned char>(out.back()) & 0xc0) == 0x80) out.pop_back();  // no half characters
    if (!out.empty() && (static_cast<unsigned char>(out.back()) & 0xc0) == 0xc0) out.pop_back();
    out += "...";
  }
  return out;
}

}  // namespace flexgen
