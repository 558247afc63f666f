#pragma once
// The thread-pool engine of AsyncDisk: blocking calls in many threads, where the kernel has no io_uring for us.

#include <memory>

#include "io/async_disk.h"

namespace flexgen {

std::unique_ptr<AsyncDisk> make_thread_disk(const AsyncDiskOptions& options);

}  // namespace flexgen
