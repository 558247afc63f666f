#pragma once
// MessageWriter and MessageReader: values as the bytes of a message, in order, without names. Both ends are the same program on machines of the same
// byte order, which the ranks check when they meet. One thread.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace flexgen {

class MessageWriter {
 public:
  template <typename T>
  requires std::is_arithmetic_v<T> MessageWriter& add(T value) {
    append(&value, sizeof(value));
    return *this;
  }
  MessageWriter& add(std::string_view text) {
    add(static_cast<int64_t>(text.size()));
    append(text.data(), text.size());
    return *this;
  }
  template <typename T>
  requires std::is_arithmetic_v<T> MessageWriter& add(const std::vector<T>& values) {
    add(static_cast<int64_t>(values.size()));
    append(values.data(), values.size() * sizeof(T));
    return *this;
  }
  const std::vector<std::byte>& bytes() const { return bytes_; }
  std::vector<std::byte> take() { return std::move(bytes_); }
  std::string text() const { return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()}; }

 private:
  void append(const void* data, size_t size);  // out of line: inlined, GCC 12 sees bounds where there are none
  std::vector<std::byte> bytes_;
};

/// Throws Error{peer} where a message is shorter than what is read of it. The bytes must outlive the reader.
class MessageReader {
 public:
  explicit MessageReader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  explicit MessageReader(const std::string& text) : bytes_(std::as_bytes(std::span(text))) {}

  template <typename T>
  requires std::is_arithmetic_v<T> T value() {
    T value;
    std::memcpy(&value, take(sizeof(T)), sizeof(T));
    return value;
  }
  std::string text() {
    const auto size = value<int64_t>();
    const std::byte* from = take(size);
    return {reinterpret_cast<const char*>(from), static_cast<size_t>(size)};
  }
  template <typename T>
  std::vector<T> values() {
    const auto count = value<int64_t>();
    if (count < 0 || count > static_cast<int64_t>(bytes_.size() / sizeof(T))) too_short();
    std::vector<T> values(static_cast<size_t>(count));
    const std::byte* from = take(count * static_cast<int64_t>(sizeof(T)));
    if (count > 0) std::memcpy(values.data(), from, values.size() * sizeof(T));
    return values;
  }
  bool at_end() const { return bytes_.empty(); }

 private:
  const std::byte* take(int64_t size) {
    if (size < 0 || size > static_cast<int64_t>(bytes_.size())) too_short();
    const std::byte* at = bytes_.data();
    bytes_ = bytes_.subspan(static_cast<size_t>(size));
    return at;
  }
  [[noreturn]] static void too_short();
  std::span<const std::byte> bytes_;
};

}  // namespace flexgen
