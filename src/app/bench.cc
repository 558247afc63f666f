#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "app/commands.h"
#include "app/lane_peaks.h"
#include "app/machine.h"
#include "app/plan_table.h"
#include "app/progress.h"
#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "model/dummy_checkpoint.h"

namespace flexgen {
namespace {

std::string read_text(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

class SyntheticLoad : public RequestSource, public CompletionSink {
 public:
  SyntheticLoad(const BenchOptions& options, const ModelConfig& config) : vocab_(config.vocab_size), random_(options.seed) {
    auto [prompt, gen] = std::pair(options.prompt_len, options.gen_len);
    if (prompt.second + gen.second > config.max_positions)
      fail_user("--prompt-len {} and --gen-len {}: together more than the {} tokens that the model takes", prompt.second, gen.second, config.max_positions);
    for (int64_t i = 0; i < options.num_prompts; ++i) {
      lengths_.emplace_back(draw(prompt), draw(gen));
      workload.add(lengths_.back().first, lengths_.back().second, false, false);
    }
  }
  std::optional<Request> next() override {
    if (at_ == lengths_.size()) return std::nullopt;
    Request request;
    request.key = static_cast<int64_t>(at_);
    for (int64_t i = 0; i < lengths_[at_].first; ++i) request.prompt.push_back(static_cast<int32_t>(random_() % static_cast<uint64_t>(vocab_)));
    request.params.max_tokens = lengths_[at_].second;
    request.params.temperature = 0;
    request.params.ignore_eos = true;
    ++at_;
    return request;
  }
  int64_t remaining() const override { return static_cast<int64_t>(lengths_.size() - at_); }
  void accept(Completion) override {}
  Workload workload;

 private:
  int64_t draw(const std::pair<int64_t, int64_t>& range) {
    return range.first + static_cast<int64_t>(random_() % static_cast<uint64_t>(range.second - range.first + 1));
  }
  int64_t vocab_;
  std::mt19937_64 random_;
  std::vector<std::pair<int64_t, int64_t>> lengths_;
  size_t at_ = 0;
};

/// The checkpoint to run: the directory itself, or a dummy of a shape or config.json, written now if it is not there.
std::string checkpoint_of(const BenchOptions& options) {
  namespace fs = std::filesystem;
  const std::string& model = options.model;
  const bool is_directory = fs::is_directory(model), is_json = model.ends_with(".json") && fs::is_regular_file(model);
  std::optional<std::string> config = shape_config_json(model);
  if (is_json) config = read_text(model);
  if (is_directory) config = read_text(fs::path(model) / "config.json");
  if (!config) fail_user("--model {}: no directory, no config.json and no known shape ({})", model, fmt::join(known_shapes(), ", "));
  const bool dummy = options.load_format == "dummy" || (options.load_format == "auto" && !is_directory);
  if (!dummy && !is_directory) fail_user("--model {} with --load-format checkpoint: it is no directory", model);
  if (!dummy) return model;

  fs::path root = options.dummy_directory;
  if (root.empty()) {
    const char* home = std::getenv("HOME");
    if (!home) fail_user("no home directory for dummy weights; give --dummy-dir");
    root = fs::path(home) / ".cache" / "flexgen";
  }
  std::string name = shape_config_json(model) ? model : fs::path(model).stem().string();
  std::string directory = (root / fmt::format("dummy-{}-{}", name, options.dtype)).string();
  DType dtype = options.dtype == "f32" ? DType::kF32 : options.dtype == "f16" ? DType::kF16 : DType::kBF16;
  int64_t announced = 0;
  ensure_dummy_checkpoint(directory, *config, dtype, 1, [&](int64_t done, int64_t total) {
    if (done - announced < 2 * kGiB && done < total) return;
    announced = done;
    spdlog::info("writing dummy weights to {}: {} of {}", directory, format_bytes(done), format_bytes(total));
  });
  return directory;
}

}  // namespace

int bench_command(const BenchOptions& flags) {
  EngineOptions options = engine_options(flags.engine, checkpoint_of(flags));
  options.load_tokenizer = false;
  Engine engine(options);
  SyntheticLoad load(flags, engine.model().config());
  FileSystem files;
  // Before the budget is taken: this needs memory of its own.
  LanePeaks peaks = measure_peaks(engine.model(), engine.kernels(), files, kPeakTimeS, options.disk_directory);
  engine.prepare(load.workload);
  fmt::print(stderr, "{}", plan_table(engine));
  std::atomic<bool> never{false};
  RunReport report;
  {
    ProgressDisplay display([&] { return engine.progress(); });
    report = engine.run(load, load, never);
  }
  const int64_t promised = engine.memory().bytes(Tier::kCpu), peak = peak_rss_bytes();  // before the measurement below takes memory
  raise_disk_peaks(peaks, report, measure_disk_read(engine.model(), files, kPeakTimeS, 0.5));
  Bound bound = bound_of(report, peaks);
  double efficiency = bound.seconds() / report.elapsed_s;
  auto per_second = [&](int64_t tokens) { return static_cast<double>(tokens) / report.elapsed_s; };
  fmt::print("{}", report_table(report));
  fmt::print("{}", bound_table(peaks, bound, report));
  fmt::print("peak RSS {}: {} planned and {} beside it\n", format_bytes(peak), format_bytes(promised), format_bytes(peak - promised));
  if (flags.json_file.empty()) return kExitDone;
  nlohmann::ordered_json json;
  json["model"] = flags.model;
  json["num_prompts"] = flags.num_prompts;
  json["prompt_len"] = {flags.prompt_len.first, flags.prompt_len.second};
  json["gen_len"] = {flags.gen_len.first, flags.gen_len.second};
  json["cpu_memory_bytes"] = options.budgets.cpu_bytes;
  json["elapsed_s"] = report.elapsed_s;
  json["load_time_s"] = report.load_time_s;
  json["generated_tokens_per_s"] = per_second(report.generated_tokens);
  json["prompt_tokens_per_s"] = per_second(report.prompt_tokens);
  json["efficiency"] = efficiency;
  json["bound_s"] = bound.seconds();
  json["bound_lane"] = bound.busiest();
  json["bounds_s"] = {{"compute", bound.compute_s}, {"disk_read", bound.disk_read_s}, {"disk_write", bound.disk_write_s}};
  json["peaks"] = {{"matmul_flops_per_s", peaks.matmul_flops_per_s}, {"ram_read_bytes_per_s", peaks.ram_read_bytes_per_s},
                   {"disk_read_bytes_per_s", peaks.disk_read_bytes_per_s}, {"disk_write_bytes_per_s", peaks.disk_write_bytes_per_s}};
  json["peak_rss_bytes"] = peak;
  json["planned_cpu_bytes"] = promised;
  json["weight_dtype"] = flags.engine.weight_dtype;
  json["matmul_dtype"] = flags.engine.matmul_dtype;
  json["kv_cache_dtype"] = dtype_name(engine.kv_dtype());
  json["steps"] = report.work.steps;
  json["policy"] = {{"micro_batch_size", engine.policy().micro_batch_size}, {"num_micro_batches", engine.policy().num_micro_batches},
                    {"max_rows", engine.policy().max_rows}, {"buffers", engine.policy().buffers},
                    {"weights", engine.policy().weights.to_string()}, {"kv_cache", engine.policy().kv_cache.to_string()},
                    {"activations", engine.policy().activations.to_string()}};
  for (const LaneReport& lane : report.lanes)
    json["lanes"][lane.name] = {{"busy_s", lane.stats.busy_s}, {"bytes", lane.stats.bytes}, {"operations", lane.stats.operations}};
  std::ofstream out(flags.json_file);
  out << json.dump(1) << "\n";
  if (!out.flush()) fail_io("cannot write {}", flags.json_file);
  return kExitDone;
}

}  // namespace flexgen
