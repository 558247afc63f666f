#pragma once
// Errors: CHECK for our own bugs (aborts with the values), Error for what the user, the disk or a peer
// did (thrown; caught only in the command line, a request handler or a rank main). Thread-safe.

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace flexgen {

/// What failed: what the user asked for, the system's files and memory, a GPU, another process of the job.
enum class ErrorKind { kUser, kIo, kDevice, kPeer };

/// A failure that is not our bug. The message says what is wrong, where, and what the user can do.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

template <typename... Args>
[[noreturn]] void fail_user(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::kUser, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
[[noreturn]] void fail_io(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::kIo, fmt::format(format, std::forward<Args>(args)...));
}

[[noreturn]] void check_failed(const char* file, int line, const char* condition, const std::string& message);

}  // namespace flexgen

/// Aborts when `condition` is false: an invariant of our own code is broken. Extra arguments are a fmt
/// format string and its values: FLEXGEN_CHECK(n < size, "n {} size {}", n, size).
#define FLEXGEN_CHECK(condition, ...)                                                         \
  do {                                                                                        \
    if (!(condition)) [[unlikely]]                                                            \
      ::flexgen::check_failed(__FILE__, __LINE__, #condition, ::fmt::format("" __VA_ARGS__)); \
  } while (false)
