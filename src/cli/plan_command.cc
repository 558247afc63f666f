#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/report.h"
#include "base/units.h"
#include "batch/batch_input.h"
#include "batch/batch_model.h"
#include "batch/line_order.h"
#include "cli/commands.h"
#include "cli/json_output.h"
#include "cli/plan_report.h"
#include "io/temporary_file.h"
#include "io/whole_file.h"
#include "model/prepared_weights.h"
#include "schedule/cache_store.h"
#include "setup/dtype_choice.h"
#include "setup/hardware.h"
#include "setup/model_folder.h"
#include "setup/synthetic_job.h"

namespace flexgen {
namespace {

std::unique_ptr<Model> planned_model(const PlanOptions& options) {
  if (is_checkpoint(options.model)) return Model::load(options.model, options.engine.model.ignored_config_fields);
  return Model::of_shape(parse_config(config_text(options.model), "", options.model, options.engine.model.ignored_config_fields), shape_dtype(options.dtype));
}

constexpr int64_t kTextBytesPerToken = 4;  // English text; other languages and code take more tokens

/// Standard input as a file without a name, since planning reads it more than once.
class PipedInput {
 public:
  PipedInput() : file_("", "standard input (TMPDIR names the directory)") {
    std::vector<std::byte> piece(1 << 20);
    int64_t size = 0;
    for (ssize_t n; (n = ::read(STDIN_FILENO, piece.data(), piece.size())) != 0;) {
      if (n < 0 && errno != EINTR) fail_user("cannot read the job from standard input: {}", std::strerror(errno));
      if (n < 0) continue;
      file_.write(size, std::span(piece).first(static_cast<size_t>(n)));
      size += n;
    }
  }

  std::string path() const { return file_.opened_by(); }

 private:
  TemporaryFile file_;
};

/// What the job is; `notes` gets what was estimated or left out.
Workload planned_job(const PlanOptions& options, const Model& model, std::vector<std::string>& notes) {
  const ExpectedAnswers expected{options.expected_tokens, {}};
  Workload workload;
  if (options.input.empty()) {
    std::mt19937_64 random(options.seed);
    for (auto [prompt, gen] : synthetic_lengths(options.prompt_len, options.gen_len, options.num_prompts, model.config(), random))
      workload.add(prompt, gen, false, false, expected(0, gen));
    return workload;
  }
  std::unique_ptr<Tokenizer> tokenizer;
  const bool has_weights = is_checkpoint(options.model);
  if (has_weights && !options.skip_tokenizer && has_tokenizer_files(options.model)) tokenizer = Tokenizer::load(options.model);
  if (!has_weights && !options.chat_template.empty())
    fail_user(
        "--chat-template {}: {} is no checkpoint and has no tokenizer, so no conversation is written out (texts are counted by their bytes); leave it out",
        options.chat_template, options.model);
  const std::atomic<bool> never{false};
  const ModelLimits limits =
      has_weights ? limits_of(options.model, options.chat_template, model.config(), tokenizer.get())
                  : ModelLimits{model.config().vocab_size, model.config().max_positions, nullptr, options.skip_tokenizer ? 0 : kTextBytesPerToken};
  std::optional<PipedInput> piped;
  if (options.input == "-") piped.emplace();
  const BatchInput input = BatchInput::scan(piped ? piped->path() : options.input, limits, never);
  workload = workload_of_input(input, options.engine.shares_prefixes(), expected, kSharedGrain);
  int64_t bad = 0;
  std::string why;
  for (int64_t i = 0; i < input.num_lines(); ++i) {
    const InputLine line = input.line(i);
    if (line.good()) continue;
    if (bad++ == 0) why = fmt::format("line {}: {}", line.number, std::get<LineError>(input.read(line)).message);
  }
  if (workload.num_sequences == 0) fail_user("--input {}: no line of it can be answered{}", options.input, bad > 0 ? "; " + why : "");
  if (input.num_estimated() > 0)
    notes.push_back(fmt::format("no tokenizer: counted a token for every {} bytes of text, in {} of {} lines", kTextBytesPerToken,
                                format_count(input.num_estimated()), format_count(input.num_lines())));
  if (input.open_ended_lines() > 0)
    notes.push_back(fmt::format("{} of {} lines give no max_completion_tokens: each answer may take all positions that its prompt leaves",
                                format_count(input.open_ended_lines()), format_count(input.num_lines())));
  if (bad > 0)
    notes.push_back(
        fmt::format("{} of {} lines cannot be answered and are left out, the first is {}", format_count(bad), format_count(input.num_lines()), why));
  return workload;
}

}  // namespace

int plan_command(const PlanOptions& given) {
  PlanOptions options = given;
  options.model = find_model_or_shape(given.model, given.engine.model.revision);
  EngineOptions engine = engine_options(options.engine, options.model);
  const bool has_weights = is_checkpoint(options.model);
  if (has_weights && !options.dtype.empty() && !options.dtype_is_stand_in)
    fail_user("--dtype {}: {} is a checkpoint, whose weights have types of their own; leave it out (--weight-dtype makes others of them)", options.dtype,
              options.model);
  const auto open_model = [&] { return planned_model(options); };
  engine.expert_skew = options.expert_skew;
  const std::vector<DtypePair> allowed = allowed_dtypes(options.engine);
  std::unique_ptr<Model> model = open_model();
  std::vector<std::string> notes;
  if (!engine.expert_statistics_file.empty() && !file_is_there(engine.expert_statistics_file))
    notes.push_back(fmt::format("no run has counted experts in {} yet: each is taken to be chosen as often as another", engine.expert_statistics_file));
  const Workload workload = planned_job(options, *model, notes);

  std::vector<DtypePair> planned = allowed;
  planned.push_back({"int4", "int4"});  // what would help is planned for too
  const std::string other_directory = has_weights ? "" : temporary_directory();
  FileSystem files;
  const HardwareProfile hardware = profile_for(options.engine,
                                               {.types = types_to_measure(engine, *model, planned),
                                                .threads = options.engine.threads,
                                                .read_files = has_weights ? model->files() : std::vector<std::string>(),
                                                .directory = options.engine.disk_directory.empty() ? other_directory : options.engine.disk_directory},
                                               files);

  DtypeChoice choice{allowed.front(), {}};
  if (allowed.size() > 1) choice = choose_dtypes(engine, allowed, open_model, workload, hardware);
  engine = with_types(engine, choice.types);
  const DType compute = compute_dtype_of(engine, *model);
  if (engine.disk_directory.empty() && dtype_to_make(engine, *model))
    notes.push_back(fmt::format("--weight-dtype {}: a run makes these weights once and keeps them on disk, so it needs --disk-dir", engine.weight_dtype));
  model = model_to_plan(engine, std::move(model));
  check_matmul_dtype(engine, *model);
  const Precision precision = precision_of(engine, *model, compute);

  std::map<DType, std::unique_ptr<Model>> others;
  PlanVariants variants;
  variants.with_weights = [&](DType dtype) -> const Model* {
    auto& other = others[dtype];
    if (!other) other = model_to_plan(with_types(engine, {std::string(dtype_name(dtype)), engine.kv_cache_dtype}), open_model());
    return other.get();
  };
  const Workload paged = workload.in_pages(CacheLayout::page_tokens(*model, precision.kv));
  const PlanInput input{*model, paged, engine.budgets, engine.policy, precision.compute, precision.kv, hardware, 4, !options.plot_file.empty()};
  PlanReport report = make_report(input, variants);
  report.dtypes = choice;
  report.notes = std::move(notes);
  if (options.json) put_json(report_json(report, input), options.json_file);
  if (!options.json || !options.json_file.empty()) print_result("{}", report_text(report, input));
  if (options.plot_file.empty()) return kExitDone;
  write_whole_file(options.plot_file,
                   options.plot_file.ends_with(".svg") ? report_svg(report, input, options.model) : report_page(report, input, options.model));
  return kExitDone;
}

}  // namespace flexgen
