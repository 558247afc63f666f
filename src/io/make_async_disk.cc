#include "io/async_disk.h"

#include <cstring>

#include "base/error.h"
#include "io/paced_disk.h"
#include "io/thread_disk.h"
#include "io/uring_disk.h"

namespace flexgen {

namespace {

std::unique_ptr<AsyncDisk> make_unpaced(const AsyncDiskOptions& options) {
  using Engine = AsyncDiskOptions::Engine;
  if (options.engine == Engine::kThreads) return make_thread_disk(options);
  int error = 0;
  if (auto disk = make_uring_disk(options, &error)) return disk;
  if (options.engine == Engine::kIoUring)
    fail_io(
        "io_uring is not to be had ({}); allow it (sysctl kernel.io_uring_disabled=0, and in the container's seccomp "
        "profile), or use the thread engine",
        std::strerror(error));
  return make_thread_disk(options);
}

}  // namespace

std::unique_ptr<AsyncDisk> AsyncDisk::make(const AsyncDiskOptions& options) {
  std::unique_ptr<AsyncDisk> disk = make_unpaced(options);
  return options.pacer ? make_paced_disk(std::move(disk), options.pacer) : std::move(disk);
}

}  // namespace flexgen
