#pragma once
// GGUF files for tests, written field by field. One thread.

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace flexgen {

/// Gathers fields and tensors, and writes them as a file.
class TestGguf {
 public:
  TestGguf& text(const std::string& name, const std::string& value) { return field(name, 8, packed(value)); }
  TestGguf& number(const std::string& name, uint32_t value) { return field(name, 4, bits(value)); }
  TestGguf& real(const std::string& name, float value) { return field(name, 6, bits(value)); }
  TestGguf& flag(const std::string& name, bool value) { return field(name, 7, bits(static_cast<uint8_t>(value))); }
  TestGguf& texts(const std::string& name, const std::vector<std::string>& values) {
    std::string list = bits(uint32_t{8}) + bits(uint64_t{values.size()});
    for (const std::string& value : values) list += packed(value);
    return field(name, 9, list);
  }
  template <typename T>
  TestGguf& numbers(const std::string& name, uint32_t type, const std::vector<T>& values) {
    std::string list = bits(type) + bits(uint64_t{values.size()});
    for (T value : values) list += bits(value);
    return field(name, 9, list);
  }
  /// A field as its bytes.
  TestGguf& field(const std::string& name, uint32_t type, const std::string& value) {
    fields_ += packed(name) + bits(type) + value;
    ++num_fields_;
    return *this;
  }
  /// `shape` with the innermost first, as the file has it; `type` as ggml counts them.
  TestGguf& tensor(const std::string& name, const std::vector<uint64_t>& shape, uint32_t type, const std::string& data) {
    data_.resize((data_.size() + 31) / 32 * 32);
    return tensor_at(name, shape, type, data_.size(), data);
  }
  TestGguf& tensor_at(const std::string& name, const std::vector<uint64_t>& shape, uint32_t type, uint64_t offset, const std::string& data) {
    tensors_ += packed(name) + bits(static_cast<uint32_t>(shape.size()));
    for (uint64_t size : shape) tensors_ += bits(size);
    tensors_ += bits(type) + bits(offset);
    ++num_tensors_;
    data_ += data;
    return *this;
  }
  std::string head() const { return "GGUF" + bits(uint32_t{3}) + bits(num_tensors_) + bits(num_fields_) + fields_ + tensors_; }
  std::string bytes() const {
    std::string all = head();
    all.resize((all.size() + 31) / 32 * 32);
    return all + data_;
  }

  template <typename T>
  static std::string bits(T value) {
    std::string text(sizeof value, '\0');
    std::memcpy(text.data(), &value, sizeof value);
    return text;
  }
  static std::string packed(const std::string& text) { return bits(uint64_t{text.size()}) + text; }
  static std::string floats(const std::vector<float>& values) { return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)}; }

 private:
  uint64_t num_fields_ = 0, num_tensors_ = 0;
  std::string fields_, tensors_, data_;
};

}  // namespace flexgen
