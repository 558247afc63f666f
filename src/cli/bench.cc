#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <sstream>

#include "base/error.h"
#include "base/log.h"
#include "base/report.h"
#include "base/units.h"
#include "batch/batch_input.h"
#include "cli/commands.h"
#include "cli/json_output.h"
#include "cli/peers.h"
#include "cli/plan_table.h"
#include "cli/policy_text.h"
#include "cli/progress.h"
#include "io/gguf.h"
#include "io/temporary_file.h"
#include "io/whole_file.h"
#include "measure/cache_directory.h"
#include "measure/lane_peaks.h"
#include "measure/machine.h"
#include "model/dummy_checkpoint.h"
#include "model/model.h"
#include "pipeline/simulate.h"
#include "setup/dtype_choice.h"
#include "setup/hardware.h"
#include "setup/model_folder.h"
#include "setup/synthetic_job.h"
#include "setup/team.h"

namespace flexgen {
namespace {

class SyntheticLoad : public RequestSource, public CompletionSink {
 public:
  SyntheticLoad(const BenchOptions& options, const ModelConfig& config)
      : vocab_(config.vocab_size), seed_(options.seed), prefixes_(options.shared_prefix, options.prefix_groups, options.num_prompts),
        shares_(options.engine.shares_prefixes()), random_(options.seed) {
    lengths_ = synthetic_lengths(options.prompt_len, options.gen_len, options.num_prompts, config, random_);
    const auto whole = [](int64_t tokens) { return tokens / kSharedGrain * kSharedGrain; };
    for (int64_t i = 0; i < std::ssize(lengths_); ++i) {
      const auto [prompt_tokens, max_tokens] = lengths_[static_cast<size_t>(i)];
      workload.add(prompt_tokens, max_tokens, false, false, {}, {whole(shared_tokens(i)), shares_ && i > 0 ? whole(prefixes_.common_tokens(i - 1, i)) : 0});
    }
  }
  std::optional<Request> next() override {
    if (at_ == lengths_.size()) return std::nullopt;
    Request request;
    request.key = static_cast<int64_t>(at_);
    request.prompt = prefixes_.draw(request.key, seed_, vocab_);
    request.shared_tokens = shared_tokens(request.key);
    if (shares_) request.shared_ends = prefixes_.shared_ends(request.key);
    for (int64_t i = std::ssize(request.prompt); i < lengths_[at_].first; ++i)
      request.prompt.push_back(static_cast<int32_t>(random_() % static_cast<uint64_t>(vocab_)));
    request.params.max_tokens = lengths_[at_].second;
    request.params.temperature = 0;
    request.params.ignore_eos = true;
    ++at_;
    return request;
  }
  int64_t remaining() const override { return static_cast<int64_t>(lengths_.size() - at_); }
  void accept(Completion completion) override { not_finite_ += completion.reason == FinishReason::kNotFinite ? 1 : 0; }
  /// Sequences that ended early as their logits were not finite have not done the work that is measured.
  void check_finite() const {
    if (not_finite_ > 0)
      fail_io(
          "{} of {} sequences have logits that are not finite and were not finished, so there are no figures: a weight is NaN or infinite, or values overflow; check the "
          "checkpoint, or compute with more range (--compute-dtype f32)",
          not_finite_, lengths_.size());
  }
  Workload workload;

 private:
  /// Of a prompt, the tokens that are computed once for it and others.
  int64_t shared_tokens(int64_t prompt) const { return shares_ ? prefixes_.shared_tokens(prompt) : 0; }

  int64_t vocab_;
  uint64_t seed_;
  PrefixLevels prefixes_;
  bool shares_;
  std::mt19937_64 random_;
  std::vector<std::pair<int64_t, int64_t>> lengths_;
  size_t at_ = 0;
  int64_t not_finite_ = 0;
};

/// Throws Error{user} for flags that are for dummy weights.
void refuse_dummy_flags(const BenchOptions& options) {
  const char* instead = is_gguf(options.model) ? "" : ", or give --load-format dummy";
  if (options.expert_skew) fail_user("--expert-skew: {} is a checkpoint, whose routers choose; leave it out{}", options.model, instead);
  if (!options.dtype.empty() && !options.dtype_is_stand_in)
    fail_user("--dtype {}: {} is a checkpoint, whose weights have types of their own; leave it out{}", options.dtype, options.model, instead);
}

/// The checkpoint to run: the directory itself, or a dummy of a shape or config.json, written now if it is not there.
std::string checkpoint_of(const BenchOptions& options) {
  namespace fs = std::filesystem;
  const std::string& model = options.model;
  if (is_gguf(model)) {
    if (options.load_format == "dummy") fail_user("--load-format dummy: {} is a GGUF; name a shape, or give a config.json", model);
    refuse_dummy_flags(options);
    return model;
  }
  const bool is_directory = fs::is_directory(model);
  const std::string config = config_text(model);
  const bool dummy = options.load_format == "dummy" || (options.load_format == "auto" && !is_directory);
  if (!dummy && !is_directory) fail_user("--model {} with --load-format checkpoint: it is no directory", model);
  if (!dummy) {
    refuse_dummy_flags(options);
    return model;
  }

  fs::path root = options.dummy_directory;
  if (root.empty()) {
    root = cache_directory();
    if (root.empty()) fail_user("no home directory for dummy weights: give --dummy-dir, or set FLEXGEN_CACHE_DIR");
  }
  std::string name = shape_config_json(model) ? model : is_directory ? model_name_of(model) : fs::path(model).stem().string();
  std::replace(name.begin(), name.end(), '/', '-');  // of the id of a model in the Hub's cache
  const DType dtype = shape_dtype(options.dtype);
  std::string directory = (root / fmt::format("dummy-{}-{}", name, dtype_name(dtype))).string();
  parse_config(config, "", is_directory ? (fs::path(model) / "config.json").string() : model,
               options.engine.model.ignored_config_fields);  // what is wrong is said of the file that was given
  int64_t announced = 0;
  ensure_dummy_checkpoint(
      directory, config, dtype, 1,
      [&](int64_t done, int64_t total) {
        if (done - announced < 2 * kGiB && done < total) return;
        announced = done;
        spdlog::info("writing dummy weights to {}: {} of {}", directory, format_bytes(done), format_bytes(total));
      },
      options.engine.model.ignored_config_fields);
  return directory;
}

void write_json(const BenchOptions& flags, const nlohmann::ordered_json& json) {
  if (flags.json) put_json(json.dump(1), flags.json_file);
}

/// Tables, on stderr where stdout gets JSON.
void print_table(const BenchOptions& flags, const std::string& text) {
  if (flags.json && flags.json_file.empty()) print_note("{}", text);
  else print_result("{}", text);
}

nlohmann::ordered_json prediction_json(const Plan& plan) {
  const Prediction& predicted = plan.prediction;
  nlohmann::ordered_json json{{"time_s", predicted.time_s},
                              {"steps", predicted.steps},
                              {"bound_s", predicted.bound_s},
                              {"program_time_s", plan.program_time_s},
                              {"planning_s", plan.planning_s}};
  if (predicted.load_time_s) json["load_time_s"] = *predicted.load_time_s;
  for (size_t lane = 0; lane < kNumPlannedLanes; ++lane) json["lanes"][lane_name(static_cast<LaneKind>(lane))] = predicted.busy.seconds[lane];
  return json;
}

/// One pipeline of several processes. What its machines could do at most is not measured; what they will is predicted, with the first one's lanes.
int bench_together(const BenchOptions& flags, Team& team) {
  if (!flags.peers.names.empty()) fail_user("--peers: other programs are compared with one process; leave it out, or start one");
  if (flags.simulate) fail_user("--simulate: a job of one process is simulated; leave it out, or start one");
  if (team.num_replicas() > 1) fail_user("flexgen bench measures one pipeline; leave --pipeline-stages out, or start {} processes", team.num_stages());
  team.agree({{"version", kVersion}, {"--stages", flags.team.stage_split}});
  RunReport report, own;
  Prediction predicted;
  nlohmann::ordered_json json;
  {
    // Processes of one machine share the dummy checkpoint: rank 0 writes it, the others find it.
    std::string directory;
    if (team.is_root()) directory = checkpoint_of(flags);
    all_gather(team.world(), "");
    if (!team.is_root()) directory = checkpoint_of(flags);
    EngineOptions options = team.engine_options(flags.engine, directory);
    options.load_tokenizer = false;
    options.expert_skew = flags.expert_skew;
    Engine engine(options);
    team.agree({{"model", engine.model().fingerprint()}});
    SyntheticLoad load(flags, engine.model().config());
    struct Sharing {
      Team& team;
      ~Sharing() { team.stop_sharing(); }
    } sharing{team};
    team.share_progress([&engine] { return engine.progress(); });
    if (team.is_root()) {
      engine.prepare(load.workload);
      print_note("{}", plan_table(engine));
      ProgressDisplay display([&] { return team.merged_progress(); });
      report = engine.run(load, load, std::atomic<bool>{false});
      engine.dismiss();
      load.check_finite();
    } else {
      report = engine.follow();
    }
    const Policy& policy = engine.policy();
    json["policy"] = {{"micro_batch_size", policy.micro_batch_size},
                      {"num_micro_batches", policy.num_micro_batches},
                      {"num_groups", policy.num_groups},
                      {"max_rows", policy.max_rows},
                      {"buffers", policy.buffers},
                      {"weight_buffers", policy.num_weight_buffers()}};
    const std::vector<std::string> blocks = all_gather(team.world(), std::to_string(engine.blocks().second));
    json["stages"] = fmt::format("{}", fmt::join(blocks, ":"));
    predicted = engine.plan().prediction;
    json["predicted"] = prediction_json(engine.plan());
    for (const Candidate& tried : engine.plan().candidates)
      json["predicted"]["candidates"].push_back({{"micro_batch_size", tried.policy.micro_batch_size},
                                                 {"num_micro_batches", tried.policy.num_micro_batches},
                                                 {"num_groups", tried.policy.num_groups},
                                                 {"max_rows", tried.policy.max_rows},
                                                 {"time_s", tried.time_s}});
    for (const LinkSpeed& link : engine.links())
      json["links"].push_back({{"bytes_per_s", link.bytes_per_s}, {"delay_s", link.delay_s}, {"large_delay_s", link.large_delay_s}});
    own = report;
    report = team.share_report(report);
    own.elapsed_s = report.elapsed_s;
  }
  team.join_traces(flags.engine.trace_file);
  if (team.is_root()) {
    print_table(flags, report_table(report));
    print_table(flags, prediction_table(predicted, own));
    if (flags.json) {
      json["model"] = flags.model;
      json["ranks"] = team.world().size();
      json["num_prompts"] = flags.num_prompts;
      json["elapsed_s"] = report.elapsed_s;
      json["generated_tokens_per_s"] = static_cast<double>(report.generated_tokens) / report.elapsed_s;
      json["prompt_tokens_per_s"] = static_cast<double>(report.prompt_tokens) / report.elapsed_s;
      json["steps"] = report.work.steps;
      for (const LaneReport& lane : report.lanes)
        json["lanes"][lane.name()] = {{"busy_s", lane.stats.busy_s}, {"bytes", lane.stats.bytes}, {"operations", lane.stats.operations}};
      write_json(flags, json);
    }
  }
  team.leave();
  return kExitDone;
}

PeerJob peer_job(const BenchOptions& flags, const EngineOptions& options, const Engine& engine) {
  PeerJob job;
  job.model = flags.model;
  job.checkpoint = options.model_directory;
  const DType dtype = engine.model().weights().front().dtype;
  job.dtype = dtype == DType::kF32 ? "f32" : dtype == DType::kF16 ? "f16" : "bf16";
  job.directory = options.disk_directory.empty() ? temporary_directory() : options.disk_directory;
  job.cpu_bytes = options.budgets.cpu_bytes;
  if (engine.device()) job.gpu_bytes = std::max(options.budgets.gpu_bytes, engine.memory().bytes(Tier::kGpu));
  SyntheticLoad load(flags, engine.model().config());
  while (const std::optional<Request> request = load.next()) {
    job.prompts.push_back(request->prompt);
    job.max_tokens.push_back(request->params.max_tokens);
  }
  return job;
}

ModelConfig config_of(const EngineOptions& options) {
  const std::string& model = options.model_directory;
  if (is_gguf(model)) return Model::load(model, options.ignored_config_fields)->config();
  return parse_config(config_text(model), "", model, options.ignored_config_fields);
}

/// One process by itself; returns the figures. `job` is what others are to do, where flags ask for them; all memory is free again afterwards.
nlohmann::ordered_json bench_alone(const BenchOptions& flags, EngineOptions& options, PeerJob* job) {
  SyntheticLoad load(flags, config_of(options));
  set_fastest_dtypes(flags.engine, load.workload, options);
  Engine engine(options);
  FileSystem files;
  // Before the budget is taken: this needs memory of its own.
  std::optional<LanePeaks> peaks;
  if (!flags.no_efficiency) peaks = measure_peaks(engine, files, kPeakTimeS, options.disk_directory);
  set_hardware(engine, flags.engine);
  engine.prepare(load.workload);
  print_note("{}", plan_table(engine));
  std::atomic<bool> never{false};
  RunReport report;
  {
    ProgressDisplay display([&] { return engine.progress(); });
    report = engine.run(load, load, never);
  }
  load.check_finite();
  const int64_t promised = engine.memory().bytes(Tier::kCpu), peak = peak_rss_bytes();  // before the measurement below takes memory
  Bound bound;
  if (peaks) {
    settle_peaks(*peaks, report, measure_disk_read(engine.model(), files, kPeakTimeS, 0.5), options.disk_bytes_per_s);
    bound = bound_of(report, *peaks);
  }
  auto per_second = [&](int64_t tokens) { return static_cast<double>(tokens) / report.elapsed_s; };
  print_table(flags, report_table(report));
  print_table(flags, prediction_table(engine.plan().prediction, report));
  doubt_if_faster(engine, flags.engine, report);
  if (peaks) print_table(flags, bound_table(*peaks, bound, report));
  if (engine.device()) {
    const int64_t used = engine.device()->total_bytes() - engine.device()->free_bytes(),
                  planned_there = engine.memory().bytes(Tier::kGpu) + engine.device()->kernel_bytes();
    print_table(flags, fmt::format("GPU memory in use {}: {} planned, and {} of the context, code and other programs\n", format_bytes(used),
                                   format_bytes(planned_there), format_bytes(used - planned_there)));
  }
  print_table(flags, fmt::format("peak RSS {}: {} planned and {} beside it\n", format_bytes(peak), format_bytes(promised), format_bytes(peak - promised)));
  nlohmann::ordered_json json;
  json["model"] = flags.model;
  if (flags.expert_skew) json["expert_skew"] = *flags.expert_skew;
  json["num_prompts"] = flags.num_prompts;
  json["prompt_len"] = {flags.prompt_len.first, flags.prompt_len.second};
  json["gen_len"] = {flags.gen_len.first, flags.gen_len.second};
  json["shared_prefix"] = flags.shared_prefix;
  json["prefix_groups"] = flags.prefix_groups;
  json["shared_prompt_tokens"] = report.shared_prompt_tokens;
  json["cpu_memory_bytes"] = options.budgets.cpu_bytes;
  json["elapsed_s"] = report.elapsed_s;
  json["generated_tokens_per_s"] = per_second(report.generated_tokens);
  json["prompt_tokens_per_s"] = per_second(report.prompt_tokens);
  if (peaks) {
    json["efficiency"] = bound.seconds() / report.elapsed_s;
    json["bound_s"] = bound.seconds();
    json["bound_lane"] = bound.busiest();
    json["bounds_s"] = {{"compute", bound.compute_s}, {"memory_read", bound.memory_s}, {"disk_read", bound.disk_read_s}, {"disk_write", bound.disk_write_s}};
    json["peaks"] = {{"matmul_flops_per_s", peaks->matmul_flops_per_s},
                     {"ram_read_bytes_per_s", peaks->ram_read_bytes_per_s},
                     {"disk_read_bytes_per_s", peaks->disk_read_bytes_per_s},
                     {"disk_write_bytes_per_s", peaks->disk_write_bytes_per_s}};
  }
  if (engine.device()) {
    json["gpu"] = engine.device()->name();
    json["gpu_memory_bytes"] = engine.memory().bytes(Tier::kGpu);
    json["attention_on"] = engine.policy().attention_beside() ? "cpu" : "gpu";
  }
  if (peaks && peaks->device) {
    json["bounds_s"].update({{"h2d", bound.h2d_s}, {"d2h", bound.d2h_s}, {"cpu", bound.cpu_s}});
    json["peaks"].update({{"gpu_matmul_flops_per_s", peaks->device->matmul_flops_per_s},
                          {"gpu_memory_bytes_per_s", peaks->device->memory_bytes_per_s},
                          {"h2d_bytes_per_s", peaks->device->h2d_bytes_per_s},
                          {"d2h_bytes_per_s", peaks->device->d2h_bytes_per_s}});
  }
  json["peak_rss_bytes"] = peak;
  json["planned_cpu_bytes"] = promised;
  json["weight_dtype"] = options.weight_dtype;
  json["weight_quantization"] = flags.engine.weight_quantization;
  json["matmul_dtype"] = flags.engine.matmul_dtype;
  json["kv_cache_dtype"] = dtype_name(engine.kv_dtype());
  json["steps"] = report.work.steps;
  json["predicted"] = prediction_json(engine.plan());
  if (flags.simulate) {
    SyntheticLoad again(flags, engine.model().config());
    const RunReport simulated = simulate(engine.model(), engine.policy(), engine.precision(), engine.hardware(), again);
    print_table(flags, fmt::format("simulated: {}\n", format_duration(simulated.elapsed_s)));
    json["simulated"]["time_s"] = simulated.elapsed_s;
    for (const LaneReport& lane : simulated.lanes) json["simulated"]["lanes"][lane.name()] = lane.stats.busy_s;
  }
  json["policy"] = policy_json(engine.policy());
  json["policy"].update({{"max_choosing_rows", engine.policy().max_choosing_rows}, {"hottest_first", engine.policy().hottest_first}});
  for (const LaneReport& lane : report.lanes)
    json["lanes"][lane.name()] = {{"busy_s", lane.stats.busy_s}, {"bytes", lane.stats.bytes}, {"operations", lane.stats.operations}};
  if (!flags.peers.names.empty()) *job = peer_job(flags, options, engine);
  return json;
}

}  // namespace

int bench_command(const BenchOptions& given) {
  BenchOptions flags = given;
  flags.model = find_model_or_shape(given.model, given.engine.model.revision);
  if (std::unique_ptr<Team> team = Team::join(flags.team)) return together(*team, [&] { return bench_together(flags, *team); });
  if (std::find(flags.peers.names.begin(), flags.peers.names.end(), "flexllmgen") != flags.peers.names.end() && flags.engine.backend != "cuda")
    fail_user("--peers flexllmgen: it computes on a GPU alone; give --backend cuda");
  check_peers(flags.peers);
  EngineOptions options = engine_options(flags.engine, checkpoint_of(flags));
  options.load_tokenizer = false;
  options.expert_skew = flags.expert_skew;
  PeerJob job;
  nlohmann::ordered_json json = bench_alone(flags, options, &job);
  const bool to_file = !flags.json_file.empty();
  if (to_file) write_json(flags, json);
  const int64_t generated = std::accumulate(job.max_tokens.begin(), job.max_tokens.end(), int64_t{0});
  std::vector<PeerResult> results;
  for (const std::string& name : flags.peers.names) {
    spdlog::info("the same job by {}", name);
    results.push_back(run_peer(flags.peers, name, job));
    json["peers"] = peers_json(results, generated);
    if (to_file) write_json(flags, json);  // what is finished is kept, whatever the next one does
  }
  if (!to_file) write_json(flags, json);
  if (!results.empty()) print_table(flags, peers_table(json["elapsed_s"], generated, results));
  return kExitDone;
}

}  // namespace flexgen
