#include "io/same_file.h"

#include <sys/stat.h>

namespace flexgen {
namespace {

namespace fs = std::filesystem;

constexpr int kMostLinks = 40;  // as Linux has it

}  // namespace

fs::path place_of(const std::string& path) {
  std::error_code failed;
  fs::path at = fs::absolute(path, failed);
  if (failed) return path;
  for (int i = 0; i < kMostLinks; ++i) {
    const fs::path folder = fs::weakly_canonical(at.parent_path(), failed);
    if (failed) return at.lexically_normal();
    at = folder / at.filename();
    const fs::path next = fs::read_symlink(at, failed);
    if (failed) break;
    at = at.parent_path() / next;
  }
  return at.lexically_normal();
}

bool is_same_file(const std::string& a, const std::string& b) {
  struct stat first {};
  struct stat second {};
  const bool there = stat(a.c_str(), &first) == 0, other_there = stat(b.c_str(), &second) == 0;
  if (there && other_there) return S_ISREG(first.st_mode) && first.st_dev == second.st_dev && first.st_ino == second.st_ino;
  return !there && !other_there && place_of(a) == place_of(b);
}

}  // namespace flexgen
