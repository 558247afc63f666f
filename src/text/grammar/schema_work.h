#pragma once
// SchemaWork: what reading one schema may take. A schema comes with a request, so it is not trusted. One thread.

#include <cstddef>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace flexgen {

class SchemaWork {
 public:
  SchemaWork() : outer_(current_) { current_ = this; }
  ~SchemaWork() { current_ = outer_; }
  SchemaWork(const SchemaWork&) = delete;
  SchemaWork& operator=(const SchemaWork&) = delete;

  /// For bytes that are copied or compared, of the schema that this thread reads; outside of one nobody counts.
  static void spend(size_t bytes) {
    if (!current_) return;
    current_->spent_ += bytes;
    if (is_spent()) fail_user("it says too much together: its parts are joined too often, or are too long for that; say less in 'allOf', 'anyOf' and 'oneOf'");
  }
  static void spend(const nlohmann::ordered_json& value) {
    if (current_) spend(bytes_of(value));
  }
  /// Nothing goes on then.
  static bool is_spent() { return current_ && current_->spent_ > kMost; }

 private:
  static constexpr size_t kMost = size_t{256} << 20;

  /// About what a copy takes.
  static size_t bytes_of(const nlohmann::ordered_json& value) {
    size_t bytes = 32;
    if (value.is_string()) return bytes + value.get_ref<const std::string&>().size();
    if (value.is_object())
      for (const auto& [name, member] : value.get_ref<const nlohmann::ordered_json::object_t&>()) bytes += name.size() + bytes_of(member);
    else if (value.is_array())
      for (const nlohmann::ordered_json& one : value) bytes += bytes_of(one);
    return bytes;
  }

  inline static thread_local SchemaWork* current_ = nullptr;
  SchemaWork* outer_;
  size_t spent_ = 0;
};

}  // namespace flexgen
