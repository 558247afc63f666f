#include "model/prepared_weights.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <future>
#include <optional>
#include <set>

#include "base/error.h"
#include "base/thread.h"
#include "base/log.h"
#include "base/units.h"
#include "io/aligned_buffer.h"
#include "io/checkpoint.h"
#include "io/directory_lock.h"

namespace flexgen {
namespace {

namespace fs = std::filesystem;

std::string prepared_folder(const Model& model, const PrepareOptions& options) {
  const bool mse = is_quantized(options.dtype) && options.range == GroupRange::kMse;
  return fmt::format("flexgen-{}-{}{}", model.fingerprint(), dtype_name(options.dtype), mse ? "-mse" : "");
}

/// What one file holds: the matrices that a layer is the first to read.
struct Part {
  std::string path;
  std::vector<int> weights;  ///< indices into Model::weights()
};

std::vector<Part> parts_of(const Model& model, const fs::path& directory) {
  std::vector<Part> parts;
  std::set<int> seen;
  for (size_t layer = 0; layer < model.layers().size(); ++layer) {
    Part part{(directory / fmt::format("part-{:05}.safetensors", model.layers_before() + static_cast<int64_t>(layer))).string(), {}};
    for (const WeightUse& use : model.layers()[layer].uses)
      if (!model.weights()[static_cast<size_t>(use.weight)].always_resident && seen.insert(use.weight).second) part.weights.push_back(use.weight);
    if (!part.weights.empty()) parts.push_back(std::move(part));
  }
  return parts;
}

std::vector<TensorToWrite> tensors_of(const Model& model, const Part& part, DType dtype) {
  std::vector<TensorToWrite> tensors;
  for (int index : part.weights) {
    const WeightSpec& weight = model.weights()[static_cast<size_t>(index)];
    tensors.push_back({weight.name, dtype, {weight.rows, weight.cols}});
  }
  return tensors;
}

/// Whether the part is there, whole, and what it should be.
bool is_ready(const Part& part, const std::vector<TensorToWrite>& tensors, FileSystem& files) {
  std::error_code ignored;
  if (!fs::exists(part.path, ignored)) return false;
  int64_t data_bytes = 0;
  const std::string wanted = safetensors_head(tensors, &data_bytes);
  std::shared_ptr<File> file = files.open(part.path, FileMode::kRead);
  if (file->size() != static_cast<int64_t>(wanted.size()) + data_bytes) return false;
  std::string head(wanted.size(), '\0');
  file->read(0, {reinterpret_cast<std::byte*>(head.data()), head.size()});
  return head == wanted;
}

/// Reads the rows of some weights in order, a piece ahead of whoever takes them.
class RowReader {
 public:
  struct Piece {
    int weight = 0;
    int64_t first_row = 0, num_rows = 0;
  };
  RowReader(const Model& model, FileSystem& files, const std::vector<int>& weights, int64_t piece_bytes)
      : model_(model), buffers_{AlignedBuffer(piece_bytes), AlignedBuffer(piece_bytes)} {
    for (const std::string& path : model.files()) files_.push_back(files.open(path, FileMode::kReadDirect));
    for (int index : weights) {
      const WeightSpec& weight = spec(index);
      const int64_t rows = std::max<int64_t>(1, piece_bytes / weight.row_bytes());
      FLEXGEN_CHECK(weight.row_bytes() <= piece_bytes, "a row of {} bytes", weight.row_bytes());
      for (int64_t row = 0; row < weight.rows; row += rows) pieces_.push_back({index, row, std::min(rows, weight.rows - row)});
    }
    start(0);
  }
  ~RowReader() {
    if (ahead_.valid()) ahead_.wait();
  }
  const WeightSpec& spec(int index) const { return model_.weights()[static_cast<size_t>(index)]; }

  /// The next piece and its bytes, which stay until the next call.
  std::optional<std::pair<Piece, const std::byte*>> next() {
    if (at_ == pieces_.size()) return std::nullopt;
    ahead_.get();
    const size_t now = at_++;
    start(at_);
    return std::pair(pieces_[now], static_cast<const std::byte*>(buffers_[now % 2].data()));
  }

 private:
  void start(size_t number) {
    if (number == pieces_.size()) return;
    ahead_ = start_async("reading ahead", [this, number] {
      const Piece& piece = pieces_[number];
      const WeightSpec& weight = spec(piece.weight);
      files_[static_cast<size_t>(weight.file)]->read(weight.offset + piece.first_row * weight.row_bytes(),
                                                     {buffers_[number % 2].data(), static_cast<size_t>(piece.num_rows * weight.row_bytes())});
    });
  }

  const Model& model_;
  std::vector<std::shared_ptr<File>> files_;
  AlignedBuffer buffers_[2];
  std::vector<Piece> pieces_;
  size_t at_ = 0;
  std::future<void> ahead_;
};

}  // namespace

void use_prepared_weights(Model& model, Kernels& kernels, FileSystem& files, const PrepareOptions& options) {
  const fs::path directory = fs::path(options.directory) / prepared_folder(model, options);
  std::error_code failed;
  fs::create_directories(directory, failed);
  if (failed) fail_io("cannot create {}: {}", directory.string(), failed.message());

  const std::vector<Part> parts = parts_of(model, directory);
  int64_t total = 0, done = 0, widest = 0, made = 0;
  const auto start = std::chrono::steady_clock::now();
  for (const Part& part : parts)
    for (int index : part.weights) {
      const WeightSpec& weight = model.weights()[static_cast<size_t>(index)];
      total += weight.bytes();
      widest = std::max(widest, weight.row_bytes());
    }
  // Two pieces that are read, one that is converted, and the writer's own 16 MiB.
  const int64_t piece_bytes = round_up(std::max(widest, std::min<int64_t>(8 * kMiB, options.memory_bytes / 8)), kDirectAlignment);
  std::vector<std::byte> converted(static_cast<size_t>(2 * piece_bytes));

  std::vector<std::pair<int, WeightSpec>> replaced;
  std::vector<std::string> paths;
  for (const Part& part : parts) {
    const std::vector<TensorToWrite> tensors = tensors_of(model, part, options.dtype);
    const DirectoryLock lock(directory.string());  // replicas and shards want the same parts: one that another is making is ready then
    if (is_ready(part, tensors, files)) {
      for (int index : part.weights) done += model.weights()[static_cast<size_t>(index)].bytes();
    } else {
      SafetensorsWriter writer(part.path, tensors, &files);
      RowReader reader(model, files, part.weights, piece_bytes);
      while (auto next = reader.next()) {
        const auto& [piece, rows] = *next;
        const WeightSpec& weight = reader.spec(piece.weight);
        if (!kernels.convert_rows(rows, weight.dtype, piece.num_rows, weight.cols, options.dtype, options.range, converted.data()))
          fail_user("{}: the tensor '{}' holds infinities or NaN in the rows from {} on; it has no {} form", model.files()[static_cast<size_t>(weight.file)],
                    weight.name, piece.first_row, dtype_name(options.dtype));
        writer.append(converted.data(), piece.num_rows * row_bytes(options.dtype, weight.cols));
        done += piece.num_rows * weight.row_bytes();
        made += piece.num_rows * weight.row_bytes();
        if (options.progress) options.progress(done, total);
      }
      writer.close();
    }
    int64_t ignored = 0;
    auto offset = static_cast<int64_t>(safetensors_head(tensors, &ignored).size());
    for (int index : part.weights) {
      WeightSpec spec = model.weights()[static_cast<size_t>(index)];
      spec.dtype = options.dtype;
      spec.file = static_cast<int>(paths.size());
      spec.offset = offset;
      offset += spec.bytes();
      replaced.emplace_back(index, std::move(spec));
    }
    paths.push_back(part.path);
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (made > 0)
    spdlog::info("made {} weights of {} of the checkpoint in {:.1f} s ({:.2f} GB/s); they are kept in {}", dtype_name(options.dtype), format_bytes(made), seconds,
                 static_cast<double>(made) / seconds / 1e9, directory.string());
  model.replace_weights(replaced, paths);
}

void imagine_prepared_weights(Model& model, DType dtype) {
  std::vector<std::pair<int, WeightSpec>> replaced;
  int64_t offset = 0;
  for (size_t i = 0; i < model.weights().size(); ++i) {
    WeightSpec weight = model.weights()[i];
    if (weight.always_resident) continue;
    weight.dtype = dtype;
    weight.file = 0;
    weight.offset = offset;
    offset += weight.bytes();
    replaced.emplace_back(static_cast<int>(i), std::move(weight));
  }
  model.replace_weights(replaced, {"(not prepared yet)"});
}

}  // namespace flexgen
