#pragma once
// For fuzz targets: the input's bytes as choices, so that what is made of them is mostly well formed. One thread.

#include <cstddef>
#include <cstdint>
#include <string>

namespace flexgen {

/// Zeros when the bytes run out.
class FuzzChoices {
 public:
  FuzzChoices(const uint8_t* data, size_t size) : data_(data), left_(size) {}
  uint8_t byte() {
    if (left_ == 0) return 0;
    --left_;
    return *data_++;
  }
  size_t below(size_t n) { return byte() % n; }
  bool flag() { return byte() & 1; }
  bool rarely() { return byte() > 240; }
  std::string rest() {
    std::string text(reinterpret_cast<const char*>(data_), left_);
    left_ = 0;
    return text;
  }
  bool empty() const { return left_ == 0; }

 private:
  const uint8_t* data_;
  size_t left_;
};

}  // namespace flexgen
