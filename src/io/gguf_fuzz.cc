// libFuzzer target: no GGUF may crash, hang, or yield a tensor outside its file or over another.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/error.h"
#include "io/gguf.h"

namespace {

class BytesFile : public flexgen::File {
 public:
  BytesFile(const uint8_t* data, size_t size) : data_(data), size_(static_cast<int64_t>(size)) {}
  const std::string& path() const override { return path_; }
  int64_t size() const override { return size_; }
  void read(int64_t offset, std::span<std::byte> data) override {
    if (offset < 0 || offset + std::ssize(data) > size_) std::abort();
    std::memcpy(data.data(), data_ + offset, data.size());
  }
  void write(int64_t, std::span<const std::byte>) override { std::abort(); }
  void preallocate(int64_t) override { std::abort(); }
  bool direct() const override { return false; }
  int descriptor() const override { std::abort(); }

 private:
  std::string path_ = "fuzz";
  const uint8_t* data_;
  int64_t size_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  BytesFile file(data, size);
  try {
    const flexgen::GgufHead head = flexgen::read_gguf_head(file, size % 2 == 0);
    int64_t end = head.data_start;
    for (const flexgen::GgufTensor& tensor : head.tensors) {
      int64_t count = 1;
      for (int64_t dimension : tensor.shape) count *= dimension;
      if (tensor.offset < end || tensor.bytes <= 0 || tensor.offset + tensor.bytes > file.size() || flexgen::row_bytes(tensor.dtype, count) != tensor.bytes)
        std::abort();
      end = tensor.offset + tensor.bytes;
    }
  } catch (const flexgen::Error&) {
  }
  return 0;
}
