#include "backend/emulated/emulated_memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "backend/device.h"
#include "base/error.h"
#include "base/units.h"

namespace flexgen {
namespace {

std::byte* map(int64_t bytes, int protection) {
  void* memory = mmap(nullptr, static_cast<size_t>(bytes), protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED)
    throw Error(ErrorKind::kDevice,
                fmt::format("the emulated device cannot take {} of RAM: {}; lower --gpu-memory", format_bytes(bytes), std::strerror(errno)));
  return static_cast<std::byte*>(memory);
}

}  // namespace

EmulatedMemory::EmulatedMemory(int64_t bytes)
    : bytes_(round_up(bytes, 4096)), addresses_(map(bytes_, PROT_NONE)), storage_(map(bytes_, PROT_READ | PROT_WRITE)) {}

EmulatedMemory::~EmulatedMemory() {
  munmap(addresses_, static_cast<size_t>(bytes_));
  munmap(storage_, static_cast<size_t>(bytes_));
}

std::byte* EmulatedMemory::allocate(int64_t bytes) {
  const int64_t size = round_up(std::max<int64_t>(bytes, 1), kDeviceAlignment);
  int64_t at = 0;  // first fit
  for (const auto& [offset, taken] : allocations_) {
    if (at + size <= offset) break;
    at = offset + round_up(taken, kDeviceAlignment);
  }
  if (at + size > bytes_)
    throw Error(ErrorKind::kDevice,
                fmt::format("the emulated device has {} left, {} are wanted; lower --gpu-memory", format_bytes(free_bytes()), format_bytes(bytes)));
  allocations_[at] = bytes;
  used_ += size;
  return addresses_ + at;
}

void EmulatedMemory::deallocate(std::byte* address) {
  auto found = allocations_.find(address - addresses_);
  FLEXGEN_CHECK(found != allocations_.end(), "no allocation begins at this address");
  used_ -= round_up(std::max<int64_t>(found->second, 1), kDeviceAlignment);
  allocations_.erase(found);
}

bool EmulatedMemory::touches(const std::byte* address, int64_t bytes) const { return address + bytes > addresses_ && address < addresses_ + bytes_; }

std::byte* EmulatedMemory::behind(const std::byte* address, int64_t bytes, const char* what) const {
  const int64_t offset = address - addresses_;
  FLEXGEN_CHECK(address >= addresses_ && offset + bytes <= bytes_, "{}: not a device address ({} bytes)", what, bytes);
  auto after = allocations_.upper_bound(offset);
  FLEXGEN_CHECK(after != allocations_.begin(), "{}: device memory that nobody allocated", what);
  const auto& [begin, size] = *std::prev(after);
  FLEXGEN_CHECK(offset + bytes <= begin + size, "{}: {} bytes at {} pass the end of an allocation of {}", what, bytes, offset - begin, size);
  return storage_ + offset;
}

}  // namespace flexgen
