#pragma once
// RecordText: a record of the output, read piece by piece, as it may be larger than memory is. One thread.

#include <cstddef>
#include <string>
#include <utility>

#include "io/byte_source.h"

namespace flexgen {

/// Of a record that is not in memory as a whole, at a time.
inline constexpr size_t kRecordPieceBytes = 256 << 10;

class RecordText : public ByteSource {
 public:
  /// From the start again.
  virtual void rewind() = 0;
};

/// A record that is in memory.
class WholeRecord : public RecordText {
 public:
  explicit WholeRecord(std::string text) : text_(std::move(text)) {}
  size_t read(char* data, size_t room) override {
    const size_t count = text_.copy(data, room, at_);
    at_ += count;
    return count;
  }
  void rewind() override { at_ = 0; }

 private:
  std::string text_;
  size_t at_ = 0;
};

}  // namespace flexgen
