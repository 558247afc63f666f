#include "measure/measure_hardware.h"

#include <fmt/chrono.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <thread>

#include "backend/cpu/memory_read.h"
#include "backend/lane.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include "base/units.h"
#include "generation/logit_reader.h"
#include "measure/agreed_times.h"
#include "measure/cache_directory.h"
#include "measure/job_memory.h"
#include "measure/machine.h"
#include "measure/machine_load.h"
#include "measure/measured_weight.h"
#include "model/model.h"
#include "schedule/cache_store.h"

namespace flexgen {
namespace {

using Clock = std::chrono::steady_clock;

/// Seconds a call takes: the median of as many as fit the time, three at least.
template <typename Call>
double median_time_s(double time_s, Call call) {
  std::vector<double> times;
  for (auto start = Clock::now(); times.size() < 3 || (seconds_since(start) < time_s && times.size() < 200);) {
    auto begin = Clock::now();
    call();
    times.push_back(seconds_since(begin));
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

/// Seconds a call takes on average, as many as fit the time, after one that is not counted: a job pays for the slow ones too.
template <typename Call>
double mean_time_s(double time_s, Call call) {
  call();
  const auto start = Clock::now();
  int64_t count = 0;
  do call(), ++count;
  while (seconds_since(start) < time_s);
  return seconds_since(start) / static_cast<double>(count);
}

/// Where rounds of measuring disagreed, and by how much at worst; and what could not be measured at all.
struct Doubt {
  double apart = 1;
  std::string what;
  std::string missing;  ///< a sentence; empty: nothing

  /// The times of `measured`, whether or not they agree.
  std::vector<double> take(AgreedTimes measured, const std::string& name) {
    if (!measured.agreed && measured.apart > apart) {
      apart = measured.apart;
      what = name;
    }
    return std::move(measured.times_s);
  }
};

/// A disk's speed changes by itself: other guests, its own caches.
constexpr double kDisksAgree = 1.5;
constexpr int kDiskRounds = 4;

/// One block whose visits stand for those of any model that is as wide. Of kUsualWidth it has rows of 8192, as large models do, which take longer a weight.
std::string block_config(int64_t width) {
  const int64_t heads = width / (width < 1024 ? 64 : 128);
  return fmt::format(R"({{"model_type": "llama", "hidden_size": {}, "num_hidden_layers": 1, "num_attention_heads": {}, "num_key_value_heads": {},
  "intermediate_size": {}, "vocab_size": 1024, "max_position_embeddings": 8192, "hidden_act": "silu", "rms_norm_eps": 1e-5,
  "rope_theta": 10000.0, "tie_word_embeddings": false, "eos_token_id": 5, "bos_token_id": 1}})",
                     width, heads, heads, 4 * width);
}
constexpr int64_t kWeightBytes = 100 * kMiB;  ///< more than caches hold; those of one block in bf16 are more
constexpr double kNearWidth = 1.25;           ///< widths within this factor count as the same
constexpr int64_t kSlotRows = 16;             ///< of each slot in a visit that is measured: hardly any attention

class BlockVisits {
 public:
  BlockVisits(Kernels& kernels, int64_t width, DType weights, DType cache, int64_t max_rows)
      : kernels_(kernels),
        model_(Model::of_shape(parse_config(block_config(is_blocked(weights) ? round_up(width, kLongestBlock) : width), "", "measurement"), DType::kBF16)),
        geometry_(model_->kv_geometry(cache, CacheLayout::page_tokens(*model_, cache))) {
    for (int64_t bytes = 0; bytes < kWeightBytes;) {
      std::vector<WeightView>& views = copies_.emplace_back();
      for (const WeightUse& use : model_->layers()[1].uses) {
        const WeightSpec& spec = model_->weights()[static_cast<size_t>(use.weight)];
        const DType dtype = spec.always_resident ? spec.dtype : weights;
        bytes += spec.rows * row_bytes(dtype, spec.cols);
        views.push_back(weights_.emplace_back(dtype, spec.rows, spec.cols).view());
      }
    }
    num_slots_ = ceil_div(max_rows, kSlotRows);
    buffers_.emplace_back(num_slots_ * geometry_.page_bytes());
    for (int64_t i = 0; i < num_slots_; ++i) pages_.push_back(buffers_.back().data() + i * geometry_.page_bytes());
    for (int64_t i = 0; i < max_rows; ++i) positions_.push_back(static_cast<int32_t>(i % kSlotRows));
    buffers_.emplace_back(4 * max_rows * model_->config().hidden_size);
    hidden_ = reinterpret_cast<float*>(buffers_.back().data());
    buffers_.emplace_back(model_->scratch_bytes(max_rows, 1));
    scratch_ = buffers_.back().data();
  }
  double flops(int64_t rows) const { return model_->layers()[1].linear_flops_per_row * static_cast<double>(rows); }
  void visit(int64_t rows) {
    // The residual stream grows with every visit; from the start it is sane again.
    std::fill_n(hidden_, rows * model_->config().hidden_size, 0.01F);
    std::vector<AttentionSlot> slots;
    for (int64_t row = 0; row < rows; row += kSlotRows)
      slots.push_back({row, std::min(kSlotRows, rows - row), 0, &pages_[static_cast<size_t>(row / kSlotRows)]});
    VisitInput input;
    input.num_rows = rows;
    input.positions = std::span(positions_).first(static_cast<size_t>(rows));
    input.slots = slots;
    model_->forward(1, copies_[next_++ % copies_.size()], input, geometry_, hidden_, scratch_, kernels_, nullptr);
  }

 private:
  Kernels& kernels_;
  std::unique_ptr<Model> model_;
  KvGeometry geometry_;
  std::vector<MeasuredWeight> weights_;
  std::vector<JobMemory> buffers_;
  std::vector<std::vector<WeightView>> copies_;  ///< used in turns: a job's weights come from memory, never from a cache
  size_t next_ = 0;
  std::vector<std::byte*> pages_;
  std::vector<int32_t> positions_;
  float* hidden_ = nullptr;
  std::byte* scratch_ = nullptr;
  int64_t num_slots_ = 0;
};

MatmulRates measure_matmul(Kernels& kernels, int64_t width, DType compute, DType weights, bool quick, Doubt& doubt) {
  // Few rows wait for the weights, many for the cores. In bf16 they go in panels of rows (of 16, then of 32 and more), so that the time has steps.
  std::vector<int64_t> sizes{1, 4, 8, 16, 32, 64, 96, 128, 192, 256, 512};
  if (compute == DType::kBF16) sizes = {1, 16, 17, 32, 48, 64, 96, 128, 192, 256, 512};
  if (quick) std::erase_if(sizes, [](int64_t rows) { return rows == 96 || rows == 192 || rows == 512; });
  BlockVisits visits(kernels, width, weights, compute == DType::kInt8 ? DType::kF32 : compute, sizes.back());
  MatmulRates rates{compute, weights, {}, static_cast<double>(width)};
  visits.visit(16);  // generates code, wakes the team
  const double time_s = quick ? 0.04 : 0.07;
  std::vector<double> times =
      doubt.take(agreed_times(sizes.size(), [&](size_t i) { return mean_time_s(time_s, [&] { visits.visit(sizes[i]); }); }), "matrix products");
  // Fewer rows never take longer: if they seem to, they were disturbed.
  for (size_t i = times.size() - 1; i > 0; --i) times[i - 1] = std::min(times[i - 1], times[i]);
  for (size_t i = 0; i < sizes.size(); ++i) rates.points.push_back({static_cast<double>(sizes[i]), visits.flops(sizes[i]) / times[i]});
  return rates;
}

AttentionRates measure_attention(Kernels& kernels, DType cache, int64_t group, bool quick, Doubt& doubt) {
  constexpr int64_t kHeads = 8, kHeadSize = 128, kPage = 16, kTotalTokens = 16 * 1024;
  KvGeometry geometry{cache, kHeads * group, kHeads, kHeadSize, kPage};
  const JobMemory pages(kTotalTokens / kPage * geometry.page_bytes());
  std::vector<std::byte*> pointers;
  for (int64_t i = 0; i < kTotalTokens / kPage; ++i) pointers.push_back(pages.data() + i * geometry.page_bytes());
  AttentionRates rates{cache, static_cast<double>(group), {}, 1};
  const int64_t width = geometry.query_heads * kHeadSize;
  const JobMemory q(4 * 256 * width), out(4 * 256 * width);
  const AttentionRule rule{1 / std::sqrt(static_cast<float>(kHeadSize)), 0, 1};
  const double time_s = quick ? 0.05 : 0.15;
  const std::vector<int64_t> contexts{64, 256, 1024, 4096};
  auto slots_of = [](int64_t context) { return std::min<int64_t>(kTotalTokens / context, 256); };
  auto attend = [&](int64_t context) {
    std::vector<AttentionSlot> wanted;
    for (int64_t i = 0; i < slots_of(context); ++i) wanted.push_back({i, 1, context - 1, &pointers[static_cast<size_t>(i * context / kPage)]});
    kernels.attention(reinterpret_cast<const float*>(q.data()), wanted, geometry, rule, out.data());
  };
  const std::vector<double> times =
      doubt.take(agreed_times(contexts.size(), [&](size_t i) { return mean_time_s(time_s / 3, [&] { attend(contexts[i]); }); }), "attention");
  for (size_t i = 0; i < contexts.size(); ++i) {
    const int64_t pages = slots_of(contexts[i]) * contexts[i] / kPage;
    rates.points.push_back({static_cast<double>(contexts[i]), static_cast<double>(pages * geometry.page_bytes()) / times[i]});
  }
  std::vector<AttentionSlot> chunks;
  for (int64_t i = 0; i < 2; ++i) chunks.push_back({i * 128, 128, 128, &pointers[static_cast<size_t>(i * 256 / kPage)]});
  const double spent_s = median_time_s(time_s, [&] { kernels.attention(reinterpret_cast<const float*>(q.data()), chunks, geometry, rule, out.data()); });
  rates.chunk_flops_per_s = 2 * 4.0 * static_cast<double>(width) * 128 * (128 + 64.5) / spent_s;
  return rates;
}

double measure_ram_read(bool quick, int threads, Doubt& doubt) {
  const int64_t bytes = (quick ? 128 : 256) * kMiB;
  const JobMemory buffer(bytes);
  WorkerTeam team(threads > 0 ? threads : default_threads());
  const auto read_s = [&](size_t) {
    double times_s[3];
    for (double& time_s : times_s) time_s = read_from_memory_s(team, buffer.data(), bytes);
    std::sort(std::begin(times_s), std::end(times_s));
    return times_s[1];
  };
  const std::vector<double> times = doubt.take(agreed_times(1, read_s), "reading memory");
  return static_cast<double>(bytes) / times.front();
}

double measure_logit_s() {
  constexpr int64_t kVocab = 32768, kRows = 32;
  const JobMemory logits(4 * kVocab * kRows);
  SamplingParams greedy;
  greedy.temperature = 0;
  return median_time_s(0.1,
                       [&] {
                         std::vector<LogitReader::Row> rows(kRows);
                         for (auto& row : rows) row.params = greedy;
                         LogitReader reader(std::move(rows), kVocab, {});
                         reader.accept(0, kRows, 0, kVocab, reinterpret_cast<const float*>(logits.data()), kVocab, nullptr);
                       }) /
         static_cast<double>(kVocab * kRows);
}

/// Keeps a lane full of transfers over some files, round and round, until told to stop.
class DiskLoad {
 public:
  static constexpr int64_t kBlock = 8 * kMiB, kSlots = 8, kPageBytes = 64 * kKiB;
  DiskLoad(std::vector<std::shared_ptr<File>> files, bool write, const AsyncDiskOptions& disk = {})
      : files_(std::move(files)), write_(write), memory_(kBlock * kSlots), lane_("measure", nullptr, disk) {}
  /// Bytes a second while `until` is false.
  double run(const std::function<bool()>& until) {
    Event slots[kSlots];
    double bytes = 0;
    auto start = Clock::now();
    for (int64_t n = 0; !until(); ++n) {
      Event& slot = slots[n % kSlots];
      slot.wait();
      Work work;
      work.transfers.push_back({files_[file_], write_, at_, memory_.data() + (n % kSlots) * kBlock, kBlock, {}});
      slot = lane_.submit(std::move(work));
      bytes += static_cast<double>(kBlock);
      at_ += kBlock;
      if (at_ + kBlock > files_[file_]->size()) {
        at_ = 0;
        file_ = (file_ + 1) % files_.size();
      }
    }
    lane_.drain();
    return bytes / seconds_since(start);
  }
  double run_for(double time_s) {
    auto start = Clock::now();
    return run([&] { return seconds_since(start) > time_s; });
  }
  /// Seconds of one small transfer among many.
  double small_s() {
    constexpr int64_t kCount = 2000, kBytes = 4096;
    const int64_t blocks = files_.front()->size() / kBytes;
    auto start = Clock::now();
    Work work;
    uint64_t random = 7;
    for (int64_t n = 0; n < kCount; ++n) {
      random = random * 6364136223846793005U + 1442695040888963407U;
      work.transfers.push_back(
          {files_.front(), write_, static_cast<int64_t>((random >> 33) % static_cast<uint64_t>(blocks)) * kBytes, memory_.data() + n * kBytes, kBytes, {}});
    }
    lane_.submit(std::move(work)).wait();
    return seconds_since(start) / kCount;
  }
  /// The same while `work` lasts, beside it.
  double run_beside(const std::function<void()>& work) {
    double bytes_per_s = 0;
    {
      std::atomic<bool> stop{false};
      std::thread thread = start_thread("measuring the disk", [&] { bytes_per_s = run([&] { return stop.load(); }); });
      struct Ended {
        std::atomic<bool>& stop;
        std::thread& thread;
        ~Ended() {
          stop = true;
          thread.join();
        }
      } const ended{stop, thread};
      work();
    }
    return bytes_per_s;
  }
  /// Seconds of a piece of work of some pages of a cache, wherever these are.
  double pages_s(double time_s) {
    constexpr int64_t kPages = 16;
    return median_time_s(time_s, [&] {
      Work work;
      for (int64_t n = 0; n < kPages; ++n) {
        at_ = (at_ + 17 * kMiB) % round_down(files_.front()->size() - kPageBytes, kPageBytes);
        work.transfers.push_back({files_.front(), write_, round_down(at_, kPageBytes), memory_.data() + n * kPageBytes, kPageBytes, {}});
      }
      lane_.submit(std::move(work)).wait();
    });
  }
  /// Seconds of a transfer that is alone, beside its bytes.
  double alone_s() {
    int64_t at = 0;
    return median_time_s(0.05, [&] {
      Work work;
      work.transfers.push_back({files_.front(), write_, at, memory_.data(), 4096, {}});
      at = (at + 64 * kMiB) % round_down(files_.front()->size() - 4096, 4096);
      at = round_down(at, 4096);
      lane_.submit(std::move(work)).wait();
    });
  }

 private:
  std::vector<std::shared_ptr<File>> files_;
  bool write_;
  JobMemory memory_;
  DiskLane lane_;
  size_t file_ = 0;
  int64_t at_ = 0;
};

/// A new file in options.directory for what is written: smaller where little is free, as others need that; null, and said, where there is too little.
std::shared_ptr<File> file_to_write(const MeasureOptions& options, FileSystem& files) {
  constexpr int64_t kLeast = 4 * DiskLoad::kBlock;
  int64_t bytes = (options.quick ? 256 : 1024) * kMiB;
  std::error_code unknown;
  const std::filesystem::space_info space = std::filesystem::space(options.directory, unknown);
  if (!unknown) bytes = std::min(bytes, round_down(static_cast<int64_t>(space.available / 4), DiskLoad::kBlock));
  std::string why = fmt::format("{} has {} free", options.directory, format_bytes(static_cast<int64_t>(space.available)));
  if (bytes >= kLeast) {
    std::shared_ptr<File> file = files.open(options.directory + "/flexgen-measure.tmp", FileMode::kSpill);
    try {
      file->preallocate(bytes);
      return file;
    } catch (const Error& error) {  // a quota, for one
      why = error.what();
    }
  }
  spdlog::warn("{}: how fast this disk writes is not measured but assumed; `flexgen doctor --measure --disk-dir DIR` measures it once there is room", why);
  return nullptr;
}

DiskProfile measure_disk(const MeasureOptions& options, FileSystem& files, Kernels& kernels, DType compute, DType weights, Doubt& doubt) {
  DiskProfile disk;
  const double time_s = options.quick ? 0.8 : 2.5;
  std::vector<std::shared_ptr<File>> to_read;
  for (const std::string& path : options.read_files) {
    std::shared_ptr<File> file = files.open(path, FileMode::kReadDirect);
    if (file->size() >= 4 * DiskLoad::kBlock) to_read.push_back(file);
  }
  std::optional<DiskLoad> reading;
  auto bytes_per_s = [&](DiskLoad& load, const char* name) {
    return 1 / doubt
                   .take(agreed_times(
                             1, [&](size_t) { return 1 / load.run_for(time_s / 2); }, kDisksAgree, kDiskRounds),
                         name)
                   .front();
  };
  auto measure_reading = [&] {
    reading.emplace(to_read, false);
    reading->run_for(0.2);
    disk.read_bytes_per_s = bytes_per_s(*reading, "reading the disk");
    disk.lookup_s = reading->small_s();
    disk.request_s = reading->alone_s();

    // Both at once: the disk lane full, and visits of a middling size one after the other.
    BlockVisits visits(kernels, kUsualWidth, weights, compute == DType::kInt8 ? DType::kF32 : compute, 64);
    visits.visit(64);
    auto compute_rate = [&](double seconds) {
      int64_t count = 0;
      auto start = Clock::now();
      for (; seconds_since(start) < seconds; ++count) visits.visit(64);
      return static_cast<double>(count) / seconds_since(start);
    };
    const double compute_alone = compute_rate(time_s / 2);
    double compute_beside = 0;
    const double beside = reading->run_beside([&] { compute_beside = compute_rate(time_s); });
    // Beside compute the disk may be slower, so that what compute loses is counted a byte, and then a second of reading at full speed.
    disk.compute_slowdown = std::clamp((1 - compute_beside / compute_alone) * disk.read_bytes_per_s / beside, 0.0, 1.0);
  };
  // Before anything is written, if there is something to read: disks are busy with that long after they have taken it.
  if (!to_read.empty()) measure_reading();
  const std::shared_ptr<File> to_write = options.directory.empty() ? nullptr : file_to_write(options, files);
  // No room to write, and nothing to read: the next run tries again.
  if (!to_write && to_read.empty() && !options.directory.empty()) doubt.missing = fmt::format("the disk of {} has no room to be measured", options.directory);
  if (to_write) {
    {
      DiskLoad writing({to_write}, true);
      const int64_t blocks = to_write->size() / DiskLoad::kBlock;
      int64_t written = 0;
      writing.run([&] { return ++written > blocks; });  // once over everything: what is read later has been written
      disk.write_bytes_per_s = bytes_per_s(writing, "writing the disk");
    }
    if (to_read.empty()) {
      to_read.push_back(to_write);
      measure_reading();
    }
  }

  if (to_write) {
    reading.reset();  // its memory
    disk.short_read_bytes_per_s = DiskLoad(to_read, false, AsyncDiskOptions().beside_writes()).run_for(time_s / 2);
    const bool leaves_room = disk.leaves_room_for_writes();
    const double read_alone = leaves_room ? disk.short_read_bytes_per_s : disk.read_bytes_per_s;
    DiskLoad writing({to_write}, true), reading_beside(to_read, false, leaves_room ? AsyncDiskOptions().beside_writes() : AsyncDiskOptions());
    double write_beside = 0, pages_beside_s = 0;
    const double read_beside = reading_beside.run_beside([&] { write_beside = writing.run_for(time_s / 2); });
    const double pages_s = writing.pages_s(0.05);
    reading_beside.run_beside([&] { pages_beside_s = writing.pages_s(time_s / 4); });
    disk.write_wait_s = std::max(0.0, pages_beside_s - pages_s);
    // Of each second, write_beside / write_bytes_per_s went to writing; reading lost 1 - read_beside / read_alone.
    disk.write_share_of_read = std::clamp((1 - read_beside / read_alone) / (write_beside / disk.write_bytes_per_s), 0.0, 1.0);
  }
  return disk;
}

}  // namespace

MeasuredTypes all_types() {
  const DType compute = cpu_has_bf16() ? DType::kBF16 : DType::kF32;
  MeasuredTypes types{{{compute, DType::kBF16},
                       {compute, DType::kInt8},
                       {compute, DType::kInt4},
                       {DType::kInt8, DType::kInt8},
                       {DType::kInt8, DType::kInt4},
                       {DType::kF32, DType::kF32}},
                      {compute, DType::kInt8, DType::kInt4}};
  if (compute == DType::kF32) types.caches.push_back(DType::kBF16);
  types.widths = {256, 768, kUsualWidth};
  return types;
}

HardwareProfile measure_hardware(const MeasureOptions& options, FileSystem& files) {
  auto say = [&](const std::string& what) {
    if (options.progress) options.progress(what);
  };
  HardwareProfile profile = HardwareProfile::generic();
  profile.name = machine_name(options.threads);
  profile.measured = fmt::format("{:%Y-%m-%d %H:%M} UTC{}{}", fmt::gmtime(std::time(nullptr)), options.quick ? ", quickly" : "",
                                 options.directory.empty() ? "" : ", disk " + options.directory);
  profile.cpu.matmul.clear();
  profile.cpu.attention.clear();
  Doubt doubt;
  const CpuTimes before = read_cpu_times();
  std::unique_ptr<Kernels> kernels;
  DType made = DType::kF32;
  auto kernels_of = [&](DType compute) -> Kernels& {
    const bool integers = compute == DType::kInt8;
    if (!kernels || made != compute) kernels = make_cpu_kernels({options.threads, integers ? all_types().caches.front() : compute, integers});
    made = compute;
    return *kernels;
  };
  for (auto [compute, weights] : options.types.matmul) {
    for (int64_t width : options.types.widths) {
      say(fmt::format("matrix products, {} weights in {}, hidden size {}", dtype_name(weights), dtype_name(compute), width));
      profile.cpu.matmul.push_back(measure_matmul(kernels_of(compute), width, compute, weights, options.quick || width < kUsualWidth, doubt));
    }
  }
  const auto [compute, weights] = options.types.matmul.empty() ? std::pair(DType::kF32, DType::kBF16) : options.types.matmul.front();
  for (DType cache : options.types.caches)
    for (int64_t group : {1, 4}) {
      say(fmt::format("attention, {} cache, {} query heads a kv head", dtype_name(cache), group));
      profile.cpu.attention.push_back(measure_attention(kernels_of(compute), cache, group, options.quick, doubt));
    }
  if (profile.cpu.matmul.empty()) profile.cpu.matmul = HardwareProfile::generic().cpu.matmul;
  if (profile.cpu.attention.empty()) profile.cpu.attention = HardwareProfile::generic().cpu.attention;
  // Only work that keeps all threads busy says how much of them others took.
  profile.load_average = before.load_average;
  profile.others_share = share_of_others(before, read_cpu_times(), options.threads > 0 ? options.threads : default_threads());
  say("memory");
  profile.ram_read_bytes_per_s = measure_ram_read(options.quick, options.threads, doubt);
  profile.cpu.logit_s = measure_logit_s();
  say("disk, alone and beside compute");
  profile.disk = measure_disk(options, files, kernels_of(compute), compute, weights, doubt);
  if (!doubt.missing.empty()) profile.doubt = doubt.missing;
  else if (profile.others_share > kOthersMatter)
    profile.doubt = fmt::format("other programs took {:.0f}% of the processor time that measuring wanted", 100 * profile.others_share);
  else if (!doubt.what.empty()) profile.doubt = fmt::format("{} took up to {:.1f} times as long in one round as in another", doubt.what, doubt.apart);
  return profile;
}

std::string machine_name(int threads) {
  std::ifstream cpus("/proc/cpuinfo");
  std::string name = "processor";
  for (std::string line; std::getline(cpus, line);)
    if (line.starts_with("model name") && line.find(": ") != std::string::npos) {
      name = line.substr(line.find(": ") + 2);
      break;
    }
  const int used = threads > 0 ? threads : default_threads();
  return fmt::format("{}, {} core{}", name, used, used == 1 ? "" : "s");
}

std::string profile_path(int threads) {
  const std::string directory = cache_directory();
  if (directory.empty()) return "";
  std::string name = machine_name(threads);
  for (char& c : name) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'))) c = '-';
  }
  name.erase(std::unique(name.begin(), name.end(), [](char a, char b) { return a == '-' && b == '-'; }), name.end());
  return (std::filesystem::path(directory) / ("hardware-" + name + ".json")).string();
}

int64_t measured_width(double hidden_size) { return std::min(round_up(static_cast<int64_t>(hidden_size), 128), kUsualWidth); }

void MeasuredTypes::add(const Precision& precision) {
  auto add_to = [](auto& list, const auto& value) {
    if (std::find(list.begin(), list.end(), value) == list.end()) list.push_back(value);
  };
  add_to(matmul, std::pair(precision.compute, precision.weights));
  if (precision.experts) add_to(matmul, std::pair(precision.compute, *precision.experts));
  add_to(caches, precision.kv);
  add_to(widths, measured_width(precision.width));
}

MeasuredTypes missing_types(const HardwareProfile& profile, const MeasuredTypes& types) {
  MeasuredTypes missing;
  missing.widths = types.widths;
  for (const auto& pair : types.matmul) {
    auto known = [&](int64_t width) {
      return std::any_of(profile.cpu.matmul.begin(), profile.cpu.matmul.end(), [&](const MatmulRates& rates) {
        const double ratio = rates.width / static_cast<double>(width);
        return std::pair{rates.compute, rates.weights} == pair && ratio < kNearWidth && ratio > 1 / kNearWidth;
      });
    };
    if (!std::all_of(types.widths.begin(), types.widths.end(), known)) missing.matmul.push_back(pair);
  }
  for (DType cache : types.caches)
    if (std::none_of(profile.cpu.attention.begin(), profile.cpu.attention.end(), [&](const AttentionRates& rates) { return rates.cache == cache; }))
      missing.caches.push_back(cache);
  return missing;
}

void add_rates(HardwareProfile& profile, const HardwareProfile& more) {
  const auto add = [](auto& all, const auto& rates) {
    for (const auto& one : rates) {
      std::erase_if(all, [&](const auto& old) { return same_kind(old, one); });
      all.push_back(one);
    }
  };
  add(profile.cpu.matmul, more.cpu.matmul);
  add(profile.cpu.attention, more.cpu.attention);
  if (!more.doubt.empty()) profile.doubt = more.doubt;
  profile.others_share = std::max(profile.others_share, more.others_share);
  profile.load_average = std::max(profile.load_average, more.load_average);
}

}  // namespace flexgen
