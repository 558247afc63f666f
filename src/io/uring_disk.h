#pragma once
// The io_uring engine of AsyncDisk (Axboe, "Efficient IO with io_uring", 2019): one thread submits and reaps.

#include <memory>

#include "io/async_disk.h"

namespace flexgen {

/// Null if the kernel does not allow io_uring or is too old for it; *error is then the errno.
std::unique_ptr<AsyncDisk> make_uring_disk(const AsyncDiskOptions& options, int* error);

}  // namespace flexgen
