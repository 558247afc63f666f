#pragma once
// ConfigFields: a JSON object read with distrust. Every field that is there must be asked for or named as harmless; what is
// left over is refused by name, so that nothing that might change a model's answers is ignored. One thread.

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

namespace flexgen {

class ConfigFields {
 public:
  /// `source` is for messages: a file name, or that and the path of the object in it. Keeps a reference to `json`.
  /// `ignored`: names that the user takes for harmless, "outer.inner" in an inner object; only fields that flexgen does not know may be.
  ConfigFields(const nlohmann::json& json, std::string source, std::set<std::string> ignored = {})
      : json_(json), source_(std::move(source)), ignored_(std::move(ignored)) {}
  /// The fields of an object in this one.
  ConfigFields inner(const nlohmann::json& object, const std::string& name);

  /// Throws Error{user} "SOURCE: 'NAME' WHY".
  [[noreturn]] void refuse(const std::string& name, const std::string& why) const;

  /// The value, or null if the field is absent or null. Counts as asked for, as do the functions below.
  const nlohmann::json* find(const std::string& name);
  /// There, even as null.
  bool contains(const std::string& name) const { return json_.contains(name); }

  /// A whole number in [low, high]; the field must be there.
  int64_t integer(const std::string& name, int64_t low, int64_t high);
  int64_t integer_or(const std::string& name, int64_t fallback, int64_t low, int64_t high);
  /// A number in (0, high].
  double positive(const std::string& name, double high);
  double positive_or(const std::string& name, double fallback, double high);
  bool flag_or(const std::string& name, bool fallback);
  std::string text_or(const std::string& name, const std::string& fallback);
  /// The field may be absent or have this one value.
  void only(const std::string& name, const nlohmann::json& supported);
  /// These change nothing about a model's answers, whatever they are.
  void harmless(std::initializer_list<const char*> names);

  /// Whether the user takes the field for harmless (--ignore-config-field): it need not be looked at.
  bool is_ignored(const std::string& name) const { return ignored_.contains(name); }

  /// Accepts that the field is absent or false, 0, 1.0, empty ...: one of `values`, with which it changes nothing. For fields that no family
  /// asked for.
  void neutral(const std::string& name, std::initializer_list<nlohmann::json> values);

  /// Refuses the first field that nobody asked for, and a field to be ignored that is known or not there.
  void finish() const;
  const std::string& source() const { return source_; }

 private:
  const nlohmann::json& json_;
  std::string source_, path_;                                 // path_: "outer." of an inner object, else empty
  std::set<std::string> ignored_, seen_, harmless_, opened_;  // opened_: objects that are read field by field
};

}  // namespace flexgen
