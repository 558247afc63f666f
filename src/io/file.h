#pragma once
// File: the one seam between flexgen and the file system, so that tests can inject faults. A File may be used
// from several threads at once.

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "io/aligned_buffer.h"

namespace flexgen {

/// How a file is opened.
enum class FileMode {
  kRead,         ///< through the page cache: headers, JSON
  kReadDirect,   ///< O_DIRECT, for streamed weights; falls back to buffered + POSIX_FADV_DONTNEED where the file system refuses
  kWriteDirect,  ///< created or truncated, read and write, O_DIRECT with the same fallback
  kSpill,        ///< the same, new and without a name in its folder: gone with the process, however that ends
};

class File {
 public:
  virtual ~File() = default;
  /// Throws Error{io} naming the path and the reason. Only regular files are opened: a pipe could block for ever.
  static std::shared_ptr<File> open(const std::string& path, FileMode mode);

  virtual const std::string& path() const = 0;
  virtual int64_t size() const = 0;
  /// Reads exactly data.size() bytes; a file that ends early is an Error{io}. Blocking. Any alignment.
  virtual void read(int64_t offset, std::span<std::byte> data) = 0;
  /// Writes all of `data`. Blocking. Any alignment; an unaligned write to a direct file reads and rewrites the
  /// sectors at its ends, so such a write must not race with others that make the file grow.
  virtual void write(int64_t offset, std::span<const std::byte> data) = 0;
  /// Really allocates the blocks, so that a full disk is found now; Error{io} says how much is missing.
  virtual void preallocate(int64_t bytes) = 0;
  /// Whether O_DIRECT is in force.
  virtual bool direct() const = 0;

  /// For asynchronous I/O: the descriptor, a hook asked before each transfer that may shorten it
  /// (`bytes` lowered) or fail it (returns an errno; 0 to go on), and one told after it. Neither may throw.
  virtual int descriptor() const = 0;
  virtual int before_transfer(bool /*write*/, int64_t /*offset*/, int64_t* /*bytes*/) { return 0; }
  virtual void after_transfer(bool /*write*/, int64_t /*offset*/, int64_t /*bytes*/) {}
  /// Told what was read; an error fails the transfer. With whole_sectors() it gets no sector in parts, but where a read wants no more of one.
  virtual std::exception_ptr check(int64_t /*offset*/, std::span<const std::byte> /*data*/) { return nullptr; }
  virtual bool whole_sectors() const { return direct(); }
};

/// The blocking calls of a File in terms of its descriptor and its hooks; base of the real and the faulty file.
class DescriptorFile : public File {
 public:
  void read(int64_t offset, std::span<std::byte> data) override;
  void write(int64_t offset, std::span<const std::byte> data) override;

 private:
  std::mutex unaligned_write_mutex_;
};

}  // namespace flexgen
