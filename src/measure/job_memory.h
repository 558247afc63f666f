#pragma once
// JobMemory: memory for measurements, as a job has it. An arena's: in large pages where there are, which disks fill more than twice as fast as small ones. One thread.

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>

#include "memory/arena.h"

namespace flexgen {

class JobMemory {
 public:
  /// Touched, and full of bytes that are a small normal number in every type.
  explicit JobMemory(int64_t bytes) : arena_(std::make_unique<Arena>(std::max<int64_t>(bytes, 1))), bytes_(arena_->allocate(std::max<int64_t>(bytes, 1))) {
    std::memset(bytes_.data(), 0x3c, bytes_.size());
  }
  std::byte* data() const { return bytes_.data(); }

 private:
  std::unique_ptr<Arena> arena_;
  std::span<std::byte> bytes_;
};

}  // namespace flexgen
