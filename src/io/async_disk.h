#pragma once
// AsyncDisk: many disk transfers in flight (io_uring; a thread pool where the kernel refuses it).
// submit() may be called from any thread, callbacks included; callbacks run in the disk's own threads, one at a
// time, and must be short and not throw.

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string_view>

#include "io/file.h"
#include "io/pacer.h"

namespace flexgen {

/// A read or a write of consecutive bytes of a file.
struct DiskTransfer {
  std::shared_ptr<File> file;
  bool write = false;
  int64_t offset = 0;  ///< aligned to kDirectAlignment if the file is direct, as are data and bytes
  std::byte* data = nullptr;
  int64_t bytes = 0;
  /// A read may run past the end of the file by less than kDirectAlignment (aligned superset of a
  /// tensor at the file's end): what lies past it is undefined. Any other short read is an error.
  /// Called once, with null or the Error{io}; no byte of `data` is touched any more then.
  std::function<void(std::exception_ptr)> done;
};

/// How a disk is driven.
struct AsyncDiskOptions {
  enum class Engine { kAuto, kIoUring, kThreads } engine = Engine::kAuto;
  int depth = 32;                          ///< blocks in flight at most
  int64_t block_bytes = 1 << 20;           ///< transfers are cut into blocks of this size (rounded up to kDirectAlignment)
  std::shared_ptr<Pacer> pacer = nullptr;  ///< to keep to, with other disks perhaps; null: as fast as the disk gives

  /// For reads beside which something is written: where a disk takes requests in their order, each write waits for all that is in flight. 4 MiB keep a disk busy.
  AsyncDiskOptions beside_writes() const {
    AsyncDiskOptions fewer = *this;
    fewer.depth = 8;
    fewer.block_bytes = 512 << 10;
    return fewer;
  }
};

class AsyncDisk {
 public:
  virtual ~AsyncDisk() = default;  ///< waits for everything submitted
  /// kAuto takes io_uring if the kernel allows it, else threads; kIoUring throws Error{io} if it does not.
  static std::unique_ptr<AsyncDisk> make(const AsyncDiskOptions& options);
  /// Queues the transfer: blocks start in order of submission, up to `depth` at a time.
  virtual void submit(DiskTransfer transfer) = 0;
  virtual std::string_view engine_name() const = 0;  ///< "io_uring" or "threads"
};

}  // namespace flexgen
