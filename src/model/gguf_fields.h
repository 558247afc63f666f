#pragma once
// The fields of a GGUF that belong to its architecture ("llama.block_count"), of which none may be left unread. One thread.

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace flexgen {

/// Reads fields by their names behind the architecture's, and remembers which were asked for. Throws Error{user} naming the file and the field for values that cannot be.
class GgufFields {
 public:
  /// `metadata` outlives this; `source`: the file, for messages; `ignored`: whole names of fields that the user takes for harmless.
  GgufFields(const nlohmann::json& metadata, std::string source, std::string architecture, const std::vector<std::string>& ignored);

  /// Null if it is not there.
  const nlohmann::json* find(const char* name);
  /// Of a list with a value for each layer the one that all have.
  const nlohmann::json* find_of_all(const char* name);
  [[noreturn]] void refuse(const char* name, const std::string& why) const;
  /// The value under another name, if it is there.
  void copy(const char* name, nlohmann::json& to, const char* as);
  std::optional<int64_t> integer(const char* name);
  /// There with this value, or not there.
  void only(const char* name, const nlohmann::json& value);
  void harmless(std::initializer_list<const char*> names);
  /// Refuses fields that nobody asked for.
  void finish() const;
  const std::string& source() const { return source_; }
  /// A value as messages show it.
  static std::string shown(const nlohmann::json& value);

 private:
  const nlohmann::json& metadata_;
  std::string source_, start_;
  std::set<std::string> ignored_, seen_;
};

}  // namespace flexgen
