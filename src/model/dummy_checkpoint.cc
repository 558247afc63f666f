#include "model/dummy_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "io/directory_lock.h"
#include "io/new_file.h"
#include "io/partial_file.h"
#include "io/whole_file.h"
#include "model/model.h"

namespace flexgen {
namespace {

/// The largest shapes take long to write.
constexpr double kLongestWait_s = 3600;

/// SplitMix64.
uint64_t random_bits(uint64_t seed, uint64_t number) {
  uint64_t z = seed + number * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

/// Codes of MXFP4, two a byte, any as likely as another. A piece begins at a multiple of 8.
void fill_with_codes(uint64_t seed, uint64_t first, std::span<std::byte> out) {
  for (size_t i = 0; i < out.size(); i += 8) {
    const uint64_t z = random_bits(seed, first + i);
    std::memcpy(out.data() + i, &z, std::min(sizeof z, out.size() - i));
  }
}
/// Their scale, e8m0, for matrices of so many inputs: about what fill() gives those of 16 bits. The codes' deviation is 2.9.
std::byte scale_of_codes(int64_t cols) { return static_cast<std::byte>(127 + std::lround(std::log2(0.5 / 2.9 / std::sqrt(static_cast<double>(cols))))); }

/// Uniform values around `center` with standard deviation `deviation` (16 bits a value).
void fill(DType dtype, uint64_t seed, uint64_t first, float center, float deviation, std::span<std::byte> out) {
  const float scale = deviation * std::sqrt(3.0f) / 32768.0f;
  auto count = static_cast<int64_t>(out.size()) / (dtype == DType::kF32 ? 4 : 2);
  for (int64_t i = 0; i < count; i += 4) {
    const uint64_t z = random_bits(seed, first + static_cast<uint64_t>(i));
    for (int64_t j = 0; j < 4 && i + j < count; ++j) {
      float value = center + scale * static_cast<float>(static_cast<int16_t>(z >> (16 * j)));
      if (dtype == DType::kF32) {
        std::memcpy(out.data() + 4 * (i + j), &value, 4);
      } else {
        uint16_t half = dtype == DType::kBF16 ? bf16_from_float(value) : f16_from_float(value);
        std::memcpy(out.data() + 2 * (i + j), &half, 2);
      }
    }
  }
}

}  // namespace

void ensure_dummy_checkpoint(const std::string& directory, const std::string& config_json, DType dtype, uint64_t seed,
                             const std::function<void(int64_t, int64_t)>& progress, const std::vector<std::string>& ignored_config_fields) {
  namespace fs = std::filesystem;
  const fs::path root(directory);
  const std::string recipe = fmt::format("{}\ndtype {} seed {}\n", config_json, dtype_name(dtype), seed);
  const std::string model = (root / "model.safetensors").string(), recipe_file = (root / "dummy_recipe.txt").string();
  const auto is_ready = [&] { return file_is_there(model) && read_file_if_there(recipe_file) == recipe; };
  if (is_ready()) return;
  const ModelConfig config = parse_config(config_json, "", directory + "/config.json", ignored_config_fields);
  std::error_code failed;
  fs::create_directories(root, failed);
  if (failed) fail_io("cannot create {}: {}", directory, failed.message());
  const DirectoryLock lock(directory, kLongestWait_s, [&](bool gives_up) {
    if (gives_up) spdlog::warn("another process has had {} locked for {:.0f} s: writing dummy weights beside it", directory, kLongestWait_s);
    else spdlog::info("another process writes dummy weights to {}: waiting for it", directory);
  });
  if (is_ready()) return;
  if (file_is_there(model) && !file_is_there(recipe_file)) fail_user("{} holds a checkpoint that is no dummy; give another --dummy-dir", directory);

  std::vector<TensorToWrite> tensors = Model::expected_tensors(config, dtype);
  int64_t total = 0;
  for (const TensorToWrite& tensor : tensors) total += bytes_of(tensor);
  remove_abandoned_partials(directory);
  fs::space_info space = fs::space(root, failed);
  if (!failed && static_cast<int64_t>(space.available) < total + 64 * kMiB)
    fail_io("{} has {} free, the dummy checkpoint takes {}; give another --dummy-dir", directory, format_bytes(static_cast<int64_t>(space.available)),
            format_bytes(total));
  // The recipe last, as a model without one is nobody's dummy.
  fs::remove(model, failed);
  fs::remove(recipe_file, failed);

  SafetensorsWriter writer(model, tensors);
  std::vector<std::byte> piece(4 * kMiB);
  int64_t done = 0;
  for (size_t t = 0; t < tensors.size(); ++t) {
    const TensorToWrite& tensor = tensors[t];
    const bool is_scale = tensor.name.ends_with("layer_scalar") || tensor.name.ends_with("router.scale") || tensor.name.ends_with("per_expert_scale");
    bool is_norm = (tensor.name.find("norm") != std::string::npos && tensor.name.ends_with("weight")) || is_scale;
    // Residual streams stay of order one: deviation 1/sqrt(fan in), halved for the many layers.
    float deviation = tensor.shape.size() < 2 ? 0.02f : 0.5f / std::sqrt(static_cast<float>(tensor.shape.back()));
    const bool is_codes = is_quantized(tensor.dtype), is_scales = is_codes && tensor.name.ends_with("_scales");
    int64_t bytes = bytes_of(tensor), element = is_codes ? 1 : size_bytes(dtype, 1);
    for (int64_t at = 0; at < bytes;) {
      int64_t size = std::min<int64_t>(static_cast<int64_t>(piece.size()), bytes - at);
      const std::span<std::byte> part(piece.data(), static_cast<size_t>(size));
      if (is_scales) std::fill(part.begin(), part.end(), scale_of_codes(32 * tensor.shape.back()));
      else if (is_codes) fill_with_codes(seed + 0x10001u * t, static_cast<uint64_t>(at), part);
      else fill(dtype, seed + 0x10001u * t, static_cast<uint64_t>(at / element), is_norm ? 1.0f : 0.0f, deviation, part);
      writer.append(piece.data(), size);
      at += size;
      done += size;
      if (progress) progress(done, total);
    }
  }
  replace_whole_file((root / "config.json").string(), config_json);
  replace_whole_file(recipe_file, recipe);
  // The model last: it is there when all is. One that another machine has finished meanwhile, and may read by now, stays.
  writer.close_if_new();
}

}  // namespace flexgen
