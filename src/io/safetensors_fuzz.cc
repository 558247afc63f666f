// libFuzzer target: no header may crash, hang, or yield a tensor outside its file.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "base/error.h"
#include "io/checkpoint.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  // The first two bytes choose how much data the file seems to hold.
  const int64_t data_bytes = data[0] + 256 * (data[1] & 3);
  const std::string header(reinterpret_cast<const char*>(data) + 2, size - 2);
  const auto start = 8 + static_cast<int64_t>(header.size());
  try {
    for (const auto& [name, tensor] : flexgen::parse_safetensors_header(header, start, start + data_bytes, "fuzz")) {
      int64_t count = 1;
      for (int64_t dimension : tensor.shape) count *= dimension;
      if (tensor.offset < start || tensor.bytes < 0 || tensor.offset + tensor.bytes > start + data_bytes ||
          flexgen::size_bytes(tensor.dtype, count) != tensor.bytes)
        std::abort();
    }
  } catch (const flexgen::Error&) {
  }
  return 0;
}
