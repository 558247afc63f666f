#include "io/lfs_pointer.h"

#include "base/error.h"

namespace flexgen {

void refuse_lfs_pointer(const std::string& path) {
  fail_user(
      "{} is a pointer of git-lfs, not the file itself (the repository was cloned without git-lfs): run `git lfs pull` in its folder, or fetch "
      "the file",
      path);
}

}  // namespace flexgen
