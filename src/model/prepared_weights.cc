#include "model/prepared_weights.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <future>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/open_files.h"
#include "base/thread.h"
#include "base/units.h"
#include "io/aligned_buffer.h"
#include "io/checkpoint.h"
#include "io/directory_lock.h"
#include "io/partial_file.h"
#include "io/transfer.h"
#include "model/decoded_rows.h"

namespace flexgen {
namespace {

namespace fs = std::filesystem;

/// The checkpoint's files as they were when it was opened: size and time of writing (ns) of each. A fingerprint has samples alone, and misses a few rows that were edited in place.
std::string source_stamps(const Model& model) {
  std::string text;
  for (const FileStamp& stamp : model.stamps()) text += fmt::format("{}{}@{}", text.empty() ? "" : " ", stamp.size, stamp.written_ns);
  return text;
}

std::string prepared_folder(const Model& model, const PrepareOptions& options) {
  // Copies of a checkpoint with times of their own, on machines that share a folder, would else make each other's files anew.
  const std::string source = fmt::format("{}-{:08x}", model.fingerprint(), SectorSummer::seed_of(source_stamps(model)) & 0xffffffff);
  if (!options.dtype) return fmt::format("flexgen-{}-turned", source);
  const bool mse = is_quantized(*options.dtype) && options.range == GroupRange::kMse;
  // What GPTQ's zero points mean is said by config.json alone.
  const bool second_gptq = std::any_of(model.weights().begin(), model.weights().end(), [](const WeightSpec& weight) {
    return (weight.dtype == DType::kGptq4 || weight.dtype == DType::kGptq8) && !weight.codes->format.zeros_less_one;
  });
  return fmt::format("flexgen-{}-{}{}{}", source, dtype_name(*options.dtype), mse ? "-mse" : "", second_gptq ? "-gptq2" : "");
}

bool is_made(const WeightSpec& weight, std::optional<DType> dtype) { return !weight.always_resident && (dtype || weight.turned_of > 0); }

/// What one file holds: the matrices that a layer is the first to read.
struct Part {
  std::string path;
  std::vector<int> weights;  ///< indices into Model::weights()
};

std::vector<Part> parts_of(const Model& model, std::optional<DType> dtype, const fs::path& directory) {
  std::vector<Part> parts;
  std::set<int> seen;
  for (size_t layer = 0; layer < model.layers().size(); ++layer) {
    Part part{(directory / fmt::format("part-{:05}.safetensors", model.layers_before() + static_cast<int64_t>(layer))).string(), {}};
    for (const WeightUse& use : model.layers()[layer].uses)
      if (is_made(model.weights()[static_cast<size_t>(use.weight)], dtype) && seen.insert(use.weight).second) part.weights.push_back(use.weight);
    if (!part.weights.empty()) parts.push_back(std::move(part));
  }
  return parts;
}

/// What the file of a part must look like: its matrices, and then their sums.
struct Form {
  std::vector<TensorToWrite> tensors;
  std::map<std::string, std::string> metadata;  ///< what it is made from: the sums depend on the head, so no other model's data pass under it
  std::string head;
  int64_t file_bytes = 0;
  SummedData summed;
};

Form form_of(const Model& model, const Part& part, const PrepareOptions& options) {
  Form form;
  for (int index : part.weights) {
    const WeightSpec& weight = model.weights()[static_cast<size_t>(index)];
    const DType dtype = options.dtype.value_or(weight.dtype);
    form.tensors.push_back({weight.name, dtype, {weight.rows, weight.cols}});
    form.summed.bytes += weight.rows * row_bytes(dtype, weight.cols);
  }
  form.tensors.push_back({"flexgen.sector_sums", DType::kF32, {SectorSummer::words(form.summed.bytes)}, "U32"});
  form.metadata = {{"made_by", prepared_folder(model, options)}, {"made_of", source_stamps(model)}};
  int64_t data_bytes = 0;
  form.head = safetensors_head(form.tensors, &data_bytes, form.metadata);
  form.summed.start = static_cast<int64_t>(form.head.size());
  form.summed.seed = SectorSummer::seed_of(form.head);
  form.file_bytes = form.summed.start + data_bytes;
  return form;
}

/// What has the name of a part. Only what was seen to be wrong may be removed: another machine may finish a part that was missing.
enum class PartState { kMissing, kWrong, kReady };

/// Ready: it has the size and head that it should have. Its data are checked as they are read.
PartState state_of(const Part& part, const Form& form, FileSystem& files) {
  std::error_code failed;
  if (!fs::exists(fs::symlink_status(part.path, failed))) return PartState::kMissing;
  if (!fs::is_regular_file(part.path, failed)) return PartState::kWrong;
  std::shared_ptr<File> file = files.open(part.path, FileMode::kRead);
  std::string head(form.head.size(), '\0');
  if (file->size() != form.file_bytes) return PartState::kWrong;
  file->read(0, {reinterpret_cast<std::byte*>(head.data()), head.size()});
  return head == form.head ? PartState::kReady : PartState::kWrong;
}

/// What is wrong.
void remove_unready(const Part& part) {
  std::error_code failed;
  spdlog::info("{} is not whole, or not from this model and version: it is made anew", part.path);
  fs::remove_all(part.path, failed);
}

/// Makes the folder of the parts if it is not there, and takes out what killed processes left in it.
void make_folder_of_parts(const fs::path& directory) {
  std::error_code failed;
  fs::create_directories(directory, failed);
  if (failed) fail_io("cannot create {}: {}{}", directory.string(), failed.message(), file_advice(directory.string(), failed.value()));
  remove_abandoned_partials(directory.string());
}

/// A unit of experts has a part of its own, so that a mixture may have thousands: what no run could open is not prepared for hours first.
void check_can_open(const Model& model, const std::vector<Part>& parts, const fs::path& directory) {
  const auto of_checkpoint = std::ssize(model.files()), of_parts = std::ssize(parts);
  require_open_files(of_checkpoint + std::max(of_parts, of_checkpoint),
                     fmt::format("{}: the {} files of prepared weights and the {} of the checkpoint", directory.string(), of_parts, of_checkpoint));
}

/// Whose turn it is to make parts in a folder: replicas and shards of a machine want the same ones, and each is made once.
class Turn {
 public:
  explicit Turn(std::string directory) : directory_(std::move(directory)) {}

  /// Waits until nobody else makes parts, or this one is ready: null then. Whoever hangs is waited for but so long; two that make the same part do no harm.
  std::unique_ptr<DirectoryLock> wait(const std::function<bool()>& is_ready) {
    constexpr double kLook_s = 0.2;
    const auto start = std::chrono::steady_clock::now();
    while (!is_ready()) {
      bool in_vain = false;
      auto lock = std::make_unique<DirectoryLock>(directory_, kLook_s, [&](bool gives_up) { in_vain = gives_up; });
      if (!in_vain) return is_ready() ? nullptr : std::move(lock);
      if (!std::exchange(told_, true)) spdlog::info("another process prepares weights in {}: waiting for it", directory_);
      if (seconds_since(start) < limit_s_) continue;
      if (limit_s_ > 0) spdlog::warn("another process has had {} locked for {:.0f} s: preparing weights beside it", directory_, limit_s_);
      limit_s_ = 0;
      return lock;
    }
    return nullptr;
  }

 private:
  std::string directory_;
  double limit_s_ = 600;
  bool told_ = false;
};

/// Bytes of a row as the file has it: of a transposed matrix a row is what belongs to one column.
int64_t stored_row_bytes(const WeightSpec& weight) { return weight.turned_of > 0 ? size_bytes(weight.dtype, weight.turned_of) : weight.row_bytes(); }

/// How many rows of a transposed matrix are put together at a time: each such panel is one way through the stored matrix, from its start to its end.
int64_t panel_rows(const WeightSpec& weight, int64_t panel_bytes) { return std::clamp<int64_t>(panel_bytes / weight.row_bytes(), 1, weight.rows); }

/// Reads the rows of some weights in order, a piece ahead of whoever takes them.
class RowReader {
 public:
  struct Piece {
    int weight = 0;
    int64_t first_row = 0, num_rows = 0;      ///< as the file has them
    int64_t panel_first = 0, panel_rows = 0;  ///< of a transposed matrix: the columns of these rows that are wanted
  };
  RowReader(const Model& model, FileSystem& files, const std::vector<int>& weights, int64_t piece_bytes, int64_t panel_bytes)
      : model_(model), buffers_{AlignedBuffer(piece_bytes), AlignedBuffer(piece_bytes)} {
    for (const std::string& path : model.files()) files_.push_back(files.open(path, FileMode::kReadDirect));
    for (int index : weights) {
      const WeightSpec& weight = spec(index);
      const int64_t stored = weight.turned_of > 0 ? weight.cols : weight.rows, bytes = stored_row_bytes(weight),
                    rows = std::max<int64_t>(1, piece_bytes / bytes);
      FLEXGEN_CHECK(bytes <= piece_bytes, "a row of {} bytes", bytes);
      const int64_t panel = weight.turned_of > 0 ? panel_rows(weight, panel_bytes) : weight.rows;
      for (int64_t first = 0; first < weight.rows; first += panel)
        for (int64_t row = 0; row < stored; row += rows)
          pieces_.push_back({index, row, std::min(rows, stored - row), first, std::min(panel, weight.rows - first)});
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
      const int64_t row_bytes = stored_row_bytes(weight);
      int64_t offset = weight.offset + piece.first_row * row_bytes, bytes = piece.num_rows * row_bytes;
      if (weight.turned_of > 0) {  // of the last row no more than is wanted, as the tensor may end there
        offset += size_bytes(weight.dtype, piece.panel_first);
        bytes += size_bytes(weight.dtype, piece.panel_rows) - row_bytes;
      }
      files_[static_cast<size_t>(weight.file)]->read(offset, {buffers_[number % 2].data(), static_cast<size_t>(bytes)});
    });
  }

  const Model& model_;
  std::vector<std::shared_ptr<File>> files_;
  AlignedBuffer buffers_[2];
  std::vector<Piece> pieces_;
  size_t at_ = 0;
  std::future<void> ahead_;
};

/// out[column, row] = in[row, column] of in [num_rows, num_cols], in tiles that the nearest cache holds. Row strides in elements.
template <typename Element>
void turn(const Element* in, int64_t num_rows, int64_t num_cols, int64_t in_stride, Element* out, int64_t out_stride) {
  constexpr int64_t kTile = 64;
  for (int64_t first_row = 0; first_row < num_rows; first_row += kTile)
    for (int64_t first_col = 0; first_col < num_cols; first_col += kTile)
      for (int64_t col = first_col; col < std::min(num_cols, first_col + kTile); ++col)
        for (int64_t row = first_row; row < std::min(num_rows, first_row + kTile); ++row) out[col * out_stride + row] = in[row * in_stride + col];
}

/// Puts what was read of a transposed matrix into its panel, [panel_rows, cols]; whether that is whole now.
bool turn_piece(const WeightSpec& weight, const RowReader::Piece& piece, const std::byte* rows, std::byte* panel) {
  std::byte* const to = panel + size_bytes(weight.dtype, piece.first_row);
  if (weight.dtype == DType::kF32)
    turn(reinterpret_cast<const uint32_t*>(rows), piece.num_rows, piece.panel_rows, weight.turned_of, reinterpret_cast<uint32_t*>(to), weight.cols);
  else turn(reinterpret_cast<const uint16_t*>(rows), piece.num_rows, piece.panel_rows, weight.turned_of, reinterpret_cast<uint16_t*>(to), weight.cols);
  return piece.first_row + piece.num_rows == weight.cols;
}

/// Weights that one RowReader reads after each other; a quantized matrix is alone.
std::vector<std::vector<int>> runs_of(const Model& model, const std::vector<int>& weights) {
  std::vector<std::vector<int>> runs;
  for (int index : weights) {
    const auto is_coded = [&](int of) { return model.weights()[static_cast<size_t>(of)].codes != nullptr; };
    if (runs.empty() || is_coded(index) || is_coded(runs.back().back())) runs.emplace_back();
    runs.back().push_back(index);
  }
  return runs;
}

}  // namespace

bool has_turned_weights(const Model& model) {
  return std::any_of(model.weights().begin(), model.weights().end(), [](const WeightSpec& weight) { return weight.turned_of > 0; });
}

void use_prepared_weights(Model& model, Kernels& kernels, FileSystem& files, const PrepareOptions& options) {
  const fs::path directory = fs::path(options.directory) / prepared_folder(model, options);
  const std::vector<Part> parts = parts_of(model, options.dtype, directory);
  check_can_open(model, parts, directory);
  make_folder_of_parts(directory);
  int64_t total = 0, done = 0, widest = 0, made = 0, panel_bytes = 0;
  const auto start = std::chrono::steady_clock::now();
  for (const Part& part : parts)
    for (int index : part.weights) {
      const WeightSpec& weight = model.weights()[static_cast<size_t>(index)];
      total += weight.bytes();
      widest = std::max({widest, weight.row_bytes(), stored_row_bytes(weight), weight.codes ? size_bytes(DType::kF32, weight.cols) : 0});
      if (weight.turned_of > 0) panel_bytes = std::max(panel_bytes, panel_rows(weight, options.memory_bytes / 4) * weight.row_bytes());
    }
  // Two pieces that are read, one that is converted, the panel that is turned, and the writer's own 16 MiB.
  const int64_t piece_bytes = round_up(std::max(widest, std::min<int64_t>(8 * kMiB, options.memory_bytes / 8)), kDirectAlignment);
  std::vector<std::byte> converted(static_cast<size_t>(2 * piece_bytes)), panel(static_cast<size_t>(panel_bytes));

  std::vector<std::shared_ptr<File>> coded_files;
  for (const std::string& path : model.files()) coded_files.push_back(files.open(path, FileMode::kReadDirect));
  std::vector<std::pair<int, WeightSpec>> replaced;
  std::vector<std::string> paths;
  std::vector<SummedData> sums;
  std::vector<FileStamp> stamps;
  Turn turn(directory.string());
  for (const Part& part : parts) {
    const Form form = form_of(model, part, options);
    PartState state{};
    const auto ready = [&] { return (state = state_of(part, form, files)) == PartState::kReady; };
    const std::unique_ptr<DirectoryLock> lock = turn.wait(ready);
    if (!lock) {
      for (int index : part.weights) done += model.weights()[static_cast<size_t>(index)].bytes();
    } else {
      if (state == PartState::kWrong) remove_unready(part);
      SafetensorsWriter writer(part.path, form.tensors, &files, form.metadata);
      SectorSummer summer(form.summed.seed);
      auto append = [&](const std::byte* data, int64_t bytes) {
        writer.append(data, bytes);
        summer.append(data, bytes);
      };
      auto add_rows = [&](const WeightSpec& weight, DType from, int64_t first_row, int64_t num_rows, const std::byte* rows) {
        done += num_rows * weight.row_bytes();
        made += num_rows * weight.row_bytes();
        if (!options.dtype) return append(rows, num_rows * weight.row_bytes());
        const int64_t from_bytes = row_bytes(from, weight.cols), at_a_time = piece_bytes / from_bytes;
        for (int64_t row = 0; row < num_rows; row += at_a_time) {
          const int64_t count = std::min(at_a_time, num_rows - row);
          if (!kernels.convert_rows(rows + row * from_bytes, from, count, weight.cols, *options.dtype, options.range, converted.data()))
            fail_user("{}: the tensor '{}' holds infinities or NaN in the rows from {} on; it has no {} form", model.files()[static_cast<size_t>(weight.file)],
                      weight.name, first_row + row, dtype_name(*options.dtype));
          append(converted.data(), count * row_bytes(*options.dtype, weight.cols));
        }
      };
      for (const std::vector<int>& run : runs_of(model, part.weights)) {
        if (const WeightSpec& weight = model.weights()[static_cast<size_t>(run.front())]; weight.codes) {
          DecodedRows decoded(weight, coded_files, options.memory_bytes / 4);
          while (const auto rows = decoded.next()) {
            add_rows(weight, DType::kF32, rows->first, rows->count, reinterpret_cast<const std::byte*>(rows->values));
            if (options.progress) options.progress(done, total);
          }
          continue;
        }
        RowReader reader(model, files, run, piece_bytes, options.memory_bytes / 4);
        while (auto next = reader.next()) {
          const auto& [piece, rows] = *next;
          const WeightSpec& weight = reader.spec(piece.weight);
          if (weight.turned_of == 0) add_rows(weight, weight.dtype, piece.first_row, piece.num_rows, rows);
          else if (turn_piece(weight, piece, rows, panel.data())) add_rows(weight, weight.dtype, piece.panel_first, piece.panel_rows, panel.data());
          if (options.progress) options.progress(done, total);
        }
      }
      const std::vector<uint32_t> words = summer.finish();
      writer.append(words.data(), std::ssize(words) * static_cast<int64_t>(sizeof(uint32_t)));
      // Locks do not reach other machines: what one of them has finished meanwhile, and may read by now, stays.
      if (!writer.close_if_new() && !ready()) writer.close();
    }
    int64_t offset = form.summed.start;
    for (int index : part.weights) {
      WeightSpec spec = model.weights()[static_cast<size_t>(index)];
      spec.dtype = options.dtype.value_or(spec.dtype);
      spec.turned_of = 0;
      spec.codes = nullptr;
      spec.file = static_cast<int>(paths.size());
      spec.offset = offset;
      offset += spec.bytes();
      replaced.emplace_back(index, std::move(spec));
    }
    paths.push_back(part.path);
    sums.push_back(form.summed);
    stamps.push_back(FileStamp::of(files.open(part.path, FileMode::kRead)->descriptor(), part.path));
  }
  const double seconds = seconds_since(start);
  if (made > 0)
    spdlog::info("made {} of {} of the checkpoint in {:.1f} s ({:.2f} GB/s); they are kept in {}",
                 options.dtype ? fmt::format("{} weights", dtype_name(*options.dtype)) : "weights that are not transposed", format_bytes(made), seconds,
                 static_cast<double>(made) / seconds / 1e9, directory.string());
  model.replace_weights(replaced, paths, sums, stamps);
}

void imagine_prepared_weights(Model& model, std::optional<DType> dtype) {
  std::vector<std::pair<int, WeightSpec>> replaced;
  int64_t offset = 0;
  for (size_t i = 0; i < model.weights().size(); ++i) {
    WeightSpec weight = model.weights()[i];
    if (!is_made(weight, dtype)) continue;
    weight.dtype = dtype.value_or(weight.dtype);
    weight.turned_of = 0;
    weight.codes = nullptr;
    weight.file = 0;
    weight.offset = offset;
    offset += weight.bytes();
    replaced.emplace_back(static_cast<int>(i), std::move(weight));
  }
  if (!replaced.empty()) model.replace_weights(replaced, {"(not prepared yet)"}, {SummedData{0, offset, 0}});
}

}  // namespace flexgen
