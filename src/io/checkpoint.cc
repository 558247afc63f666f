#include "io/checkpoint.h"

#include <algorithm>
#include <bit>
#include <cctype>
#include <filesystem>
#include <set>
#include <string_view>
#include <unordered_set>

#include "base/error.h"
#include "base/units.h"
#include "io/checked_json.h"
#include "io/file.h"
#include "io/gguf.h"
#include "io/lfs_pointer.h"
#include "io/weight_files.h"
#include "io/whole_file.h"

namespace flexgen {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

constexpr int64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit

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

std::string read_text(File& file, int64_t offset, int64_t bytes) {
  std::string text(static_cast<size_t>(bytes), '\0');
  file.read(offset, {reinterpret_cast<std::byte*>(text.data()), text.size()});
  return text;
}

/// What a file is that was saved under the name of weights; empty if its first bytes do not tell.
std::string known_form(std::string_view start) {
  using namespace std::string_view_literals;
  static constexpr std::pair<std::string_view, std::string_view> kForms[]{
      {"GGUF", "a GGUF; name it so (.gguf), and give the file itself as the model"},
      {"PK\x03\x04", "what PyTorch saves (or another zip archive); convert it with transformers: from_pretrained(...).save_pretrained(NEW_FOLDER)"},
      {"\x80\x02", "a pickle, as older PyTorch saves; convert it with transformers: from_pretrained(...).save_pretrained(NEW_FOLDER)"},
      {"\x1f\x8b", "compressed (gzip); unpack it"},
      {"\x28\xb5\x2f\xfd", "compressed (zstd); unpack it"},
      {"\x89HDF", "an HDF5 file (Keras); fetch the safetensors of the same model"},
      {"/annex/objects/", "a pointer of git-annex; get the file itself (git annex get)"},
      {"<", "a web page: an error or a log-in page was saved in place of the weights; fetch them again"},
      {"{", "JSON: an error message was saved in place of the weights, or an index; fetch them again"},
      {"\0\0\0\0\0\0\0\0"sv, "zeros at its beginning: it was not written to its end; fetch it again"}};
  for (const auto& [magic, form] : kForms)
    if (start.starts_with(magic)) return std::string(form);
  return "";
}

/// The JSON text of a safetensors file.
std::string read_header(File& file) {
  const int64_t size = file.size();
  if (size < 8) fail_user("{}: {} bytes are no safetensors file; it is truncated, fetch it again", file.path(), size);
  uint64_t length = 0;
  file.read(0, {reinterpret_cast<std::byte*>(&length), sizeof length});
  const std::string start = read_text(file, 0, std::min<int64_t>(size, 64));
  if (is_lfs_pointer(start)) refuse_lfs_pointer(file.path());
  // Before '{' there are eight bytes in a safetensors file.
  if (const std::string form = start.size() > 8 && start[8] == '{' ? "" : known_form(start); !form.empty())
    fail_user("{} is no safetensors file but {}", file.path(), form);
  if (length > static_cast<uint64_t>(kMaxHeaderBytes))
    fail_user("{}: a header of {} bytes, where the safetensors format allows {}; it is of another format or broken", file.path(), length, kMaxHeaderBytes);
  if (length > static_cast<uint64_t>(size - 8))
    fail_user("{}: a header of {} bytes in a file of {}; it is truncated, fetch it again", file.path(), length, size);
  return read_text(file, 8, static_cast<int64_t>(length));
}

/// A few sectors spread over the data. Nearly all of them are of experts where there are some.
void add_samples(Fingerprint& fingerprint, File& file, int64_t data_start) {
  constexpr int64_t kSamples = 16, kSampleBytes = 1024;
  const int64_t data_bytes = file.size() - data_start;
  for (int64_t i = 0; i < kSamples; ++i) {
    const int64_t at = data_bytes / kSamples * i;
    fingerprint.add(read_text(file, data_start + at, std::min(kSampleBytes, data_bytes - at)));
  }
}

/// One of many tensors that are alike, of which samples over the data meet enough.
bool is_of_one_expert(std::string_view name) {
  constexpr std::string_view kExperts = ".experts.";
  const size_t at = name.find(kExperts);
  return at != std::string_view::npos && at + kExperts.size() < name.size() && std::isdigit(static_cast<unsigned char>(name[at + kExperts.size()])) != 0;
}

/// The middle of a tensor: fine-tunes may have changed those of attention alone, say.
void add_sample_of(Fingerprint& fingerprint, File& file, std::string_view name, int64_t offset, int64_t bytes) {
  constexpr int64_t kSampleBytes = 256;
  if (bytes > 0 && !is_of_one_expert(name))
    fingerprint.add(read_text(file, offset + std::max<int64_t>(0, (bytes - kSampleBytes) / 2), std::min(kSampleBytes, bytes)));
}

}  // namespace

Checkpoint Checkpoint::open(const std::string& directory) {
  FileSystem file_system;
  return open(directory, file_system);
}

Checkpoint Checkpoint::open(const std::string& directory, FileSystem& file_system) {
  const fs::path root(directory);
  std::error_code ignored;
  if (!file_is_there(directory)) fail_user("there is no directory {}; --model takes a folder as Hugging Face lays it out", directory);
  if (!fs::is_directory(root, ignored)) fail_user("{} is no directory; --model takes a folder as Hugging Face lays it out", directory);
  const WeightFiles shards = find_weight_files(root, file_system);

  Checkpoint checkpoint;
  Fingerprint fingerprint;
  std::unordered_set<std::string> in_index;
  for (const auto& [shard, names] : shards) {
    const std::string path = (root / shard).string();
    if (!file_is_there(path))
      fail_user("{} is missing: the index says that {} tensors ('{}', ...) are in it; fetch it", path, names.size(),
                printable(names.empty() ? "" : names.front()));
    const std::shared_ptr<File> file = file_system.open(path, FileMode::kRead);
    checkpoint.stamps_.push_back(FileStamp::of(file->descriptor(), path));
    const std::string header = read_header(*file);
    const auto data_start = 8 + static_cast<int64_t>(header.size());
    std::map<std::string, TensorLocation> coded;
    auto tensors = parse_safetensors_header(header, data_start, file->size(), path, &coded);
    // The index may promise what no shard holds, such as a tied head: whoever needs it says that it is missing.
    const std::unordered_set<std::string> promised(names.begin(), names.end());
    fingerprint.add(shard);
    fingerprint.add(std::to_string(file->size()));
    fingerprint.add(header);
    add_samples(fingerprint, *file, data_start);
    for (const auto* found : {&tensors, &coded})
      for (const auto& [name, location] : *found) add_sample_of(fingerprint, *file, name, location.offset, location.bytes);
    const auto add = [&](std::map<std::string, TensorLocation>& found, std::map<std::string, TensorLocation>& all) {
      for (auto& [name, location] : found) {
        location.file = static_cast<int>(checkpoint.files_.size());
        auto [place, fresh] = all.emplace(name, location);
        if (fresh) {
          if (promised.contains(name)) in_index.insert(name);
        } else if (promised.contains(name)) {  // the index says which of two is meant
          place->second = location;
          in_index.insert(name);
        } else if (!in_index.contains(name)) {
          fail_user("{}: tensor '{}' is in another shard too; the checkpoint is broken, fetch it again", path, printable(name));
        }
      }
    };
    add(tensors, checkpoint.tensors_);
    add(coded, checkpoint.coded_);
    checkpoint.files_.push_back(path);
  }
  checkpoint.fingerprint_ = fingerprint.hex();
  return checkpoint;
}

Checkpoint Checkpoint::open_gguf(const std::string& path, nlohmann::json* metadata) {
  Checkpoint checkpoint;
  Fingerprint fingerprint;
  const std::vector<std::string> parts = gguf_parts(path);
  for (const std::string& part : parts) {
    const std::shared_ptr<File> file = File::open(part, FileMode::kRead);
    checkpoint.stamps_.push_back(FileStamp::of(file->descriptor(), part));
    GgufHead head = read_gguf_head(*file, checkpoint.files_.empty());
    if (const int64_t count = gguf_id_or(head.metadata, "split.count", 1, part); std::max<int64_t>(1, count) != std::ssize(parts))
      fail_user("{}: it says that the model has {} parts, and its name says {}; keep the names that the parts came with", part, count, parts.size());
    if (const int64_t number = gguf_id_or(head.metadata, "split.no", 0, part); number != std::ssize(checkpoint.files_))
      fail_user("{}: it says that it is part {}, and its name says {}; keep the names that the parts came with", part, number + 1,
                checkpoint.files_.size() + 1);
    if (checkpoint.files_.empty()) *metadata = std::move(head.metadata);
    fingerprint.add(fs::path(part).filename().string());
    fingerprint.add(std::to_string(file->size()));
    fingerprint.add(read_text(*file, 0, std::min(head.data_start, file->size())));
    if (file->size() > head.data_start) add_samples(fingerprint, *file, head.data_start);
    for (const GgufTensor& tensor : head.tensors) {
      add_sample_of(fingerprint, *file, tensor.name, tensor.offset, tensor.bytes);
      if (!checkpoint.tensors_
               .try_emplace(tensor.name, TensorLocation{tensor.dtype, tensor.shape, static_cast<int>(checkpoint.files_.size()), tensor.offset, tensor.bytes})
               .second)
        fail_user("{}: tensor '{}' is in another part too; the model is broken, fetch it again", part, printable(tensor.name));
    }
    checkpoint.files_.push_back(part);
  }
  checkpoint.fingerprint_ = fingerprint.hex();
  return checkpoint;
}

std::vector<TensorLocation> slices_of(const TensorLocation& tensor) {
  FLEXGEN_CHECK(tensor.shape.size() > 1 && tensor.shape[0] > 0, "slices of a tensor of {} dimensions", tensor.shape.size());
  TensorLocation slice = tensor;
  slice.shape.erase(slice.shape.begin());
  slice.bytes = tensor.bytes / tensor.shape[0];
  std::vector<TensorLocation> slices(static_cast<size_t>(tensor.shape[0]), slice);
  for (size_t i = 0; i < slices.size(); ++i) slices[i].offset += static_cast<int64_t>(i) * slice.bytes;
  return slices;
}

void Checkpoint::replace_each(const std::function<std::vector<NamedTensor>(const std::string& name, const TensorLocation& at)>& others) {
  std::map<std::string, TensorLocation> replaced;
  for (const auto& [name, location] : tensors_)
    for (NamedTensor& other : others(name, location))
      if (!replaced.emplace(other.name, std::move(other.at)).second)
        fail_user("{}: two tensors are '{}'; the file is broken, fetch it again", files_[static_cast<size_t>(location.file)], printable(other.name));
  tensors_ = std::move(replaced);
}

Checkpoint Checkpoint::imagined(const std::vector<TensorToWrite>& tensors, const std::string& file_name) {
  Checkpoint checkpoint;
  checkpoint.files_ = {file_name};
  int64_t offset = 0;
  for (const TensorToWrite& tensor : tensors) {
    const int64_t bytes = bytes_of(tensor);
    if (is_quantized(tensor.dtype)) checkpoint.coded_[tensor.name] = {tensor.dtype, tensor.shape, 0, offset, bytes, "U8"};
    else checkpoint.tensors_[tensor.name] = {tensor.dtype, tensor.shape, 0, offset, bytes};
    offset += bytes;
  }
  return checkpoint;
}

const TensorLocation* Checkpoint::find(const std::string& name) const {
  auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

const TensorLocation* Checkpoint::find_coded(const std::string& name) const {
  auto found = coded_.find(name);
  return found == coded_.end() ? nullptr : &found->second;
}

}  // namespace flexgen
