#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "app/bench_bound.h"
#include "app/commands.h"
#include "app/engine_runner.h"
#include "app/machine.h"
#include "app/progress.h"
#include "app/sha256.h"
#include "app/speed.h"
#include "app/stop_signals.h"
#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "engine/sampler.h"
#include "model/dummy_checkpoint.h"

namespace flexgen {
namespace {

namespace fs = std::filesystem;

DType dtype_of(const std::string& name) { return name == "f32" ? DType::kF32 : name == "f16" ? DType::kF16 : DType::kBF16; }

bool has_weights(const fs::path& directory) {
  return fs::exists(directory / "model.safetensors") || fs::exists(directory / "model.safetensors.index.json");
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail_user("cannot read {}", path.string());
  return {std::istreambuf_iterator<char>(file), {}};
}

/// The config.json text that the user means by a shape, a file or a directory.
std::string config_of(const std::string& model) {
  if (fs::is_directory(model)) return read_file(fs::path(model) / "config.json");
  if (fs::is_regular_file(model)) return read_file(model);
  if (std::optional<std::string> config = shape_config_json(model)) return *config;
  fail_user("--model {}: neither a directory, nor a config.json, nor a shape that is known ({})", model, fmt::join(known_shapes(), ", "));
}

fs::path dummy_root(const BenchOptions& options) {
  if (!options.dummy_directory.empty()) return options.dummy_directory;
  if (!options.engine.disk_directory.empty()) return fs::path(options.engine.disk_directory) / "flexgen-dummy";
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache && *cache) return fs::path(cache) / "flexgen";
  if (const char* home = std::getenv("HOME"); home && *home) return fs::path(home) / ".cache" / "flexgen";
  return fs::temp_directory_path() / "flexgen";
}

/// The directory to load: the user's own, or one with dummy weights, written now if it is not there yet.
std::string checkpoint_directory(const BenchOptions& options) {
  bool real = fs::is_directory(options.model) && has_weights(options.model);
  if (options.load_format == "checkpoint" && !real)
    fail_user("--load-format checkpoint: {} is no directory with model.safetensors; give one, or --load-format dummy", options.model);
  if (real && options.load_format != "dummy") return options.model;
  std::string config = config_of(options.model);
  std::string name = fmt::format("{}-{}-{}", model_name_of(options.model), options.dtype, Sha256::hex(Sha256::of(config), 4));
  std::string directory = (dummy_root(options) / name).string();
  double shown = -1;
  ensure_dummy_checkpoint(directory, config, dtype_of(options.dtype), options.seed, [&](int64_t done, int64_t total) {
    double share = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 1;
    if (share < shown + 0.1 && share < 1) return;
    shown = share;
    spdlog::info("writing dummy weights to {}: {} of {}", directory, format_bytes(done), format_bytes(total));
  });
  return directory;
}

/// Sequences of random tokens; lengths and tokens depend on the seed and the number of the sequence alone.
class SyntheticRequests : public RequestSource, public CompletionSink {
 public:
  SyntheticRequests(const BenchOptions& options, int64_t vocab_size) : options_(options), vocab_size_(vocab_size) {}

  std::pair<int64_t, int64_t> lengths(int64_t number) const {
    auto draw = [&](std::pair<int64_t, int64_t> range, uint64_t which) {
      double u = uniform_random(options_.seed ^ 0x6c656e67u, 2 * static_cast<uint64_t>(number) + which);
      return range.first + static_cast<int64_t>(u * static_cast<double>(range.second - range.first + 1));
    };
    return {draw(options_.prompt_len, 0), draw(options_.gen_len, 1)};
  }
  Workload workload() const {
    Workload workload;
    for (int64_t i = 0; i < options_.num_prompts; ++i) {
      auto [prompt, generated] = lengths(i);
      workload.add(prompt, generated, false, false);
    }
    return workload;
  }

  std::optional<Request> next() override {
    if (next_ == options_.num_prompts) return std::nullopt;
    auto [prompt, generated] = lengths(next_);
    Request request;
    request.key = next_;
    for (int64_t i = 0; i < prompt; ++i)
      request.prompt.push_back(static_cast<int32_t>(uniform_random(options_.seed + static_cast<uint64_t>(next_), static_cast<uint64_t>(i)) *
                                                    static_cast<double>(vocab_size_)));
    request.params.max_tokens = generated;
    request.params.temperature = 0;
    request.params.ignore_eos = true;
    ++next_;
    return request;
  }
  int64_t remaining() const override { return options_.num_prompts - next_; }
  void accept(Completion) override {}

 private:
  const BenchOptions& options_;
  int64_t vocab_size_, next_ = 0;
};

/// Speeds that can be measured before the job takes its memory.
Peaks measure_peaks(Engine& engine, const EngineFlags& flags) {
  Peaks peaks;
  peaks.disk_read_bytes_per_s = measure_read(engine.model().files(), 1.5).read_bytes_per_s;
  peaks.memory_read_bytes_per_s = measure_memory_read(flags.threads > 0 ? flags.threads : usable_cores(), 0.5);
  bool slow = flags.backend == "reference";
  int64_t cols = std::min<int64_t>(slow ? 256 : 4096, std::max<int64_t>(256, engine.model().config().hidden_size));
  for (int64_t rows : {slow ? 16 : 256, slow ? 32 : 1024})
    peaks.flops_per_s = std::max(peaks.flops_per_s, measure_linear(engine.kernels(), engine.model().weights().front().dtype, rows, cols, 0.5));
  return peaks;
}

nlohmann::ordered_json to_json(const BenchOptions& options, const Engine& engine, const RunReport& report, const Peaks& peaks,
                               const std::vector<ResourceTime>& times, int64_t peak_rss) {
  auto per_s = [&](int64_t tokens) { return report.elapsed_s > 0 ? static_cast<double>(tokens) / report.elapsed_s : 0; };
  const Policy& policy = engine.policy();
  nlohmann::ordered_json json;
  json["model"] = options.model;
  json["generated_tokens_per_s"] = per_s(report.generated_tokens);
  json["prompt_tokens_per_s"] = per_s(report.prompt_tokens);
  json["efficiency"] = efficiency(report, times);
  json["elapsed_s"] = report.elapsed_s;
  json["load_time_s"] = report.load_time_s;
  json["sequences"] = report.sequences;
  json["prompt_tokens"] = report.prompt_tokens;
  json["generated_tokens"] = report.generated_tokens;
  json["peak_rss_bytes"] = peak_rss;
  json["lanes"] = nlohmann::ordered_json::object();
  for (const LaneReport& lane : report.lanes)
    json["lanes"][lane.name] = {{"busy_s", lane.stats.busy_s}, {"bytes", lane.stats.bytes}, {"operations", lane.stats.operations}};
  json["peaks"] = {{"disk_read_bytes_per_s", peaks.disk_read_bytes_per_s}, {"disk_write_bytes_per_s", peaks.disk_write_bytes_per_s},
                   {"memory_read_bytes_per_s", peaks.memory_read_bytes_per_s}, {"flops_per_s", peaks.flops_per_s}};
  double bound_s = 0;
  for (const ResourceTime& time : times) {
    json["bounds"][time.resource] = {{"work", time.work}, {"peak_per_s", time.peak_per_s}, {"time_s", time.time_s}};
    bound_s = std::max(bound_s, time.time_s);
  }
  json["bound_s"] = bound_s;
  json["policy"] = {{"micro_batch_size", policy.micro_batch_size}, {"num_micro_batches", policy.num_micro_batches}, {"buffers", policy.buffers},
                    {"weights", policy.weights.to_string()}, {"kv_cache", policy.kv_cache.to_string()},
                    {"activations", policy.activations.to_string()}, {"max_rows", policy.max_rows}};
  json["cpu_bytes"] = engine.memory().bytes(Tier::kCpu);
  json["disk_bytes"] = engine.memory().bytes(Tier::kDisk);
  json["work"] = {{"linear_flops", report.work.linear_flops}, {"attention_flops", report.work.attention_flops},
                  {"kv_read_bytes", report.work.kv_read_bytes}, {"steps", report.work.steps}, {"visits", report.work.visits}};
  return json;
}

std::string bound_table(const RunReport& report, const std::vector<ResourceTime>& times) {
  std::string table;
  double bound_s = 0;
  for (const ResourceTime& time : times) {
    if (time.work == 0) continue;
    bound_s = std::max(bound_s, time.time_s);
    bool flops = time.resource == "compute";
    std::string work = flops ? fmt::format("{:.2f} TFLOP", time.work / 1e12) : format_bytes(std::llround(time.work));
    std::string peak = flops ? fmt::format("{:.3f} TFLOP/s", time.peak_per_s / 1e12) : fmt::format("{:.2f} GB/s", time.peak_per_s / 1e9);
    table += fmt::format("  {:<20}{:>14}   at its peak of {} takes {}\n", time.resource, work, peak, format_duration(time.time_s));
  }
  table += fmt::format("  {:<20}{:>14}   no schedule can be faster\n", "bound", format_duration(bound_s));
  table += fmt::format("  {:<20}{:>13.1f}%   bound / time\n", "efficiency", 100 * efficiency(report, times));
  return table;
}

}  // namespace

int bench_command(const BenchOptions& options) {
  StopSignals signals;
  EngineOptions engine_settings = engine_options(options.engine, checkpoint_directory(options));
  engine_settings.load_tokenizer = false;
  Engine engine(engine_settings);
  const ModelConfig& config = engine.model().config();
  int64_t longest = options.prompt_len.second + options.gen_len.second;
  if (longest > config.max_positions)
    fail_user("--prompt-len {} and --gen-len {} are {} together, but the model has {} positions; lower one of them", options.prompt_len.second,
              options.gen_len.second, longest, config.max_positions);

  Peaks peaks = measure_peaks(engine, options.engine);
  EngineRunner runner(engine);
  SyntheticRequests requests(options, config.vocab_size);
  runner.prepare(requests.workload());
  RunReport report = runner.run(requests, requests, signals.stop());
  int64_t peak_rss = peak_rss_bytes();

  // Again after the run, and the better of both: the bound shall not profit from a bad moment.
  peaks.disk_read_bytes_per_s = std::max(peaks.disk_read_bytes_per_s, measure_read(engine.model().files(), 1.5).read_bytes_per_s);
  if (lane_bytes(report, "disk write") > 0) peaks.disk_write_bytes_per_s = measure_disk(options.engine.disk_directory, 256 * kMiB).write_bytes_per_s;
  raise_to_lanes(report, &peaks);
  std::vector<ResourceTime> times = resource_times(report, peaks);

  std::string table = report_table(report) + bound_table(report, times);
  table += fmt::format("  {:<20}{:>14}   budget {} and the fixed overhead\n", "peak memory", format_bytes(peak_rss),
                       format_bytes(engine_settings.budgets.cpu_bytes));
  std::fputs(table.c_str(), stdout);
  if (!options.json_file.empty()) {
    std::ofstream file(options.json_file, std::ios::binary | std::ios::trunc);
    file << to_json(options, engine, report, peaks, times, peak_rss).dump(2) << "\n";
    if (!file.flush()) fail_io("cannot write {}", options.json_file);
  }
  return report.stopped ? kExitStopped : kExitDone;
}

}  // namespace flexgen
