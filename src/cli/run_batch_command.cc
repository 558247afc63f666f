#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "base/report.h"
#include "base/sha256.h"
#include "base/units.h"
#include "batch/batch_model.h"
#include "batch/chat_source.h"
#include "batch/job_files.h"
#include "batch/kept_input.h"
#include "batch/line_order.h"
#include "batch/run_batch.h"
#include "batch/shards.h"
#include "cli/commands.h"
#include "cli/json_output.h"
#include "cli/plan_table.h"
#include "cli/progress.h"
#include "cli/stop_signals.h"
#include "io/checked_json.h"
#include "io/whole_file.h"
#include "measure/lane_peaks.h"
#include "setup/dtype_choice.h"
#include "setup/hardware.h"
#include "setup/model_folder.h"
#include "setup/team.h"

namespace flexgen {
namespace {

class EngineRunner : public BatchRunner {
 public:
  /// `team`: null if this process is alone.
  EngineRunner(Engine& engine, bool efficiency, const EngineFlags& flags, Team* team)
      : engine_(engine), efficiency_(efficiency), flags_(flags), write_directory_(flags.disk_directory), team_(team) {}
  void prepare(const Workload& workload, std::map<std::string, std::string>& options) override {
    // A job goes on where its first start's plan put attention, which decides the rounding.
    auto attention = options.find(kAttentionOn);
    if (attention != options.end() && attention->second != kLeftToThePlan) {
      const bool beside = attention->second == "cpu";
      if (beside && flags_.policy.kv_cache && flags_.policy.kv_cache->gpu > 0)
        fail_user(
            "--kv-cache {}: this job began with attention beside a KV cache in RAM and on disk, so it can have no share in GPU memory; leave it out, or --overwrite",
            flags_.policy.kv_cache->to_string());
      engine_.set_attention_tier(beside ? Tier::kCpu : Tier::kGpu);
    }
    // Before the budget is taken: this needs memory of its own.
    if (efficiency_) peaks_ = measure_peaks(engine_, files_, kPeakTimeS, write_directory_);
    if (!team_ || team_->num_stages() == 1) {  // stages know it already
      std::optional<StopSignals::AtOnce> at_once;
      if (!team_) at_once.emplace(kExitStopped);
      set_hardware(engine_, flags_);
    }
    engine_.prepare(workload);
    if (attention != options.end()) attention->second = engine_.policy().attention_beside() ? "cpu" : "gpu";
    if (!team_ || team_->is_root()) print_note("{}", plan_table(engine_));
  }
  RunReport run(RequestSource& source, CompletionSink& sink, const std::atomic<bool>& stop) override {
    auto with_before = [before = source.done_before()](Progress progress) {
      progress.sequences_before = before;
      return progress;
    };
    if (!team_) display_.emplace([this, with_before] { return with_before(engine_.progress()); });
    else if (team_->is_root()) display_.emplace([this, with_before] { return with_before(team_->merged_progress()); });
    RunReport report = engine_.run(source, sink, stop);
    run_ = report;
    if (!team_) display_.reset();
    return report;
  }
  /// With a team: the other replicas are done as well.
  void end_display() { display_.reset(); }
  /// After the display is gone: whether this machine's profile is right.
  void judge_profile() const { doubt_if_faster(engine_, flags_, run_); }
  /// Lines on the efficiency of a run, if they were asked for.
  std::string efficiency_of(const RunReport& report) {
    if (!efficiency_) return "";
    settle_peaks(peaks_, report, measure_disk_read(engine_.model(), files_, kPeakTimeS, 0.5), static_cast<double>(flags_.disk_bytes_per_s));
    return bound_table(peaks_, bound_of(report, peaks_), report);
  }

 private:
  Engine& engine_;
  FileSystem files_;
  bool efficiency_;
  EngineFlags flags_;
  std::string write_directory_;
  Team* team_;
  LanePeaks peaks_;
  RunReport run_;
  std::optional<ProgressDisplay> display_;
};

/// An input that was read before the engine was there.
struct ReadInput {
  std::unique_ptr<Tokenizer> tokenizer;
  std::optional<BatchInput> lines;
};

/// Where flags allow several types: those that the job was begun with if it goes on, else those that it is planned to be done with soonest. Reads the input for that, from `path`.
ReadInput choose_dtypes_of_job(const RunBatchOptions& options, const std::string& path, EngineOptions& engine, const std::atomic<bool>& stop) {
  if (!options.engine.chooses_dtypes()) return {};
  ReadInput read{engine.load_tokenizer && has_tokenizer_files(options.model) ? Tokenizer::load(options.model) : nullptr, {}};
  const std::unique_ptr<Model> model = Model::load(options.model, options.engine.model.ignored_config_fields);
  read.lines =
      BatchInput::scan(path, limits_of(options.model, options.chat_template, model->config(), read.tokenizer.get()), stop, spill_directory(options.output));
  const BatchInput& input = *read.lines;
  if (input.stopped()) return read;
  const std::string job_file = JobFiles(shard_output(options.output, parse_shard(options.shard))).manifest;
  if (file_is_there(job_file)) {
    const JobIdentity begun = read_job_file(job_file, "give another output, or one type each for weights and KV cache");
    auto had = [&](const char* name) {
      const auto entry = begun.options.find(name);
      return entry == begun.options.end() ? std::string() : entry->second;
    };
    if (begun.input_sha256 == input.fingerprint() || !options.overwrite)
      for (const DtypePair& pair : allowed_dtypes(options.engine)) {
        const DType kv = kv_dtype_of(pair.kv_cache, compute_dtype_of(engine, *model));
        if (pair.weights != had("weight dtype") || dtype_name(kv) != had("KV cache dtype")) continue;
        spdlog::info("weights {} and KV cache {}, as this job was begun", pair.weights, pair.kv_cache);
        engine = with_types(engine, pair);
        return read;
      }
  }
  const Workload workload = workload_of_input(input, options.engine.shares_prefixes(), ExpectedAnswers{options.expected_tokens, {}}, kSharedGrain);
  if (workload.num_sequences > 0) set_fastest_dtypes(options.engine, workload, engine);
  else engine = with_types(engine, allowed_dtypes(options.engine).front());  // nothing is computed: the lines' records say what is wrong with them
  return read;
}

/// Processes that each plan for themselves must round alike: without --attention-on all attend on their GPU.
void fix_attention(Engine& engine) {
  if (engine.device() && !engine.attention_tier()) engine.set_attention_tier(Tier::kGpu);
}

/// A tokenizer is no need where prompts are token ids.
void leave_tokenizer_out(const RunBatchOptions& options, EngineOptions& chosen) {
  chosen.needs_tokenizer = false;
  chosen.load_tokenizer = !options.skip_tokenizer;
  if (chosen.load_tokenizer && !has_tokenizer_files(options.model))
    spdlog::warn("{} has no tokenizer files: prompts must be token ids, and answers give token ids and no text", options.model);
}

/// What --json gives: the run in figures.
nlohmann::ordered_json summary_of(const BatchOutcome& outcome, const std::string& output) {
  nlohmann::ordered_json json{{"output", output},
                              {"lines", outcome.lines},
                              {"answered", outcome.answered},
                              {"done_before", outcome.kept},
                              {"bad", outcome.failed},
                              {"without_answer", outcome.without_answer},
                              {"cut_off", outcome.report.cut_off},
                              {"stopped", outcome.stopped}};
  add_report(outcome.report, &json);
  return json;
}

BatchFiles files_of(const RunBatchOptions& options) {
  BatchFiles files{options.input, options.output, options.overwrite};
  files.expected_tokens = options.expected_tokens;
  files.share_prefixes = options.engine.shares_prefixes();
  files.in_order = options.in_order;
  files.error_output = options.error_output;
  return files;
}

/// Why a job that is done has such an exit code, where the notes that tell it are not shown.
void tell_of_lines(const BatchOutcome& outcome, const std::string& output, int code) {
  if (shows_notes() || (code != kExitFailed && code != kExitBadLines)) return;
  const int64_t count = code == kExitFailed ? outcome.without_answer : outcome.failed;
  write_note(fmt::format("flexgen: {}: {} of {} lines {} {}, as {} error {} {}\n", output, format_count(count), format_count(outcome.lines),
                         count == 1 ? "is" : "are", code == kExitFailed ? "without an answer" : "bad", count == 1 ? "its" : "their",
                         count == 1 ? "record" : "records", count == 1 ? "says" : "say"));
}

int tell(const BatchOutcome& outcome, const RunBatchOptions& options, const std::string& output, const std::string& efficiency, const BatchSteps& steps = {}) {
  if (outcome.report.sequences > 0) print_note("{}{}", report_table(outcome.report), efficiency);
  print_note("{}: {} lines, {} answered now, {} done before, {} bad{}\n", output, format_count(outcome.lines), format_count(outcome.answered),
             format_count(outcome.kept), format_count(outcome.failed),
             outcome.without_answer > 0 ? fmt::format(", {} without an answer, as their error records say", format_count(outcome.without_answer)) : "");
  if (const int64_t count = outcome.report.cut_off; count > 0)
    spdlog::warn(
        "{}: {} {} of this run that must follow a schema or grammar {} cut off by max_tokens (finish_reason \"length\") and may not parse; raise max_tokens, or bound what may be said "
        "(maxLength, maxItems)",
        output, format_count(count), count == 1 ? "answer" : "answers", count == 1 ? "was" : "were");
  nlohmann::ordered_json summary = summary_of(outcome, output);
  if (steps.end && !outcome.stopped) steps.end(&summary);
  if (options.json) put_json(summary.dump(1), options.json_file);
  if (!outcome.stopped) {
    const bool none = outcome.answered + outcome.kept_answers == 0;
    const int code = outcome.without_answer > 0 ? kExitFailed : outcome.failed > 0 && (none || options.fail_on_bad_lines) ? kExitBadLines : kExitDone;
    tell_of_lines(outcome, output, code);
    return code;
  }
  print_note("stopped by a signal; the same command goes on where this one ended\n");
  return kExitStopped;
}

int run_alone(const RunBatchOptions& given, BatchSteps steps = {}) {
  StopSignals signals;
  RunBatchOptions options = given;
  const Shard shard = parse_shard(options.shard);
  const std::string output = shard_output(options.output, shard);
  std::optional<KeptInput> kept;
  if (options.input == "-") {
    kept.emplace(output, STDIN_FILENO, signals.stop());
    if (kept->stopped()) return tell({.stopped = true}, options, output, "");
    options.input = KeptInput::path_for(output);
    steps.input = kept->path();
    steps.before_start = [&kept] { kept->keep(); };
  }
  EngineOptions chosen = engine_options(options.engine, options.model);
  leave_tokenizer_out(options, chosen);
  const std::string path = steps.input.empty() ? options.input : steps.input;
  ReadInput read = choose_dtypes_of_job(options, path, chosen, signals.stop());
  if (read.lines && read.lines->stopped()) return tell({.stopped = true}, options, output, "");
  std::optional<StopSignals::AtOnce> at_once(std::in_place, kExitStopped);
  Engine engine(chosen);
  at_once.reset();
  if (shard.count > 1) fix_attention(engine);
  EngineRunner runner(engine, options.efficiency, options.engine, nullptr);
  const BatchModel model = batch_model_of(options, chosen, engine);
  BatchFiles files = files_of(options);
  files.output = output;
  files.shard = shard;
  if (!steps.input.empty() && !read.lines) read.lines = BatchInput::scan(path, model.limits, signals.stop(), spill_directory(output));
  files.before_start = steps.before_start;
  files.before_end = steps.before_end;
  files.lines = read.lines ? &*read.lines : nullptr;
  const BatchOutcome outcome = run_batch(files, model, runner, signals.stop());
  runner.judge_profile();
  return tell(outcome, options, output,
              outcome.report.sequences > 0 ? prediction_table(engine.plan().prediction, outcome.report) + runner.efficiency_of(outcome.report) : "", steps);
}

/// Who answers a line is chance, and a pipeline's stages may be on any machine.
void tell_of_other_arithmetic(Team& team, const BatchModel& model) {
  const std::vector<std::string> all = all_gather(team.world(), nlohmann::json(model.arithmetic).dump());
  if (!team.is_root()) return;
  const JobIdentity own{.options = model.options, .arithmetic = model.arithmetic};
  for (size_t rank = 1; rank < all.size(); ++rank) {
    const JobIdentity its{.options = model.options, .arithmetic = parse_json(all[rank], "a rank's arithmetic").get<JobOptions>()};
    const std::optional<OtherOption> other = other_arithmetic(own, its);
    if (!other) continue;
    spdlog::warn("the {} of {} rounds otherwise than that of {} ({}; {}): which lines or layers each has decides answers, so another run may give others",
                 other->name, team.world().describe(static_cast<int>(rank)), team.world().describe(0), other->other, other->one);
    return;
  }
}

int run_together(const RunBatchOptions& options, Team& team) {
  if (!options.shard.empty()) fail_user("--shard {}: shards are for processes that know nothing of each other; leave it out, or the launcher", options.shard);
  StopSignals signals;
  int code = kExitDone;
  team.agree({{"version", kVersion},
              {"--pipeline-stages", std::to_string(options.team.pipeline_stages)},
              {"--stages", options.team.stage_split},
              {"--prefix-sharing", options.engine.prefix_sharing}});
  {
    EngineOptions chosen = team.engine_options(options.engine, options.model);
    leave_tokenizer_out(options, chosen);
    Engine engine(chosen);
    fix_attention(engine);
    const BatchModel model = batch_model_of(options, chosen, engine);
    std::vector<std::pair<std::string, std::string>> facts{{"model", model.fingerprint}};
    facts.insert(facts.end(), model.options.begin(), model.options.end());
    team.agree(facts);
    tell_of_other_arithmetic(team, model);
    const BatchReplicas replicas{&team.world(), team.other_leads()};
    const BatchFiles files = files_of(options);
    EngineRunner runner(engine, false, team.hardware_flags(options.engine), &team);
    struct Sharing {
      Team& team;
      ~Sharing() { team.stop_sharing(); }
    } sharing{team};
    team.share_progress([&engine] { return engine.progress(); });
    BatchOutcome outcome;
    if (!team.is_lead()) {
      outcome.report = engine.follow();
    } else {
      if (team.is_root()) outcome = run_batch(files, model, runner, signals.stop(), replicas);
      else outcome = serve_batch(files, model, runner, signals.stop(), replicas, [&signals] { signals.request_stop(); });
      engine.dismiss();
    }
    outcome.report = team.share_report(outcome.report);
    runner.end_display();
    runner.judge_profile();
    if (team.is_root()) code = tell(outcome, options, options.output, "");
    else if (outcome.stopped) code = kExitStopped;
  }
  team.join_traces(options.engine.trace_file);
  team.leave();
  return code;
}

}  // namespace

int run_batch_with(const RunBatchOptions& options, const BatchSteps& steps) { return run_alone(options, steps); }

int run_batch_command(const RunBatchOptions& given) {
  RunBatchOptions options = given;
  options.model = find_model(given.model, given.engine.model.revision);
  std::unique_ptr<Team> team = Team::join(options.team);
  if (!team) return run_alone(options);
  return together(*team, [&] { return run_together(options, *team); });
}

}  // namespace flexgen
