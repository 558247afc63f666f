#pragma once
// Spill files: what a run keeps on disk while it runs. A file has no name in its folder, so it is gone with the process. Any thread.

#include <cstdint>
#include <memory>
#include <string>

#include "io/file_system.h"

namespace flexgen {

/// A file of `bytes`, all allocated; null for none. `what` it is for stands in messages. Throws Error{io}.
std::shared_ptr<File> spill_file(FileSystem& files, const std::string& directory, const char* what, int64_t bytes);

}  // namespace flexgen
