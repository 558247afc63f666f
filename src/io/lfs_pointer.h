#pragma once
// Pointers of git-lfs: what a clone without git-lfs has in place of large files (git-lfs/docs/spec.md). Pure functions.

#include <string>
#include <string_view>

#include "base/byte_order_mark.h"

namespace flexgen {

/// Whether a file that begins so is a pointer.
inline bool is_lfs_pointer(std::string_view start) {
  start = without_byte_order_mark(start);
  return start.starts_with("version https://git-lfs.github.com/spec/") || start.starts_with("version https://hawser.github.com/spec/");  // its first name
}

/// Throws Error{user} that says so of `path`, and what to do.
[[noreturn]] void refuse_lfs_pointer(const std::string& path);

}  // namespace flexgen
