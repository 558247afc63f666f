// The commands, in the order in which --help lists them.

#include "cli/command_definitions.h"

#include <fmt/ranges.h>
#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "batch/chat_source.h"
#include "batch/job_files.h"
#include "batch/shards.h"
#include "net/world.h"
#include "tables/map_job.h"

namespace flexgen {
namespace {

constexpr const char* kNoSpecialTokens = "the tokenizer puts no token (BOS) before a text, as where a chat template has written it out already";
constexpr const char* kModelOrShapeHelp =
    "checkpoint directory, a GGUF file, the id of a model in the Hub's local cache, a config.json, or a shape such as opt-6.7b or llama-3.1-8b";
constexpr const char* kSkipTokenizer =
    "do without the tokenizer: prompts are token ids, and answers give token ids and no text (so it is anyway for a model without tokenizer files)";
constexpr double kMostSkew = 4;
constexpr int64_t kManyBytes = int64_t{1} << 40;

/// For commands whose answers may end early; what is not said here is what is kept, or all of max_tokens.
void add_expected_tokens(CommandDefinition& command, int64_t& tokens, const std::string& otherwise) {
  command.whole_within("--expected-tokens", tokens, 1, kManyTokens,
                       "tokens that an answer takes on average, for planning alone: memory is kept for all of its max_tokens (default: " + otherwise + ")");
}

void add_team_flags(CommandDefinition& command, TeamFlags* flags) {
  command.begin_group("Several processes (started by mpirun or srun)", true);
  command.whole_within("--pipeline-stages", flags->pipeline_stages, 1, 1 << 16,
                       "processes that share the model's layers (default: all); more processes make replicas, which share the lines", "P");
  command.text("--stages", flags->stage_split, "blocks of the model for each stage, like 10:22 (default: by their budgets and threads)", "N:N:...");
  command.real("--rank-timeout", flags->rank_timeout_s, 1.0, 86400.0, "seconds after which a silent process is given up, and the job with it", "S")
      ->capture_default_str();
}

void add_choice_flags(CommandDefinition& command, ChoiceParams* params) {
  command.real("--temperature", params->temperature, 0.0, 2.0, "0: always the likeliest token")->capture_default_str();
  command.real("--top-p", params->top_p, 1e-9, 1.0, "from the likeliest tokens that make up this probability")->capture_default_str();
  command.whole_within("--top-k", params->top_k, 0, kManyTokens, "from the k likeliest tokens; 0: all", "K")->capture_default_str();
}

void add_stop_flag(CommandDefinition& command, SamplingParams* params) {
  command.texts("--stop", params->stop, "end before this text (may be given several times)", "TEXT");
}

/// "a, b" is a and b: a list as people write it, without the blanks around its parts. One in double quotes (two of them stand for one) is what is between them.
std::vector<std::string> parts_of_list(const std::string& text, const char* flag) {
  constexpr const char* kBlanks = " \t\r\n";
  const auto begin_of = [&](size_t at) { return std::min(text.find_first_not_of(kBlanks, at), text.size()); };
  std::vector<std::string> parts;
  for (size_t at = 0;; ++at) {
    at = begin_of(at);
    std::string part;
    size_t end = std::min(text.find(',', at), text.size());
    if (at < text.size() && text[at] == '"') {
      for (++at; at < text.size() && (text[at] != '"' || text.compare(at, 2, "\"\"") == 0); ++at) {
        if (text[at] == '"') ++at;
        part += text[at];
      }
      if (at >= text.size()) fail_user("{} {}: a double quote is opened that nothing closes", flag, text);
      end = begin_of(at + 1);
      if (end < text.size() && text[end] != ',') fail_user("{} {}: text comes after the double quote that closes '{}'; put a comma between", flag, text, part);
    } else {
      part = text.substr(at, end - at);
      part.erase(part.find_last_not_of(kBlanks) + 1);
    }
    parts.push_back(std::move(part));
    if (end == text.size()) return parts;
    at = end;
  }
}

/// "64" or "64:512".
std::pair<int64_t, int64_t> length_range(const std::string& text, const char* flag) {
  std::pair<int64_t, int64_t> range{0, 0};
  const char* end = text.data() + text.size();
  auto [rest, error] = std::from_chars(text.data(), end, range.first);
  range.second = range.first;
  if (error == std::errc() && rest != end && *rest == ':') {
    auto [rest2, error2] = std::from_chars(rest + 1, end, range.second);
    rest = rest2;
    error = error2;
  }
  if (error != std::errc() || rest != end || range.first < 1 || range.second < range.first || range.second > kManyTokens)
    fail_user("{} {}: give a number of tokens like 128, or a range like 64:512", flag, text);
  return range;
}

constexpr const char* kJobOfOutput = "the job of --output";

/// Answers are added to a file as they finish; a name that promises another form would mislead who reads it.
/// A job begun under such a name goes on. `may_go_on`: whether the command continues jobs.
void check_is_plain(const std::string& output, bool may_go_on) {
  for (const char* ending : {".gz", ".zst", ".xz", ".bz2", ".zip", ".parquet"}) {
    if (!output.ends_with(ending)) continue;
    std::error_code unseen;  // is told where the job file is read
    if (may_go_on && (std::filesystem::exists(JobFiles(output).manifest, unseen) || unseen)) continue;
    fail_user("-o {}: answers are written as plain JSONL; leave {} out of the name, and pack the file once it is whole", output, ending);
  }
}

/// What a job keeps beside its answers.
std::vector<NamedFile> files_of_job(const std::string& output, bool keeps_input) {
  const JobFiles files(output);
  return {{kJobOfOutput, files.manifest, FileUse::kWritten},
          {kJobOfOutput, files.removed, FileUse::kWritten},
          {kJobOfOutput, files.input, keeps_input ? FileUse::kWritten : FileUse::kRead}};  // which may be --input too
}

void add_shard(const std::string& part, std::vector<NamedFile>* files) {
  for (const std::string& path : {part, JobFiles(part).manifest}) files->push_back({"a shard", path, FileUse::kRead});
}

class RunBatchDefinition : public CommandDefinition {
 public:
  RunBatchDefinition() : CommandDefinition("run-batch", "answer an OpenAI batch file; run it again after a stop, and it goes on") {
    add_model(*this, &options_.model, &engine_.flags.model);
    file(
        FileUse::kRead, "-i,--input,--input-file", options_.input,
        "JSONL file of requests to /v1/completions and /v1/chat/completions (also gzip, zstd, UTF-16, a JSON array); - reads stdin and keeps it as OUT.jsonl.input",
        "IN.jsonl")
        ->required();
    file(FileUse::kWritten, "-o,--output,--output-file", options_.output, "answers are added here as they finish; OUT.jsonl.job lies beside it", "OUT.jsonl")
        ->required();
    file(FileUse::kWritten, "--error-output", options_.error_output,
         "at the end, put the records of lines that have no answer there, as OpenAI does (default: they stay among the answers)", "FILE");
    flag("--in-order", options_.in_order, "at the end, put the records into the order of the lines");
    flag("--overwrite", options_.overwrite, "replace an output of another input, model or options (a job that matches goes on all the same)");
    flag("--fail-on-bad-lines", options_.fail_on_bad_lines, "end with exit code 3 if any line is bad (without it, if lines are bad and none is answered)");
    text("--served-model-name", options_.served_model_name, "what answers give as their model (default: the directory's name)", "NAME");
    CLI::Option* skips = flag("--skip-tokenizer-init", options_.skip_tokenizer, kSkipTokenizer);
    file(FileUse::kRead, "--chat-template", options_.chat_template, kChatTemplate, "FILE")->excludes(skips);
    json(options_.json, options_.json_file, "a summary of the run");
    flag("--efficiency", options_.efficiency, "measure this machine first (some seconds), and say at the end how near the run came to its limit");
    text(
        "--shard", options_.shard,
        "do part I (from 0) of N of the lines, into OUT.I-of-N.jsonl (0/1: OUT itself, which needs no merge); 'auto' takes both from a Slurm array, 'auto/N' I from a Slurm array or a Kubernetes indexed Job; flexgen merge joins the parts",
        "I/N");
    add_expected_tokens(*this, options_.expected_tokens, "as the answers that an earlier run has left, if there are 32; else all of its max_tokens");
    add_engine_flags(*this, &engine_);
    add_team_flags(*this, &options_.team);
  }
  Command finish() override {
    options_.engine = checked_engine_flags(engine_, app);
    if (options_.engine.chooses_dtypes() && !options_.shard.empty())
      fail_user("--shard {}: shards could choose different types; give one each for weights and KV cache (flexgen plan chooses among several)", options_.shard);
    if (options_.efficiency && launched_with_others()) fail_user("--efficiency is measured for one process alone; leave it out, or the launcher");
    if (options_.output == "-") fail_user("-o must be a file, not '-': a job that may be continued keeps its answers");
    check_is_plain(options_.output, true);
    if (options_.input == "-" && launched_with_others()) fail_user("-i -: only one of several processes has the standard input; write it to a file first");
    if (given("--error-output") && !options_.shard.empty()) fail_user("--error-output goes with all lines: give it to flexgen merge, which joins the shards");
    parse_shard(options_.shard);  // a wrong one is a wrong command line
    check_team_flags(options_.team);
    return options_;
  }
  std::vector<NamedFile> files_beside() const override {
    const std::string output = shard_output(options_.output, parse_shard(options_.shard));
    std::vector<NamedFile> files = files_of_job(output, options_.input == "-");
    if (output != options_.output) {
      files.push_back({kJobOfOutput, output, FileUse::kWritten});
      for (const std::string& part : shards_beside(options_.output))
        if (part != output) add_shard(part, &files);
    }
    if (!options_.error_output.empty()) files.push_back({"the job of --error-output", JobFiles(options_.error_output).removed, FileUse::kWritten});
    return files;
  }

 private:
  RunBatchOptions options_;
  RawEngineFlags engine_;
};

class MapDefinition : public CommandDefinition {
 public:
  MapDefinition() : CommandDefinition("map", "answer a prompt for each row of a table; run it again after a stop, and it goes on") {
    add_model(*this, &options_.model, &engine_.flags.model);
    file(FileUse::kRead, "-i,--input,--input-file", options_.input, "the table: .csv, .tsv or .jsonl (also .gz, .zst, UTF-16)", "TABLE")->required();
    file(FileUse::kWritten, "-o,--output,--output-file", options_.output,
         "the same rows with the answers, written once all are there: .csv, .tsv or .jsonl; the job's files lie beside it", "TABLE");
    CLI::Option* template_file =
        file(FileUse::kRead, "-t,--template", options_.template_file,
             "the prompt of a row, in Jinja: {{ name }} is the row's column 'name', {{ row['a name'] }} any, {% for e in examples %} the examples", "FILE");
    text("--prompt-template", options_.prompt_template, "the same, as a text", "TEXT")->excludes(template_file);
    text("--output-column", options_.output_column, "where answers go (with --json-schema: the whole answer as well, if this is given)", "NAME")
        ->capture_default_str();
    whole_within("--dry-run", options_.dry_run, 1, kManyTokens, "print the first N prompts and do nothing more; the model is not loaded");
    flag("--overwrite", options_.overwrite,
         "replace an output that is there, and answers of another table, template or model (a job that matches goes on all the same)");
    flag("--fail-on-bad-lines", options_.fail_on_bad_lines, "end with exit code 3 if any row cannot be asked (without it, if none can)");
    json(options_.json, options_.json_file, "a summary of the run, with the figures of --answer-column,");
    add_expected_tokens(*this, options_.expected_tokens, "as the answers that an earlier run has left, if there are 32; else all of --max-tokens");
    add_asking();
    add_sampling();
    add_engine_flags(*this, &engine_);
  }
  Command finish() override {
    options_.engine = checked_engine_flags(engine_, app);
    if (options_.output.empty() && options_.dry_run == 0) fail_user("map: say where the table goes with -o");
    if (options_.template_file.empty() && options_.prompt_template.empty()) fail_user("map: say what to ask with --template FILE or --prompt-template TEXT");
    for (const std::string* path : {&options_.input, &options_.output})
      if (*path == "-") fail_user("map: tables are files; '-' is none");
    if (options_.output_column.empty()) fail_user("--output-column is empty");
    if (options_.dry_run > 0 && options_.json) fail_user("--dry-run prints prompts alone; leave --json out");
    options_.keeps_answer = given("--output-column");
    if (!options_.examples.empty() && options_.shots == 0) fail_user("--examples {}: say how many with --shots", options_.examples);
    if (!options_.json_schema.empty() && !options_.positive_label.empty())
      fail_user("--positive-label {}: with --json-schema there are several answers a row; leave it out", options_.positive_label);
    if (!options_.json_schema.empty() && params_.min_tokens > 0) fail_user("--json-schema: the schema says where the answer ends; leave --min-tokens out");
    read_choices();
    template_kwargs_of(options_.chat_template_kwargs);
    if (options_.chat && options_.truncate == "right")
      fail_user("--truncate right: a conversation would lose its end, where the model begins to speak; use left, or a template that cuts its texts");
    options_.sampling_json = sampling();
    return options_;
  }
  std::vector<NamedFile> files_beside() const override {
    if (options_.output.empty()) return {};
    const MapFiles files(options_.output);
    std::vector<NamedFile> beside = files_of_job(files.answers, false);
    for (const std::string& path : {files.lines, files.answers, files.written}) beside.push_back({kJobOfOutput, path, FileUse::kWritten});
    return beside;
  }

 private:
  void add_asking() {
    begin_group("What is asked, and how answers are read");
    CLI::Option* examples =
        file(FileUse::kRead, "--examples", options_.examples,
             "a table of examples, with their answers in --answer-column, or else in --output-column; if it is the input, no row is shown its own", "TABLE");
    CLI::Option* shots =
        whole_within("--shots", options_.shots, 1, 10000,
                     "so many of them, chosen once, before each prompt: as the template has them, or else written by it one after the other", "K")
            ->needs(examples);
    flag("--balanced", options_.balanced, "as many examples of each answer")->needs(shots);
    CLI::Option* choices = texts(
        "--choices", options_.choices,
        "answer with one of these, by the sum of their tokens' logprobs; blanks around one are left out, and one in double quotes may have commas and blanks",
        "TEXT,...");
    CLI::Option* schema =
        file(FileUse::kRead, "--json-schema", options_.json_schema, "answer with JSON that fits this schema; its properties become columns", "FILE");
    schema->excludes(choices);
    CLI::Option* answers =
        text("--answer-column", options_.answer_column,
             "the column with the right answers (with --json-schema as a JSON object): say how many are right, and precision, recall and F1", "NAME");
    text("--positive-label", options_.positive_label, "precision, recall and F1 are of this answer (default: the mean of those of all)", "TEXT")
        ->needs(answers);
    choice("--truncate", options_.truncate, {"left", "right", "refuse"},
           "what a prompt loses that the model has not enough positions for: its beginning, its end, or the row its answer")
        ->capture_default_str();
    CLI::Option* chat = flag("--chat", options_.chat, "a prompt is what a user says: it is put into the model's chat template, and the model answers");
    text("--system", options_.system, "what each conversation begins with", "TEXT")->needs(chat);
    file(FileUse::kRead, "--chat-template", options_.chat_template, kChatTemplate, "FILE")->needs(chat);
    text("--chat-template-kwargs", options_.chat_template_kwargs, kChatTemplateKwargs, "JSON")->needs(chat);
  }
  void add_sampling() {
    begin_group("Sampling");
    params_.max_tokens = 128;
    params_.temperature = 0;
    whole_within("--max-tokens", params_.max_tokens, 1, kManyTokens, "tokens of an answer at most")->capture_default_str();
    add_choice_flags(*this, &params_);
    whole("--seed", options_.seed, 0, "of the choice of examples, and of random numbers")->capture_default_str();
    add_stop_flag(*this, &params_);
    whole_within("--min-tokens", params_.min_tokens, 0, kManyTokens, "nothing ends the answer before it has so many tokens")->capture_default_str();
  }
  void read_choices() {
    std::vector<std::string> all;
    for (const std::string& list : options_.choices)
      for (std::string& choice : parts_of_list(list, "--choices")) all.push_back(std::move(choice));
    options_.choices = std::move(all);
    check_choices();
  }
  void check_choices() const {
    if (options_.choices.empty()) return;
    if (options_.choices.size() < 2) fail_user("--choices {}: give two or more, with commas between", options_.choices.front());
    std::set<std::string> seen;
    for (const std::string& choice : options_.choices) {
      if (choice.empty()) fail_user("--choices: one of them is empty");
      if (!seen.insert(choice).second) fail_user("--choices: '{}' is there twice", choice);
    }
    for (const char* flag : {"--max-tokens", "--temperature", "--top-p", "--top-k", "--stop", "--min-tokens"})
      if (given(flag)) fail_user("{}: nothing is generated with --choices; leave one of them out", flag);
  }
  std::string sampling() const {
    refuse_empty_stops(params_.stop);
    if (params_.min_tokens > params_.max_tokens) fail_user("--min-tokens {}: more than --max-tokens ({})", params_.min_tokens, params_.max_tokens);
    nlohmann::ordered_json fields{{"max_tokens", params_.max_tokens}, {"temperature", params_.temperature}};
    if (given("--top-p")) fields["top_p"] = params_.top_p;
    if (given("--top-k")) fields["top_k"] = params_.top_k;
    if (given("--min-tokens")) fields["min_tokens"] = params_.min_tokens;
    if (!params_.stop.empty()) fields["stop"] = params_.stop;
    return fields.dump();
  }

  MapOptions options_;
  SamplingParams params_;
  RawEngineFlags engine_;
};

class GenerateDefinition : public CommandDefinition {
 public:
  GenerateDefinition() : CommandDefinition("generate", "continue one text; what is generated goes to stdout as it comes") {
    SamplingParams& params = options_.params;
    params.max_tokens = 128;
    params.temperature = 0;
    add_model(*this, &options_.model, &engine_.flags.model);
    text("-p,--prompt,prompt", options_.prompt, "the text to continue; - reads it from stdin, but for a line end at its end", "TEXT")->required();
    flag("--stats", options_.stats, "say on stderr how it was planned, and what time it took");
    json(options_.json, options_.json_file, "the answer and the run's figures");
    begin_group("Sampling");
    add_sampling_flags(*this, &params);
    flag("--no-special-tokens", options_.no_special_tokens, kNoSpecialTokens);
    file(FileUse::kRead, "--json-schema", options_.json_schema,
         "the answer is JSON that follows the schema in this file; what a schema may have is in docs/structured_answers.md", "FILE");
    CLI::Option* chat = flag("--chat", options_.chat, "the text is what a user says: it is put into the model's chat template, and the model answers");
    text("--system", options_.system, "what the conversation begins with", "TEXT")->needs(chat);
    file(FileUse::kRead, "--chat-template", options_.chat_template, kChatTemplate, "FILE")->needs(chat);
    text("--chat-template-kwargs", options_.chat_template_kwargs, kChatTemplateKwargs, "JSON")->needs(chat);
    whole_within("--min-tokens", params.min_tokens, 0, kManyTokens, "nothing ends the answer before it has so many tokens")->capture_default_str();
    flag("--ignore-eos", params.ignore_eos, "go on after an end-of-text token");
    add_engine_flags(*this, &engine_);
  }
  Command finish() override {
    options_.engine = checked_engine_flags(engine_, app);
    refuse_empty_stops(options_.params.stop);
    template_kwargs_of(options_.chat_template_kwargs);
    if (options_.chat && options_.no_special_tokens) fail_user("--no-special-tokens: a chat template writes all tokens out itself; leave it out, or --chat");
    if (options_.stats && (general.quiet || general.log_level == "warning" || general.log_level == "error"))
      fail_user("--stats: nothing is said with --quiet; leave one of them out");
    if (!options_.json_schema.empty() && (options_.params.min_tokens > 0 || options_.params.ignore_eos))
      fail_user("--json-schema: the schema says where the answer ends; leave --min-tokens and --ignore-eos out");
    if (options_.params.min_tokens > options_.params.max_tokens)
      fail_user("--min-tokens {}: more than --max-tokens ({})", options_.params.min_tokens, options_.params.max_tokens);
    return options_;
  }

 private:
  GenerateOptions options_;
  RawEngineFlags engine_;
};

class InspectDefinition : public CommandDefinition {
 public:
  InspectDefinition() : CommandDefinition("inspect", "say what a checkpoint is: shapes, bytes per part, KV bytes per token") {
    text("-m,--model,model", options_.model, kModelHelp, "DIR|GGUF|ID")->required();
    add_model_flags(*this, &options_.model_flags);
    json(options_.json, options_.json_file, "it");
  }
  Command finish() override { return options_; }

 private:
  InspectOptions options_;
};

class BenchDefinition : public CommandDefinition {
 public:
  BenchDefinition() : CommandDefinition("bench", "measure a model or a shape, with the bound and the efficiency") {
    text("-m,--model", options_.model, kModelOrShapeHelp, "DIR|GGUF|ID|SHAPE")->required();
    add_model_flags(*this, &engine_.flags.model);
    choice("--load-format", options_.load_format, {"auto", "dummy", "checkpoint"},
           "checkpoint: real weights; dummy: random ones, written once and kept; auto: checkpoint if there is one")
        ->capture_default_str();
    choice("--dtype", options_.dtype, {"bf16", "f16", "f32"}, "of dummy weights: bf16, f16, f32 (default: bf16)");
    text("--dummy-dir", options_.dummy_directory, "where dummy weights are kept (default: FLEXGEN_CACHE_DIR, flexgen in XDG_CACHE_HOME, or ~/.cache/flexgen)",
         "DIR");
    text("--prompt-len", prompt_len_, "tokens per prompt, or a range like 64:512", "N|A:B")->capture_default_str();
    text("--gen-len", gen_len_, "tokens to generate, or a range", "N|A:B")->capture_default_str();
    whole_within("--num-prompts", options_.num_prompts, 1, kManyTokens, "sequences")->capture_default_str();
    whole_lists("--shared-prefix", options_.shared_prefix, 0, kManyTokens,
                "of these tokens, the first N are the same in all prompts of a group; N,M,...: the next M in all prompts of a group inside it, and so on",
                "N,...");
    whole_lists(
        "--prefix-groups", options_.prefix_groups, 1, kManyTokens,
        "groups of as many prompts each, every one with a shared prefix of its own (default: one); with several prefixes a number for each: of groups inside each group of the one before",
        "G,...");
    whole("--seed", options_.seed, 0, "of prompts and lengths")->capture_default_str();
    real(
        "--expert-skew", skew_, 0.0, kMostSkew,
        "of a mixture with dummy weights: experts are drawn, the n-th most frequent one of a block as often as 1 / n^S; 0: all alike (default: the routers choose, whose weights are random)",
        "S");
    json(options_.json, options_.json_file, "the figures");
    flag("--no-efficiency", options_.no_efficiency, "do not measure what the machine gives at most, nor compare the run with it: some ten seconds less");
    flag("--simulate", options_.simulate, "afterwards run the same job on simulated lanes at the speeds of the profile, as a second opinion on the prediction");
    add_engine_flags(*this, &engine_);
    add_peer_flags();
    add_team_flags(*this, &options_.team);
  }
  Command finish() override {
    options_.engine = checked_engine_flags(engine_, app);
    options_.dtype_is_stand_in = !typed("--dtype");
    if (options_.load_format == "checkpoint")
      for (const char* flag : {"--dtype", "--dummy-dir"})
        if (typed(flag)) fail_user("{}: with --load-format checkpoint no dummy weights are made; leave one of them out", flag);
    if (given("--expert-skew")) options_.expert_skew = skew_;
    if (options_.expert_skew && !options_.peers.names.empty())
      fail_user("--expert-skew: the routers of other programs (--peers) choose; leave one of them out");
    options_.prompt_len = length_range(prompt_len_, "--prompt-len");
    options_.gen_len = length_range(gen_len_, "--gen-len");
    check_prefixes();
    check_peer_flags();
    check_team_flags(options_.team);
    return options_;
  }

 private:
  void check_prefixes() {
    std::vector<int64_t>&tokens = options_.shared_prefix, &groups = options_.prefix_groups;
    const std::string prefix = fmt::format("--shared-prefix {}", fmt::join(tokens, ",")), among = fmt::format("--prefix-groups {}", fmt::join(groups, ","));
    int64_t shared = 0, in_all = 1;
    for (int64_t each : tokens) {
      shared += each;
      if (shared >= options_.prompt_len.first)
        fail_user("{}: the shortest prompt has {} tokens and must have one of its own; give a longer --prompt-len", prefix, options_.prompt_len.first);
    }
    if (!groups.empty() && shared == 0) fail_user("{}: say how much the prompts of a group share with --shared-prefix", among);
    if (groups.empty() && tokens.size() == 1) groups = {1};
    if (groups.size() < tokens.size()) fail_user("{}: say for each of the {} how many groups have it, with --prefix-groups as in 1,8", prefix, tokens.size());
    if (groups.size() > tokens.size()) fail_user("{}: more numbers than --shared-prefix has ({}); give one for each", among, tokens.size());
    for (int64_t each : groups) {
      if (each > options_.num_prompts / in_all) fail_user("{}: more groups than the {} prompts; give a larger --num-prompts", among, options_.num_prompts);
      in_all *= each;
    }
  }
  /// Each peer has flags of its own.
  void check_peer_flags() const {
    const std::vector<std::string>& names = options_.peers.names;
    for (const auto& [flag, peer] : {std::pair{"--peer-batch", "accelerate"}, {"--peer-policy", "flexllmgen"}})
      if (given(flag) && std::find(names.begin(), names.end(), peer) == names.end())
        fail_user("{}: it is for {}; leave it out, or add that to --peers", flag, peer);
  }
  void add_peer_flags() {
    begin_group("The same job by other programs", true);
    PeerFlags& peers = options_.peers;
    const std::vector<std::string> names(std::begin(kPeers), std::end(kPeers));
    CLI::Option* option =
        choice_lists("--peers", peers.names, names,
                     "run it by these too, afterwards, and compare: accelerate (Hugging Face), flexllmgen (FlexGen as published; OPT shapes, --backend cuda)");
    file(FileUse::kRead, "--peer-python", peers.python, "the Python that has them", "FILE")->capture_default_str()->needs(option);
    whole_lists("--peer-batch", peers.batch_sizes, 1, 1 << 20, "batch sizes that accelerate tries; the fastest counts", "N,...")->needs(option);
    whole("--peer-rounds", peers.rounds, 0, "batches that are run, the others are counted at their time; 0: all")->capture_default_str()->needs(option);
    text("--peer-policy", peers.policy,
         "flexllmgen's own flags, or several sets of them with a semicolon between: the fastest counts (default: those of its published runs of the model)",
         "TEXT")
        ->needs(option);
  }

  BenchOptions options_;
  RawEngineFlags engine_;
  double skew_ = 0;
  std::string prompt_len_ = "512", gen_len_ = "32";
};

class EvalDefinition : public CommandDefinition {
 public:
  EvalDefinition() : CommandDefinition("eval", "the price of a policy in accuracy: perplexity of a text, or exact match of greedy answers") {
    add_model(*this, &options_.model, &engine_.flags.model);
    json(options_.json, options_.json_file, "the figures");
    begin_group("Perplexity of a text");
    CLI::Option* perplexity = file(FileUse::kRead, "--perplexity", options_.perplexity_file, "a UTF-8 text", "FILE");
    whole_within("--window", options_.window, 1, kManyBytes, "tokens that go through the model together (default: its positions, up to 1024)")
        ->needs(perplexity);
    whole_within("--stride", options_.stride, 1, kManyBytes, "tokens between windows (default: half a window); those before are context")->needs(perplexity);
    whole_within("--text-tokens", options_.text_tokens, 1, kManyBytes, "use the first N tokens of the text (default: all)")->needs(perplexity);
    begin_group("Exact match");
    CLI::Option* task = file(FileUse::kRead, "--task", options_.task_file, "JSONL with prompt and answer", "FILE")->excludes(perplexity);
    text("--prompt-field", options_.prompt_field, "member that has the prompt", "NAME")->capture_default_str()->needs(task);
    text("--answer-field", options_.answer_field, "member that has the reference; if it is a JSON object, its members are counted too", "NAME")
        ->capture_default_str()
        ->needs(task);
    whole_within("--max-tokens", options_.max_tokens, 1, kManyTokens, "tokens to generate at most")->capture_default_str()->needs(task);
    texts("--stop", options_.stop, "end before this text (may be given several times)", "TEXT")->needs(task);
    whole_within("--limit", options_.limit, 1, kManyBytes, "use the first N lines (default: all)")->needs(task);
    begin_group("Flags");
    flag("--no-special-tokens", options_.no_special_tokens, kNoSpecialTokens);
    add_engine_flags(*this, &engine_);
  }
  Command finish() override {
    options_.engine = checked_engine_flags(engine_, app);
    if (options_.perplexity_file.empty() && options_.task_file.empty()) fail_user("eval: say what to measure, --perplexity FILE or --task FILE");
    refuse_empty_stops(options_.stop);
    return options_;
  }

 private:
  EvalOptions options_;
  RawEngineFlags engine_;
};

class PlanDefinition : public CommandDefinition {
 public:
  PlanDefinition() : CommandDefinition("plan", "say how a job would be done, how long it takes and what would help, without doing it") {
    text("-m,--model", options_.model, kModelOrShapeHelp, "DIR|GGUF|ID|SHAPE")->required();
    add_model_flags(*this, &engine_.flags.model);
    file(FileUse::kRead, "-i,--input,--input-file", options_.input, "the job: a batch file as for run-batch; - reads stdin", "IN.jsonl");
    CLI::Option* skips = flag("--skip-tokenizer-init", options_.skip_tokenizer, kSkipTokenizer);
    file(FileUse::kRead, "--chat-template", options_.chat_template, kChatTemplate, "FILE")->excludes(skips);
    text("--prompt-len", prompt_len_, "or its lengths: tokens of a prompt, 512 or 64:512", "A[:B]")->capture_default_str();
    text("--gen-len", gen_len_, "tokens to generate", "A[:B]")->capture_default_str();
    whole_within("--num-prompts", options_.num_prompts, 1, kManyTokens, "sequences")->capture_default_str();
    add_expected_tokens(*this, options_.expected_tokens, "all of its max_tokens, or --gen-len");
    whole("--seed", options_.seed, 0, "of the lengths")->capture_default_str();
    choice("--dtype", options_.dtype, {"bf16", "f16", "f32"}, "of a shape's weights (default: bf16)");
    real(
        "--expert-skew", skew_, 0.0, kMostSkew,
        "of a mixture: the n-th most frequent expert of a block is expected to be chosen as often as 1 / n^S; 0: all alike (default: as --expert-statistics has it, else all alike)",
        "S");
    json(options_.json, options_.json_file, "the plan");
    file(FileUse::kWrittenAtEnd, "--plot", options_.plot_file, "write a page with the plan in pictures; FILE.svg: the picture of its lanes and memory alone",
         "FILE.html");
    add_engine_flags(*this, &engine_);
  }
  Command finish() override {
    options_.engine = checked_engine_flags(engine_, app);
    if (given("--expert-skew")) options_.expert_skew = skew_;
    if (options_.expert_skew && !options_.engine.expert_statistics.empty())
      fail_user("--expert-skew: --expert-statistics says how often experts are chosen; leave one of them out");
    check_engine();
    options_.prompt_len = length_range(prompt_len_, "--prompt-len");
    options_.gen_len = length_range(gen_len_, "--gen-len");
    const std::string& plot = options_.plot_file;
    if (given("--plot") && !plot.ends_with(".html") && !plot.ends_with(".htm") && !plot.ends_with(".svg"))
      fail_user("--plot {}: give a name that ends in .html (a page) or .svg (a picture)", plot);
    if (!options_.input.empty())
      for (const char* flag : {"--prompt-len", "--gen-len", "--num-prompts", "--seed"})
        if (given(flag)) fail_user("{}: the lengths come from --input {}; leave one of them out", flag, options_.input);
    if (options_.input.empty())
      for (const char* flag : {"--chat-template", "--skip-tokenizer-init"})
        if (typed(flag)) fail_user("{}: without --input no prompts are read; leave it out, or give the job", flag);
    options_.dtype_is_stand_in = !typed("--dtype");
    return options_;
  }

 private:
  /// What a run would do, and a plan cannot.
  void check_engine() const {
    const EngineFlags& flags = options_.engine;
    if (typed("--trace")) fail_user("--trace {}: a plan runs nothing that could be traced; leave it out", flags.trace_file);
    if (flags.planner != "search") fail_user("--planner {}: flexgen plan shows what the search finds; leave it out", flags.planner);
    if (flags.backend != "cpu" && flags.backend != "reference" && flags.gpu_memory_bytes == 0)
      fail_user("--backend {}: a plan looks at no GPU; say how much memory it has with --gpu-memory, and which machine it is with --hardware FILE",
                flags.backend);
  }

  PlanOptions options_;
  RawEngineFlags engine_;
  double skew_ = 0;
  std::string prompt_len_ = "512", gen_len_ = "32";
};

class MergeDefinition : public CommandDefinition {
 public:
  MergeDefinition() : CommandDefinition("merge", "join the outputs of run-batch --shard; checks for missing and doubled answers") {
    file(FileUse::kRead, "-i,--input,--input-file", options_.input, "the JSONL file that the shards answer", "IN.jsonl")->required();
    file(FileUse::kWritten, "-o,--output,--output-file", options_.output, "all answers, in the order of the input's lines", "OUT.jsonl")->required();
    file(FileUse::kWritten, "--error-output", options_.error_output,
         "put the records of lines that have no answer there (default: they stay among the answers)", "FILE");
    json(options_.json, options_.json_file, "how many answers there are");
    files(FileUse::kRead, "shards", options_.parts, "their outputs (default: OUT.0-of-N.jsonl and so on, beside the output)", "FILE");
  }
  Command finish() override {
    check_is_plain(options_.output, false);
    return options_;
  }
  std::vector<NamedFile> files_beside() const override {
    std::vector<NamedFile> files;
    for (const std::string& part : options_.parts.empty() ? shards_beside(options_.output) : options_.parts) add_shard(part, &files);
    return files;
  }

 private:
  MergeOptions options_;
};

class DoctorDefinition : public CommandDefinition {
 public:
  DoctorDefinition() : CommandDefinition("doctor", "say what this machine offers: CPU features, memory, disk speed") {
    text("--disk-dir", options_.disk_directory, "the disk to measure; up to 1 GiB is written there for a moment", "DIR")->capture_default_str();
    json(options_.json, options_.json_file, "it");
    flag("--measure", options_.measure,
         "measure every lane as the engine uses it (under a minute; nothing else should run), and keep the profile for the planner");
    flag("--disk-only", options_.disk_only, "with --measure: the disk alone (some 15 s), the rest as it is kept");
    text("-m,--model", options_.model, "with --measure: read this checkpoint's files, as a job will", "DIR|GGUF|ID");
    add_model_flags(*this, &options_.model_flags);
    whole_within("--threads", options_.threads, 1, 4096, "with --measure: threads that compute (default: as for run-batch)");
  }
  Command finish() override {
    if (!options_.measure && (typed("--model") || typed("--threads") || typed("--disk-only")))
      fail_user("doctor: --model, --threads and --disk-only go with --measure");
    for (const char* flag : {"--revision", "--ignore-config-field"})
      if (typed(flag) && options_.model.empty()) fail_user("doctor: {} goes with --model", flag);
    return options_;
  }

 private:
  DoctorOptions options_;
};

}  // namespace

void add_sampling_flags(CommandDefinition& command, SamplingParams* params) {
  command.whole_within("--max-tokens", params->max_tokens, 1, kManyTokens, "tokens to generate at most")->capture_default_str();
  add_choice_flags(command, params);
  command.whole("--seed", params->seed, 0, "of the random numbers")->capture_default_str();
  add_stop_flag(command, params);
  command.wholes("--stop-token-id", params->stop_token_ids, 0, std::numeric_limits<int32_t>::max(), "end at this token (may be given several times)", "ID");
}

void refuse_empty_stops(const std::vector<std::string>& stops) {
  for (const std::string& stop : stops)
    if (stop.empty()) fail_user("--stop is empty");
}

void add_model(CommandDefinition& command, std::string* model, ModelFlags* flags) {
  command.text("-m,--model", *model, kModelHelp, "DIR|GGUF|ID")->required();
  add_model_flags(command, flags);
}

void add_model_flags(CommandDefinition& command, ModelFlags* flags) {
  command.text("--revision", flags->revision, "of a model in the Hub's cache: a branch, a tag or a commit (default: main)", "NAME");
  command.texts("--ignore-config-field", flags->ignored_config_fields,
                "a field of config.json that flexgen does not know and that changes nothing; NAME.INNER in an object (may be given several times)", "NAME");
}

std::vector<std::unique_ptr<CommandDefinition>> define_commands() {
  std::vector<std::unique_ptr<CommandDefinition>> commands;
  commands.push_back(std::make_unique<RunBatchDefinition>());
  commands.push_back(std::make_unique<MapDefinition>());
  commands.push_back(std::make_unique<GenerateDefinition>());
  commands.push_back(define_chat());
  commands.push_back(define_serve());
  commands.push_back(std::make_unique<PlanDefinition>());
  commands.push_back(std::make_unique<InspectDefinition>());
  commands.push_back(std::make_unique<EvalDefinition>());
  commands.push_back(std::make_unique<BenchDefinition>());
  commands.push_back(std::make_unique<MergeDefinition>());
  commands.push_back(std::make_unique<DoctorDefinition>());
  for (const auto& command : commands) command->add_general_flags();
  return commands;
}

}  // namespace flexgen
