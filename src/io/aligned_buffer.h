#pragma once
// AlignedBuffer: memory that O_DIRECT accepts. Owned by one thread at a time.

#include <cstddef>
#include <cstdint>
#include <memory>

namespace flexgen {

/// O_DIRECT wants offsets, lengths and addresses in multiples of this.
inline constexpr int64_t kDirectAlignment = 4096;

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  /// `bytes` is rounded up to kDirectAlignment; the content is undefined.
  explicit AlignedBuffer(int64_t bytes);

  std::byte* data() const { return data_.get(); }
  int64_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* data) const;
  };
  std::unique_ptr<std::byte, Free> data_;
  int64_t bytes_ = 0;
};

}  // namespace flexgen
