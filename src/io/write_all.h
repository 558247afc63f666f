#pragma once
// write_all: a text to a descriptor, whatever its pieces. Any thread.

#include <unistd.h>

#include <cerrno>
#include <functional>
#include <string_view>

namespace flexgen {

/// As ::write(); tests put faults in its place.
using WriteCall = std::function<ssize_t(int, const void*, size_t)>;

/// 0, or an errno; some of it may be written then.
inline int write_all(int descriptor, std::string_view text, const WriteCall& write = ::write) {
  while (!text.empty()) {
    const ssize_t n = write(descriptor, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? errno : EIO;
    text.remove_prefix(static_cast<size_t>(n));
  }
  return 0;
}

}  // namespace flexgen
