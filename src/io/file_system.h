#pragma once
// FileSystem: where large files are opened from, so that tests can put faults between flexgen and the disk.
// May be used from several threads.

#include <memory>
#include <string>

#include "io/file.h"

namespace flexgen {

class FileSystem {
 public:
  virtual ~FileSystem() = default;
  virtual std::shared_ptr<File> open(const std::string& path, FileMode mode) { return File::open(path, mode); }
};

}  // namespace flexgen
