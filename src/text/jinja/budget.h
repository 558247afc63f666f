#pragma once
// Budget: what one rendering of a template may take. A template comes with a model, from whoever made it, so it is not trusted. One thread.

#include <cstdint>
#include <stdexcept>
#include <string>

#include <fmt/format.h>

namespace flexgen::jinja {

/// What a template does wrong, or refuses; without the line, which the caller knows.
class Failure : public std::runtime_error {
 public:
  explicit Failure(const std::string& message, bool raised = false) : std::runtime_error(message), raised_(raised) {}
  /// Whether the template said so itself (raise_exception).
  bool raised() const { return raised_; }

 private:
  bool raised_;
};

template <typename... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Failure(fmt::format(format, std::forward<Args>(args)...));
}

inline constexpr int64_t kMaxTemplateBytes = 1 << 20;
inline constexpr int kMaxSyntaxDepth = 200;         ///< expressions and blocks within each other, in the source
inline constexpr int kMaxRunDepth = 1000;           ///< expressions, blocks and calls within each other, while it runs
inline constexpr int kMaxValueDepth = 100;          ///< lists and dicts within each other
inline constexpr int64_t kMaxSteps = 20'000'000;    ///< about as many nodes, list items, or pieces of 64 bytes of text
inline constexpr int64_t kMaxRunBytes = 128 << 20;  ///< of values that exist at a time
inline constexpr int64_t kMaxRange = 100'000;       ///< items of range(), as Jinja's sandbox has it

class Budget {
 public:
  Budget() : outer_(current_) { current_ = this; }
  ~Budget() { current_ = outer_; }
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;

  /// Of this thread's rendering; null outside of one, where values count for nobody.
  static Budget* current() { return current_; }

  void step(int64_t count) {
    if ((steps_ += count) > kMaxSteps) fail("the template takes more than {} steps; flexgen ends it there", kMaxSteps);
  }
  void take(int64_t bytes) {
    check_room(bytes);
    bytes_ += bytes;
  }
  void give_back(int64_t bytes) { bytes_ -= bytes; }
  /// Throws if so much more would be too much.
  void check_room(int64_t bytes) const {
    if (bytes > kMaxRunBytes - bytes_) fail("the template's values take more than {} MiB; flexgen ends it there", kMaxRunBytes >> 20);
  }

 private:
  static thread_local Budget* current_;
  Budget* outer_;
  int64_t steps_ = 0, bytes_ = 0;
};

/// Steps of the rendering that is current, if one is.
inline void step(int64_t count) {
  if (Budget* budget = Budget::current()) budget->step(count);
}
/// For going through so much text.
inline void step_bytes(size_t bytes) { step(1 + static_cast<int64_t>(bytes / 64)); }

/// A member of each value that takes memory: counted as long as it exists.
class Charge {
 public:
  explicit Charge(size_t bytes) : budget_(Budget::current()), bytes_(static_cast<int64_t>(bytes)) {
    if (budget_) budget_->take(bytes_);
  }
  ~Charge() {
    if (budget_) budget_->give_back(bytes_);
  }
  Charge(const Charge&) = delete;
  Charge& operator=(const Charge&) = delete;

 private:
  Budget* budget_;
  int64_t bytes_;
};

}  // namespace flexgen::jinja
