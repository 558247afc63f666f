#include "io/checkpoint.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "base/error.h"
#include "base/units.h"
#include "io/file.h"

namespace flexgen {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr int64_t kMaxHeader = 100'000'000;  // the format's own limit

/// FNV-1a over two offsets: 128 bits that tell checkpoints apart (no defence against forgers).
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

std::string read_header(File& file, int64_t* data_start) {
  int64_t size = file.size();
  uint64_t length = 0;
  if (size < 8) fail_user("{}: {} bytes are no safetensors file; it is truncated, fetch it again", file.path(), size);
  file.read(0, {reinterpret_cast<std::byte*>(&length), 8});
  if (length > static_cast<uint64_t>(std::min(kMaxHeader, size - 8)))
    fail_user("{}: a header of {} bytes in a file of {}: this is no safetensors file, or it is truncated", file.path(),
              length, size);
  std::string header(length, '\0');
  file.read(8, {reinterpret_cast<std::byte*>(header.data()), header.size()});
  *data_start = 8 + static_cast<int64_t>(length);
  return header;
}

/// tensor name -> shard file name, from model.safetensors.index.json.
std::map<std::string, std::string> read_index(const fs::path& path) {
  std::ifstream in(path);
  Json json = Json::parse(in, nullptr, false);
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object())
    fail_user("{}: no JSON object with a weight_map; fetch the file again", path.string());
  std::map<std::string, std::string> index;
  for (const auto& [name, shard] : json["weight_map"].items()) {
    if (!shard.is_string() || shard.get<std::string>().find('/') != std::string::npos)
      fail_user("{}: the shard of '{}' is no file name", path.string(), name);
    index[name] = shard.get<std::string>();
  }
  return index;
}

}  // namespace

Checkpoint Checkpoint::open(const std::string& directory) {
  const fs::path root(directory);
  if (!fs::is_directory(root))
    fail_user("{} is no directory; --model takes a folder as Hugging Face lays it out", directory);
  std::map<std::string, std::string> index;
  std::set<std::string> shards;
  if (fs::exists(root / "model.safetensors")) {
    shards.insert("model.safetensors");
  } else if (fs::exists(root / "model.safetensors.index.json")) {
    index = read_index(root / "model.safetensors.index.json");
    for (const auto& [name, shard] : index) shards.insert(shard);
  } else if (fs::exists(root / "pytorch_model.bin") || fs::exists(root / "pytorch_model.bin.index.json")) {
    fail_user("{} holds pytorch_model.bin only; convert it to safetensors first (transformers: "
              "model.save_pretrained(DIR, safe_serialization=True))", directory);
  } else {
    fail_user("{} holds neither model.safetensors nor model.safetensors.index.json", directory);
  }

  Checkpoint checkpoint;
  Fingerprint fingerprint;
  for (const std::string& shard : shards) {
    const std::string path = (root / shard).string();
    if (!fs::exists(path)) fail_user("{} is missing: the index names it as a shard; fetch it", path);
    std::shared_ptr<File> file = File::open(path, FileMode::kRead);
    int64_t data_start = 0;
    std::string header = read_header(*file, &data_start);
    auto tensors = parse_safetensors_header(header, data_start, file->size(), path);
    fingerprint.add(shard);
    fingerprint.add(std::to_string(file->size()));
    fingerprint.add(header);
    for (auto& [name, location] : tensors) {
      location.file = static_cast<int>(checkpoint.files_.size());
      if (!checkpoint.tensors_.emplace(name, std::move(location)).second)
        fail_user("{}: tensor '{}' is in another shard too", path, name);
    }
    for (const auto& [name, owner] : index) {
      if (owner == shard && header.find(Json(name).dump()) == std::string::npos)
        fail_user("{}: tensor '{}' is missing; the index says it is in this shard", path, name);
    }
    checkpoint.files_.push_back(path);
  }
  checkpoint.fingerprint_ = fingerprint.hex();
  return checkpoint;
}

const TensorLocation* Checkpoint::find(const std::string& name) const {
  auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

}  // namespace flexgen
