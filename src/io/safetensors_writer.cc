// SafetensorsWriter: the caller fills one buffer while the disk writes the others.

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cctype>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <mutex>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/units.h"
#include "io/aligned_buffer.h"
#include "io/async_disk.h"
#include "io/checked_json.h"
#include "io/checkpoint.h"
#include "io/partial_file.h"
#include "io/transfer.h"

namespace flexgen {
namespace {

std::atomic<int64_t> bytes_written = 0;  // of files that are finished

FileSystem& real_files() {
  static FileSystem files;
  return files;
}

/// The header, filled up with blanks so that the data start at a sector, and the bytes of data it describes.
std::string header_text(const std::vector<TensorToWrite>& tensors, int64_t* data_bytes, const std::map<std::string, std::string>& metadata) {
  std::string text = "{";
  if (!metadata.empty()) text += "\"__metadata__\":" + nlohmann::json(metadata).dump();
  std::set<std::string_view> names;
  int64_t at = 0;
  for (const TensorToWrite& tensor : tensors) {
    FLEXGEN_CHECK(names.insert(tensor.name).second, "two tensors '{}'", tensor.name);
    for (int64_t size : tensor.shape) FLEXGEN_CHECK(size >= 0, "size {}", size);
    std::string dtype = "U8";
    std::vector<int64_t> shape = tensor.shape;
    if (is_quantized(tensor.dtype)) {  // the format has no such types: rows of bytes
      FLEXGEN_CHECK(shape.size() >= 2, "'{}' has {} dimensions", tensor.name, shape.size());
      shape.back() = row_bytes(tensor.dtype, shape.back());
    } else {
      dtype = dtype_name(tensor.dtype);
      std::transform(dtype.begin(), dtype.end(), dtype.begin(), [](unsigned char c) { return std::toupper(c); });
      if (!tensor.stored_as.empty()) dtype = tensor.stored_as;
    }
    const int64_t bytes = bytes_of(tensor);
    text += fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", text.size() > 1 ? "," : "", nlohmann::json(tensor.name).dump(),
                        dtype, fmt::join(shape, ","), at, at + bytes);
    at += bytes;
  }
  text += "}";
  text.resize(static_cast<size_t>(round_up(8 + static_cast<int64_t>(text.size()), kDirectAlignment) - 8), ' ');
  *data_bytes = at;
  return text;
}

}  // namespace

int64_t bytes_of(const TensorToWrite& tensor) {
  const auto product = [](auto begin, auto end) { return std::accumulate(begin, end, int64_t{1}, std::multiplies<>()); };
  if (!is_quantized(tensor.dtype)) return size_bytes(tensor.dtype, product(tensor.shape.begin(), tensor.shape.end()));
  return product(tensor.shape.begin(), tensor.shape.end() - 1) * row_bytes(tensor.dtype, tensor.shape.back());
}

std::string safetensors_head(const std::vector<TensorToWrite>& tensors, int64_t* data_bytes, const std::map<std::string, std::string>& metadata) {
  const std::string text = header_text(tensors, data_bytes, metadata);
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + text;
}

struct SafetensorsWriter::State {
  static constexpr int64_t kBufferBytes = 4 * kMiB;

  struct Buffer {
    AlignedBuffer memory{kBufferBytes};
    bool busy = false;
  };

  PartialFile partial;
  const std::string& path = partial.path();
  const std::shared_ptr<File>& file = partial.file();
  std::array<Buffer, 4> buffers;
  size_t current = 0;
  int64_t filled = 0;     ///< bytes in the current buffer
  int64_t submitted = 0;  ///< bytes given to the disk
  int64_t total = 0;
  bool finished = false;
  std::mutex mutex;
  std::condition_variable changed;
  std::exception_ptr error;
  std::unique_ptr<AsyncDisk> disk;  ///< last: drained before the buffers go

  State(const std::string& path, FileSystem& files) : partial(path, files) {}

  void wait_until_free(Buffer& buffer) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return !buffer.busy; });
    if (error) std::rethrow_exception(error);
  }
  void submit_current() {
    Buffer& buffer = buffers[current];
    int64_t bytes = filled;
    if (file->direct()) {  // whole sectors; the file is cut to size at the end
      bytes = round_up(filled, kDirectAlignment);
      std::memset(buffer.memory.data() + filled, 0, static_cast<size_t>(bytes - filled));
    }
    {
      std::lock_guard lock(mutex);
      buffer.busy = true;
    }
    disk->submit({file, true, submitted, buffer.memory.data(), bytes, [this, &buffer](std::exception_ptr failure) {
                    std::lock_guard lock(mutex);
                    buffer.busy = false;
                    if (failure && !error) error = failure;
                    changed.notify_all();
                  }});
    submitted += filled;
    filled = 0;
    current = (current + 1) % buffers.size();
    wait_until_free(buffers[current]);
  }
  void append(const std::byte* data, int64_t bytes) {
    FLEXGEN_CHECK(bytes >= 0 && submitted + filled + bytes <= total, "{}: {} bytes more than the {} announced", path, submitted + filled + bytes - total,
                  total);
    while (bytes > 0) {
      const int64_t size = std::min(bytes, kBufferBytes - filled);
      std::memcpy(buffers[current].memory.data() + filled, data, static_cast<size_t>(size));
      filled += size;
      data += size;
      bytes -= size;
      if (filled == kBufferBytes) submit_current();
    }
  }
  void finish() {
    if (finished) return;
    FLEXGEN_CHECK(submitted + filled == total, "{}: {} of {} bytes", path, submitted + filled, total);
    if (filled > 0) submit_current();
    for (Buffer& buffer : buffers) wait_until_free(buffer);
    const int descriptor = file->descriptor();
    if (ftruncate(descriptor, total) != 0) throw file_error(path, fmt::format("cut it to {} bytes", total), errno);
    if (fsync(descriptor) != 0) throw file_error(path, "write it to the disk", errno);
    finished = true;
    bytes_written += total;
  }
};

SafetensorsWriter::SafetensorsWriter(const std::string& path, const std::vector<TensorToWrite>& tensors, FileSystem* file_system,
                                     const std::map<std::string, std::string>& metadata)
    : state_(std::make_unique<State>(path, file_system ? *file_system : real_files())) {
  State& state = *state_;
  int64_t data_bytes = 0;
  const std::string head = safetensors_head(tensors, &data_bytes, metadata);
  state.total = static_cast<int64_t>(head.size()) + data_bytes;
  state.file->preallocate(state.total);
  state.disk = AsyncDisk::make({});
  append(head.data(), static_cast<int64_t>(head.size()));
}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::append(const void* data, int64_t bytes) { state_->append(static_cast<const std::byte*>(data), bytes); }

void SafetensorsWriter::close() {
  state_->finish();
  state_->partial.replace();
}

bool SafetensorsWriter::close_if_new() {
  state_->finish();
  return state_->partial.take_free_name();
}

int64_t checkpoint_bytes_written() { return bytes_written; }

}  // namespace flexgen
