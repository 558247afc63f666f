#pragma once
// RecordText: a record of the output, read piece by piece, as it may be larger than memory is. One thread.

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>
#include <utility>

namespace flexgen {

class RecordText {
 public:
  virtual ~RecordText() = default;
  /// The next bytes, at most `room` of them; how many. 0 at the end.
  virtual size_t read(char* data, size_t room) = 0;
  /// From the start again.
  virtual void rewind() = 0;
};

/// A record that is in memory.
class WholeRecord : public RecordText {
 public:
  explicit WholeRecord(std::string text) : text_(std::move(text)) {}
  size_t read(char* data, size_t room) override {
    const size_t count = std::min(room, text_.size() - at_);
    std::memcpy(data, text_.data() + at_, count);
    at_ += count;
    return count;
  }
  void rewind() override { at_ = 0; }

 private:
  std::string text_;
  size_t at_ = 0;
};

}  // namespace flexgen
