#include "io/spill_file.h"

#include <unistd.h>

#include "base/error.h"

namespace flexgen {

std::shared_ptr<File> spill_file(FileSystem& files, const std::string& directory, const char* what, int64_t bytes) {
  if (bytes == 0) return nullptr;
  std::string path = fmt::format("{}/flexgen-{}-{}.spill", directory, what, getpid());
  std::shared_ptr<File> file = files.open(path, FileMode::kSpill);
  file->preallocate(bytes);
  return file;
}

}  // namespace flexgen
