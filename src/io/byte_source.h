#pragma once
// ByteSource: bytes that come one piece after the other: a file, what is unpacked from one, a line, a record. FileBytes: those of a file. FrontBytes: with a look at the
// first ones. One thread.

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "io/file.h"

namespace flexgen {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  /// The next bytes, at most `room` (which is more than 0) of them; how many. 0 at the end.
  virtual size_t read(char* data, size_t room) = 0;
};

/// Reads until `room` bytes are there or the source ends; how many are.
inline size_t read_fully(ByteSource& source, char* data, size_t room) {
  size_t filled = 0;
  for (size_t count; filled < room && (count = source.read(data + filled, room - filled)) > 0;) filled += count;
  return filled;
}

class FileBytes : public ByteSource {
 public:
  explicit FileBytes(std::shared_ptr<File> file) : file_(std::move(file)), size_(file_->size()) {}
  size_t read(char* data, size_t room) override {
    const auto count = static_cast<size_t>(std::min(static_cast<int64_t>(room), size_ - at_));
    if (count > 0) file_->read(at_, std::as_writable_bytes(std::span(data, count)));
    at_ += static_cast<int64_t>(count);
    return count;
  }

 private:
  std::shared_ptr<File> file_;
  int64_t size_, at_ = 0;
};

class FrontBytes : public ByteSource {
 public:
  /// Looks at the first `most` bytes. `rest` must live as long.
  FrontBytes(ByteSource& rest, size_t most) : rest_(rest), front_(most, '\0') { front_.resize(read_fully(rest, front_.data(), most)); }
  /// Until the first read().
  std::string_view front() const { return std::string_view(front_).substr(at_); }
  /// Looks at up to `most` bytes. Before the first read().
  void grow(size_t most) {
    const size_t had = front_.size();
    if (had >= most) return;
    front_.resize(most);
    front_.resize(had + read_fully(rest_, front_.data() + had, most - had));
  }
  /// Leaves out bytes of front(). Before the first read().
  void skip(size_t count) { at_ += count; }
  size_t read(char* data, size_t room) override {
    if (at_ == front_.size()) return rest_.read(data, room);
    const size_t count = front_.copy(data, room, at_);
    if ((at_ += count) == front_.size()) front_ = std::string(), at_ = 0;
    return count;
  }

 private:
  ByteSource& rest_;
  std::string front_;
  size_t at_ = 0;
};

}  // namespace flexgen
