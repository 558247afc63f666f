#pragma once
// A checkpoint's tensors as bytes, for tests that lay them out anew: other names, several in one. One thread.

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "io/test_folder.h"

namespace flexgen {

/// As the file has it.
struct RawTensor {
  std::string dtype;  ///< as safetensors calls it
  std::vector<int64_t> shape;
  std::string bytes;
};
using RawTensors = std::map<std::string, RawTensor>;

inline RawTensors read_raw_tensors(const std::string& path) {
  const std::string file = read_whole(path);
  uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof length);
  RawTensors tensors;
  const nlohmann::json header = nlohmann::json::parse(file.substr(8, length));
  for (const auto& [name, at] : header.items()) {
    if (name == "__metadata__") continue;
    const auto first = at.at("data_offsets")[0].get<size_t>(), end = at.at("data_offsets")[1].get<size_t>();
    tensors[name] = {at.at("dtype"), at.at("shape"), file.substr(8 + length + first, end - first)};
  }
  return tensors;
}

inline std::string as_safetensors(const RawTensors& tensors) {
  nlohmann::json header;
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    header[name] = {{"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
    data += tensor.bytes;
  }
  const std::string text = header.dump();
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + text + data;
}

/// Takes a tensor out.
inline RawTensor take(RawTensors& tensors, const std::string& name) {
  const auto node = tensors.extract(name);
  if (node.empty()) throw std::runtime_error("no tensor " + name);
  return node.mapped();
}

inline std::vector<std::string> names_of(const RawTensors& tensors) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors) names.push_back(name);
  return names;
}

/// One after the other along the first dimension.
inline RawTensor joined(const std::vector<RawTensor>& parts) {
  RawTensor whole{parts.front().dtype, parts.front().shape, ""};
  whole.shape[0] = 0;
  for (const RawTensor& part : parts) {
    whole.shape[0] += part.shape[0];
    whole.bytes += part.bytes;
  }
  return whole;
}

/// The same with a dimension more in front.
inline RawTensor stacked(std::vector<RawTensor> parts) {
  for (RawTensor& part : parts) part.shape.insert(part.shape.begin(), 1);
  return joined(parts);
}

}  // namespace flexgen
