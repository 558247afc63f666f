#include "io/checkpoint.h"

#include <algorithm>
#include <bit>
#include <filesystem>
#include <set>
#include <string_view>
#include <unordered_set>

#include "base/error.h"
#include "base/units.h"
#include "io/checked_json.h"
#include "io/file.h"

namespace flexgen {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

constexpr int64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr int64_t kMaxIndexBytes = 100'000'000;

/// FNV-1a twice, from two starts: 128 bits that tell checkpoints apart (no defence against forgers).
class Fingerprint {
 public:
  void add(std::string_view text) {
    for (unsigned char c : text) {
      a_ = (a_ ^ c) * 0x100000001b3u;
      b_ = (b_ ^ (c + 0x5bu)) * 0x100000001b3u;
    }
    a_ = (a_ ^ 0xffu) * 0x100000001b3u;
    b_ = (b_ ^ 0x1ffu) * 0x100000001b3u;
  }
  std::string hex() const { return fmt::format("{:016x}{:016x}", a_, b_); }

 private:
  uint64_t a_ = 0xcbf29ce484222325u, b_ = 0x9ae16a3b2f90404fu;
};

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

std::string read_text(File& file, int64_t offset, int64_t bytes) {
  std::string text(static_cast<size_t>(bytes), '\0');
  file.read(offset, {reinterpret_cast<std::byte*>(text.data()), text.size()});
  return text;
}

/// The JSON text of a safetensors file.
std::string read_header(File& file) {
  const int64_t size = file.size();
  if (size < 8) fail_user("{}: {} bytes are no safetensors file; it is truncated, fetch it again", file.path(), size);
  uint64_t length = 0;
  file.read(0, {reinterpret_cast<std::byte*>(&length), sizeof length});
  if (length > static_cast<uint64_t>(kMaxHeaderBytes))
    fail_user("{}: a header of {} bytes, where the safetensors format allows {}; it is of another format or broken", file.path(),
              length, kMaxHeaderBytes);
  if (length > static_cast<uint64_t>(size - 8))
    fail_user("{}: a header of {} bytes in a file of {}; it is truncated, fetch it again", file.path(), length, size);
  return read_text(file, 8, static_cast<int64_t>(length));
}

/// A few sectors spread over the data.
void add_samples(Fingerprint& fingerprint, File& file, int64_t data_start) {
  constexpr int64_t kSamples = 16, kSampleBytes = 1024;
  const int64_t data_bytes = file.size() - data_start;
  for (int64_t i = 0; i < kSamples; ++i) {
    const int64_t at = data_bytes / kSamples * i;
    fingerprint.add(read_text(file, data_start + at, std::min(kSampleBytes, data_bytes - at)));
  }
}

/// shard file name -> names of its tensors, from model.safetensors.index.json.
std::map<std::string, std::vector<std::string>> read_index(File& file) {
  const int64_t size = file.size();
  if (size > kMaxIndexBytes) fail_user("{}: {} bytes are too many for an index of shards", file.path(), size);
  const nlohmann::json json = parse_checked_json(read_text(file, 0, size), 8, file.path(), "the index");
  auto weight_map = json.is_object() ? json.find("weight_map") : json.end();
  if (weight_map == json.end() || !weight_map->is_object())
    fail_user("{}: the index has no weight_map; the file is broken, fetch it again", file.path());
  std::map<std::string, std::vector<std::string>> index;
  for (const auto& [name, shard] : weight_map->items()) {
    const std::string shard_name = shard.is_string() ? shard.get<std::string>() : "";
    // A shard lies beside its index, and nowhere else.
    if (shard_name.empty() || shard_name == "." || shard_name == ".." || shard_name.find('/') != std::string::npos ||
        shard_name.find('\0') != std::string::npos)
      fail_user("{}: the shard of tensor '{}' is no file name; the file is broken, fetch it again", file.path(), printable(name));
    index[shard_name].push_back(name);
  }
  if (index.empty()) fail_user("{}: the weight_map is empty; the file is broken, fetch it again", file.path());
  return index;
}

}  // namespace

Checkpoint Checkpoint::open(const std::string& directory) {
  FileSystem file_system;
  return open(directory, file_system);
}

Checkpoint Checkpoint::open(const std::string& directory, FileSystem& file_system) {
  const fs::path root(directory);
  std::error_code ignored;
  if (!fs::is_directory(root, ignored))
    fail_user("{} is no directory; --model takes a folder as Hugging Face lays it out", directory);
  std::map<std::string, std::vector<std::string>> shards;
  if (is_there(root / "model.safetensors")) {
    shards["model.safetensors"];
  } else if (const fs::path index = root / "model.safetensors.index.json"; is_there(index)) {
    shards = read_index(*file_system.open(index.string(), FileMode::kRead));
  } else if (is_there(root / "pytorch_model.bin") || is_there(root / "pytorch_model.bin.index.json")) {
    fail_user("{} holds its weights as pytorch_model.bin only; convert them to safetensors first (transformers: "
              "model.save_pretrained(DIR, safe_serialization=True))", directory);
  } else {
    fail_user("{} holds neither model.safetensors nor model.safetensors.index.json; fetch the checkpoint again", directory);
  }

  Checkpoint checkpoint;
  Fingerprint fingerprint;
  for (const auto& [shard, names] : shards) {
    const std::string path = (root / shard).string();
    if (!is_there(path))
      fail_user("{} is missing: the index says that {} tensors ('{}', ...) are in it; fetch it", path, names.size(),
                printable(names.empty() ? "" : names.front()));
    const std::shared_ptr<File> file = file_system.open(path, FileMode::kRead);
    const std::string header = read_header(*file);
    const auto data_start = 8 + static_cast<int64_t>(header.size());
    std::vector<std::string> skipped;
    auto tensors = parse_safetensors_header(header, data_start, file->size(), path, &skipped);
    const std::unordered_set<std::string> unusable(skipped.begin(), skipped.end());
    for (const std::string& name : names)
      if (!tensors.contains(name) && !unusable.contains(name))
        fail_user("{}: tensor '{}' is missing; the index says it is in this shard: fetch both again", path, printable(name));
    fingerprint.add(shard);
    fingerprint.add(std::to_string(file->size()));
    fingerprint.add(header);
    add_samples(fingerprint, *file, data_start);
    for (auto& [name, location] : tensors) {
      location.file = static_cast<int>(checkpoint.files_.size());
      if (!checkpoint.tensors_.emplace(name, std::move(location)).second)
        fail_user("{}: tensor '{}' is in another shard too; the checkpoint is broken, fetch it again", path, printable(name));
    }
    checkpoint.files_.push_back(path);
  }
  checkpoint.fingerprint_ = fingerprint.hex();
  return checkpoint;
}

Checkpoint Checkpoint::imagined(const std::vector<TensorToWrite>& tensors, const std::string& file_name) {
  Checkpoint checkpoint;
  checkpoint.files_ = {file_name};
  int64_t offset = 0;
  for (const TensorToWrite& tensor : tensors) {
    int64_t elements = 1;
    for (int64_t size : tensor.shape) elements *= size;
    const int64_t bytes = size_bytes(tensor.dtype, elements);
    checkpoint.tensors_[tensor.name] = {tensor.dtype, tensor.shape, 0, offset, bytes};
    offset += bytes;
  }
  return checkpoint;
}

const TensorLocation* Checkpoint::find(const std::string& name) const {
  auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

}  // namespace flexgen
