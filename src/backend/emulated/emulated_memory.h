#pragma once
// EmulatedMemory: a device's memory, played by RAM. Its addresses are those of pages that nobody can touch; the bytes lie elsewhere, and only who asks
// here finds them. So code that looks behind a device address dies at once, and so does a kernel that is given any other. allocate() and
// deallocate() from the host thread while no lane works; the rest from any thread.

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>

namespace flexgen {

class EmulatedMemory {
 public:
  explicit EmulatedMemory(int64_t bytes);
  ~EmulatedMemory();
  EmulatedMemory(const EmulatedMemory&) = delete;
  EmulatedMemory& operator=(const EmulatedMemory&) = delete;

  int64_t total_bytes() const { return bytes_; }
  int64_t free_bytes() const { return bytes_ - used_; }
  /// Throws Error{device} if there is not enough.
  std::byte* allocate(int64_t bytes);
  void deallocate(std::byte* address);

  /// Whether any of the bytes is a device address.
  bool touches(const std::byte* address, int64_t bytes) const;
  /// Where the bytes behind an address are; aborts with `what` unless all of them are in one allocation.
  std::byte* behind(const std::byte* address, int64_t bytes, const char* what) const;

 private:
  int64_t bytes_, used_ = 0;
  std::byte *addresses_ = nullptr, *storage_ = nullptr;
  std::map<int64_t, int64_t> allocations_;  ///< offset -> bytes
};

}  // namespace flexgen
