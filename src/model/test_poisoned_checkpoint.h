#pragma once
// For tests: a checkpoint with some values of one tensor replaced. One thread.

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "tensor/dtype.h"

namespace flexgen {

/// Copies `directory` (one model.safetensors in it) to `to` and sets the elements of `tensor` for which `wanted` says so to `value`; those of F8_E4M3 to NaN.
inline void poison_checkpoint(const std::string& directory, const std::string& to, const std::string& tensor, float value,
                              const std::function<bool(int64_t)>& wanted) {
  std::filesystem::remove_all(to);
  std::filesystem::copy(directory, to);
  std::fstream file(to + "/model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  uint64_t header_size = 0;
  file.read(reinterpret_cast<char*>(&header_size), sizeof(header_size));
  std::string header(header_size, '\0');
  file.read(header.data(), static_cast<std::streamsize>(header_size));
  const nlohmann::json entry = nlohmann::json::parse(header).at(tensor);
  const std::string type = entry.at("dtype");
  const bool is_byte = type == "F8_E4M3";
  const int64_t width = type == "F32" ? 4 : is_byte ? 1 : 2, begin = entry.at("data_offsets").at(0), end = entry.at("data_offsets").at(1);
  char bytes[4];
  const uint16_t half = is_byte ? 0x7f : type == "BF16" ? bf16_from_float(value) : f16_from_float(value);
  std::memcpy(bytes, type == "F32" ? static_cast<const void*>(&value) : static_cast<const void*>(&half), static_cast<size_t>(width));
  for (int64_t i = 0; i < (end - begin) / width; ++i) {
    if (!wanted(i)) continue;
    file.seekp(static_cast<std::streamoff>(8 + static_cast<int64_t>(header_size) + begin + i * width));
    file.write(bytes, width);
  }
  FLEXGEN_CHECK(file.good(), "{}", to);
}

}  // namespace flexgen
