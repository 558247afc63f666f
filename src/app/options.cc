#include "app/options.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <sstream>

#include "app/machine.h"
#include "dist/world.h"
#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "io/transfer.h"
#include "io/whole_file.h"

namespace flexgen {
namespace {

constexpr const char* kNoSpecialTokens = "the tokenizer puts no token (BOS) before a text, as where a chat template has written it out already";
constexpr const char* kExitCodes =
    "Exit codes:\n"
    "  0   done (bad lines of a batch have become error records)\n"
    "  1   failed; the message says why, finished answers are kept (also: a line's logits were not finite)\n"
    "  2   the command line is wrong; nothing was done\n"
    "  75  stopped by SIGINT, SIGTERM or SIGHUP; the same command goes on where it stopped\n";

/// Flags as written, until it is known which command was meant.
struct RawEngineFlags {
  EngineFlags flags;
  std::string cpu_memory, gpu_memory, disk_space, disk_bandwidth, weights, kv_cache, activations, attention_on;
  int64_t micro_batch_size = 0, num_micro_batches = 0, max_rows = 0;
  int buffers = 0;
};

/// Names from a set, one or several with commas between, none twice.
struct ListOf : CLI::Validator {
  explicit ListOf(std::vector<std::string> names) {
    func_ = [names = std::move(names)](std::string& text) {
      std::vector<std::string> seen;
      for (const std::string& name : split_list(text)) {
        if (std::find(names.begin(), names.end(), name) == names.end()) return fmt::format("'{}' is none of {}", name, fmt::join(names, ", "));
        if (std::find(seen.begin(), seen.end(), name) != seen.end()) return fmt::format("'{}' is there twice", name);
        seen.push_back(name);
      }
      return std::string();
    };
  }
};

/// A number as people write it. CLI11 alone takes octal and hexadecimal ones, and NaN passes for a number within any range.
struct DecimalNumber : CLI::Validator {
  DecimalNumber() {
    func_ = [](std::string& text) {
      const size_t digits = text.find_first_not_of('-');
      double number = 0;
      int64_t negative = 0;
      uint64_t whole = 0;
      const char* end = text.data() + text.size();
      auto [rest, error] = std::from_chars(text.data(), end, number);
      const bool octal = digits != std::string::npos && text[digits] == '0' && digits + 1 < text.size() && text[digits + 1] >= '0' && text[digits + 1] <= '9';
      if (error != std::errc() || rest != end || !std::isfinite(number) || octal) return fmt::format("'{}' is not a decimal number", text);
      const bool is_whole = text.find_first_not_of("-0123456789") == std::string::npos;
      if (is_whole && (text[0] == '-' ? std::from_chars(text.data(), end, negative).ec : std::from_chars(text.data(), end, whole).ec) != std::errc()) return fmt::format("{} is out of range", text);
      return std::string();
    };
  }
};

/// All numbers of a command are decimal ones, those in lists too.
void want_decimal_numbers(CLI::App* command) {
  for (CLI::Option* option : command->get_options())
    for (const char* number : {"N", "P", "S", "X", "K", "N,..."}) {
      // Checks that were added before have their names behind a colon; "N:N:..." is a list of another kind.
      const std::string name = option->get_type_name();
      if (name.substr(0, name.find(':')) == number && !name.starts_with("N:N")) option->check(DecimalNumber());
    }
}

void add_engine_flags(CLI::App* command, RawEngineFlags* raw) {
  const std::string memory = "Memory and disk", placement = "Placement and batching (planned around what is given)", run = "Execution";
  auto given = [](auto* value) { return CLI::Range(decltype(*value + 0){1}, decltype(*value + 0){1} << 30); };
  command->add_option("--cpu-memory", raw->cpu_memory, "RAM budget, like 6GiB; a promise (default: 80% of what is free)")->type_name("SIZE")->group(memory);
  command->add_option("--gpu-memory", raw->gpu_memory, "GPU memory budget, a promise; with --backend cuda (default: what is free, less a margin), or to `plan` with a --hardware profile that has a GPU")->type_name("SIZE")->group(memory);
  command->add_option("--disk-dir", raw->flags.disk_directory, "where KV cache and activations may spill (default: they may not)")->type_name("DIR")->group(memory);
  command->add_option("--disk-bandwidth", raw->disk_bandwidth, "bytes a second that the job's reads and writes of disks may take together, so that other programs have the rest; planned with (default: all)")->type_name("SIZE")->group(memory);
  command->add_option("--disk-space", raw->disk_space, "disk budget for the spill (default: 90% of what is free)")->type_name("SIZE")->group(memory);
  command->add_option("--weights", raw->weights, "percentages gpu:cpu:disk, like 0:40:60")->type_name("G:C:D")->group(placement);
  command->add_option("--kv-cache", raw->kv_cache, "percentages gpu:cpu:disk")->type_name("G:C:D")->group(placement);
  command->add_option("--activations", raw->activations, "percentages gpu:cpu:disk")->type_name("G:C:D")->group(placement);
  command->add_option("--attention-on", raw->attention_on, "with --backend cuda: gpu, cpu (beside the KV cache in RAM and on disk), or auto")->check(CLI::IsMember({"auto", "gpu", "cpu"}))->type_name("WHERE")->group(placement);
  command->add_option("--micro-batch-size", raw->micro_batch_size, "sequences that go through a layer together")->check(given(&raw->micro_batch_size))->type_name("N")->group(placement);
  command->add_option("--num-micro-batches", raw->num_micro_batches, "micro-batches in flight")->check(given(&raw->num_micro_batches))->type_name("N")->group(placement);
  command->add_option("--max-rows", raw->max_rows, "tokens of one micro-batch in one step, at most: generated tokens and chunks of prompts")->check(given(&raw->max_rows))->type_name("N")->group(placement);
  command->add_option("--hardware", raw->flags.hardware, "profile of the machine to plan for (default: this one's, measured once; generic: assumed speeds)")->type_name("FILE")->group(placement);
  command->add_option("--planner", raw->flags.planner, "search, or first-rule (fills RAM first, measures nothing)")->check(CLI::IsMember({"search", "first-rule"}))->capture_default_str()->type_name("NAME")->group(placement);
  command->add_option("--buffers", raw->buffers, "staging buffers a tensor kind: 1 no overlap, 2, 3 smoother")->check(CLI::Range(1, 16))->type_name("N")->group(placement);
  command->add_option("--backend", raw->flags.backend, "cpu, cuda (a GPU computes), or reference (plain fp32, slow)")->capture_default_str()->type_name("NAME")->group(run);
  command->add_option("--weight-dtype", raw->flags.weight_dtype, "matrices: auto (as in the checkpoint), bf16, fp16, int8, int4; made once, kept in --disk-dir, streamed from there (int8 and int4 change answers a little). Several, like bf16,int4: whichever the job is planned to be done with soonest")->check(ListOf({"auto", "bf16", "fp16", "int8", "int4"}))->capture_default_str()->type_name("NAME[,NAME]")->group(run);
  command->add_option("--weight-quantization", raw->flags.weight_quantization, "how int8 and int4 weights choose a group's scale and minimum: minmax (its extremes), mse (least squared error), auto (mse for int4, minmax for int8)")->check(CLI::IsMember({"auto", "minmax", "mse"}))->capture_default_str()->type_name("NAME")->group(run);
  command->add_option("--kv-cache-dtype", raw->flags.kv_cache_dtype, "how keys and values are kept: auto (as they are computed), bf16, int8, int4 (groups of 64 with 16-bit scale and minimum; changes answers a little). Several: as with --weight-dtype")->check(ListOf({"auto", "bf16", "int8", "int4"}))->capture_default_str()->type_name("NAME[,NAME]")->group(run);
  command->add_option("--kv-cache-rotation", raw->flags.kv_cache_rotation, "none, or hadamard: keys are rotated before they are quantized, so that outliers cost less (heads of a power of two)")->check(CLI::IsMember({"none", "hadamard"}))->capture_default_str()->type_name("NAME")->group(run);
  command->add_option("--attention-sparsity", raw->flags.attention_sparsity, "share of the positions, for each head, whose values a generated token uses: 0.1 reads all keys and the values of the best tenth (changes answers; 1: off)")->check(CLI::Range(1e-6, 1.0))->capture_default_str()->type_name("X")->group(run);
  command->add_option("--compute-dtype", raw->flags.compute_dtype, "arithmetic: auto, bf16, or f32 (no GPU)")->check(CLI::IsMember({"auto", "bf16", "f32"}))->capture_default_str()->type_name("NAME")->group(run);
  command->add_option("--matmul-dtype", raw->flags.matmul_dtype, "products with int4 or int8 weights: auto (weights become the compute dtype), int8 (inputs are quantized to int8 for each token in groups of 64 and multiplied in integers: faster where there is no bf16 arithmetic; changes answers a little)")->check(CLI::IsMember({"auto", "int8"}))->capture_default_str()->type_name("NAME")->group(run);
  command->add_option("--threads", raw->flags.threads, "threads that compute (default: a core each, as many as affinity and cgroup quota allow)")->check(CLI::Range(1, 4096))->type_name("N")->group(run);
  command->add_option("--trace", raw->flags.trace_file, "write what each lane did, for Perfetto or chrome://tracing")->type_name("FILE")->group(run);
}

/// For commands whose answers may end early; what is not said here is what is kept, or all of max_tokens.
void add_expected_tokens(CLI::App* command, int64_t* tokens, const std::string& otherwise) {
  command->add_option("--expected-tokens", *tokens, "tokens that an answer takes on average, for planning alone: memory is kept for all of its max_tokens (default: " + otherwise + ")")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 31))->type_name("N");
}

void add_team_flags(CLI::App* command, TeamFlags* flags) {
  const std::string group = "Several processes (started by mpirun or srun)";
  command->add_option("--pipeline-stages", flags->pipeline_stages, "processes that share the model's layers (default: all); more processes make replicas, which share the lines")->check(CLI::Range(1, 1 << 16))->type_name("P")->group(group);
  command->add_option("--stages", flags->stage_split, "blocks of the model for each stage, like 10:22 (default: by their budgets and threads)")->type_name("N:N:...")->group(group);
  command->add_option("--rank-timeout", flags->rank_timeout_s, "seconds after which a silent process is given up, and the job with it")->check(CLI::Range(1.0, 86400.0))->capture_default_str()->type_name("S")->group(group);
}

int64_t size_of(const std::string& text, const char* flag) {
  try {
    return parse_size_bytes(text);
  } catch (const Error& error) {
    fail_user("{}: {}", flag, error.what());
  }
}

int64_t positive_size(const std::string& text, const char* flag) {
  int64_t bytes = size_of(text, flag);
  if (bytes == 0) fail_user("{} 0: give a size above 0, or leave it out", flag);
  return bytes;
}

EngineFlags checked(const RawEngineFlags& raw, const CLI::App& command) {
  EngineFlags flags = raw.flags;
  auto given = [&](const char* flag) { return command.get_option(flag)->count() > 0; };
  // emulated-gpu is for tests: a GPU played by RAM.
  const bool gpu_backend = flags.backend == "cuda" || flags.backend == "emulated-gpu";
  if (!gpu_backend && flags.backend != "cpu" && flags.backend != "reference") fail_user("--backend {}: there are cpu, cuda and reference", flags.backend);
  const bool plans = command.get_name() == "plan" && !flags.hardware.empty();
  if (given("--gpu-memory")) {
    flags.gpu_memory_bytes = positive_size(raw.gpu_memory, "--gpu-memory");
    if (!gpu_backend && !plans)
      fail_user("--gpu-memory {}: no GPU computes; leave it out, or give --backend cuda (flexgen plan can plan for one, with --hardware)", raw.gpu_memory);
  }
  const bool on_gpu = gpu_backend || flags.gpu_memory_bytes > 0;
  if (given("--attention-on")) {
    if (!on_gpu) fail_user("--attention-on {}: no GPU computes; leave it out, or give --backend cuda", raw.attention_on);
    if (raw.attention_on != "auto") flags.policy.attention_tier = raw.attention_on == "cpu" ? Tier::kCpu : Tier::kGpu;
  }
  auto fractions_of = [&](const std::string& text, const char* flag) {
    const Fractions fractions = Fractions::parse(text, flag);
    if (fractions.gpu > 0 && !on_gpu) fail_user("{} {}: a share in GPU memory needs --backend cuda; else the first percentage must be 0", flag, text);
    return fractions;
  };
  if (flags.backend == "reference" && flags.compute_dtype == "bf16")
    fail_user("--compute-dtype bf16: the reference backend computes in fp32 alone");
  if (flags.matmul_dtype == "int8")
    for (const std::string& weights : split_list(flags.weight_dtype))
      if (weights != "int4" && weights != "int8")
        fail_user("--matmul-dtype int8: only int4 and int8 weights are multiplied in integers; add --weight-dtype int4 or int8");
  if (flags.chooses_dtypes()) {
    const std::string lists = fmt::format("--weight-dtype {} --kv-cache-dtype {}", flags.weight_dtype, flags.kv_cache_dtype);
    if (command.get_name() == "eval" || command.get_name() == "generate") fail_user("{}: {} takes one type each", lists, command.get_name());
    if (gpu_backend) fail_user("{}: with --backend {} give one type each; flexgen plan --hardware chooses among several for a GPU", lists, flags.backend);
    if (flags.planner != "search") fail_user("{}: --planner {} cannot tell which is faster; give one type each", lists, flags.planner);
    if (launched() && command.get_name() != "plan") fail_user("{}: several processes need one type each; flexgen plan chooses among several", lists);
  }
  if (flags.backend == "reference" && flags.threads > 1) fail_user("--threads {}: the reference backend has one thread", flags.threads);
  if (given("--cpu-memory")) flags.cpu_memory_bytes = positive_size(raw.cpu_memory, "--cpu-memory");
  if (given("--disk-dir") && flags.disk_directory.empty()) fail_user("--disk-dir is empty");
  if (given("--disk-bandwidth")) flags.disk_bytes_per_s = positive_size(raw.disk_bandwidth, "--disk-bandwidth");
  if (given("--disk-space")) {
    flags.disk_space_bytes = positive_size(raw.disk_space, "--disk-space");
    if (!given("--disk-dir")) fail_user("--disk-space {}: say where with --disk-dir", raw.disk_space);
  }
  if (given("--weights")) flags.policy.weights = fractions_of(raw.weights, "--weights");
  if (given("--kv-cache")) flags.policy.kv_cache = fractions_of(raw.kv_cache, "--kv-cache");
  if (given("--activations")) flags.policy.activations = fractions_of(raw.activations, "--activations");
  for (auto [flag, share] : {std::pair{"--kv-cache", flags.policy.kv_cache}, {"--activations", flags.policy.activations}})
    if (share && share->disk > 0 && !given("--disk-dir"))
      fail_user("{} {}: a share on disk needs --disk-dir", flag, share->to_string());
  if (flags.policy.attention_tier == Tier::kCpu && flags.policy.kv_cache && flags.policy.kv_cache->gpu > 0)
    fail_user("--attention-on cpu: attends beside a KV cache in RAM and on disk, so --kv-cache {} can have no share in GPU memory", raw.kv_cache);
  if (given("--micro-batch-size")) flags.policy.micro_batch_size = raw.micro_batch_size;
  if (given("--num-micro-batches")) flags.policy.num_micro_batches = raw.num_micro_batches;
  if (given("--buffers")) flags.policy.buffers = raw.buffers;
  if (given("--max-rows")) flags.policy.max_rows = raw.max_rows;
  return flags;
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
  if (error != std::errc() || rest != end || range.first < 1 || range.second < range.first || range.second > int64_t{1} << 31)
    fail_user("{} {}: give a number of tokens like 128, or a range like 64:512", flag, text);
  return range;
}

}  // namespace

std::vector<std::string> split_list(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    parts.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

std::variant<Command, CommandText> parse_command_line(const std::vector<std::string>& arguments) {
  CLI::App app{"Runs language models that are larger than the memory: batches of prompts, as fast as the disk allows.", "flexgen"};
  app.set_version_flag("--version", std::string("flexgen ") + kVersion);
  app.require_subcommand(1);
  app.footer(std::string("flexgen COMMAND --help lists the flags of a command.\n\n") + kExitCodes);
  app.get_formatter()->column_width(34);

  CLI::App* batch = app.add_subcommand("run-batch", "answer an OpenAI batch file; run it again after a stop, and it goes on");
  RunBatchOptions batch_options;
  RawEngineFlags batch_engine;
  batch->add_option("-m,--model", batch_options.model, "checkpoint directory as Hugging Face lays it out")->required()->type_name("DIR");
  batch->add_option("-i,--input", batch_options.input, "JSONL file of requests to /v1/completions")->required()->type_name("IN.jsonl");
  batch->add_option("-o,--output", batch_options.output, "answers are added here as they finish; OUT.jsonl.job lies beside it")->required()->type_name("OUT.jsonl");
  batch->add_flag("--overwrite", batch_options.overwrite, "replace an output of another input, model or options (a job that matches goes on all the same)");
  batch->add_flag("--efficiency", batch_options.efficiency, "measure this machine first (some seconds), and say at the end how near the run came to its limit");
  batch->add_option("--shard", batch_options.shard, "do part I (from 0) of N of the lines, into OUT.I-of-N.jsonl; 'auto' takes both from a Slurm array, 'auto/N' I from a Slurm array or a Kubernetes indexed Job; flexgen merge joins the parts")->type_name("I/N");
  add_expected_tokens(batch, &batch_options.expected_tokens, "as the answers that an earlier run has left, if there are 32; else all of its max_tokens");
  add_team_flags(batch, &batch_options.team);
  add_engine_flags(batch, &batch_engine);
  batch->footer(kExitCodes);

  CLI::App* generate = app.add_subcommand("generate", "continue one text; only the continuation goes to stdout");
  GenerateOptions generate_options;
  generate_options.params.max_tokens = 128;
  generate_options.params.temperature = 0;
  RawEngineFlags generate_engine;
  SamplingParams& params = generate_options.params;
  const std::string sampling = "Sampling";
  generate->add_option("-m,--model", generate_options.model, "checkpoint directory")->required()->type_name("DIR");
  generate->add_option("prompt", generate_options.prompt, "the text to continue; - reads it from stdin")->required()->type_name("TEXT");
  generate->add_option("--max-tokens", params.max_tokens, "tokens to generate at most")->check(CLI::Range(int64_t{1}, int64_t{1} << 31))->capture_default_str()->type_name("N")->group(sampling);
  generate->add_option("--temperature", params.temperature, "0: always the likeliest token")->check(CLI::Range(0.0, 2.0))->capture_default_str()->type_name("X")->group(sampling);
  generate->add_option("--top-p", params.top_p, "from the likeliest tokens that make up this probability")->check(CLI::Range(1e-9, 1.0))->capture_default_str()->type_name("X")->group(sampling);
  generate->add_option("--top-k", params.top_k, "from the k likeliest tokens; 0: all")->check(CLI::Range(int64_t{0}, int64_t{1} << 31))->capture_default_str()->type_name("K")->group(sampling);
  generate->add_option("--seed", params.seed, "of the random numbers")->check(CLI::NonNegativeNumber)->capture_default_str()->type_name("N")->group(sampling);
  generate->add_option("--stop", params.stop, "end before this text (may be given several times)")->expected(1)->take_all()->type_name("TEXT")->group(sampling);
  generate->add_flag("--no-special-tokens", generate_options.no_special_tokens, kNoSpecialTokens)->group(sampling);
  generate->add_option("--stop-token-id", params.stop_token_ids, "end at this token (may be given several times)")->expected(1)->take_all()->check(CLI::NonNegativeNumber)->type_name("ID")->group(sampling);
  generate->add_option("--min-tokens", params.min_tokens, "nothing ends the answer before it has so many tokens")->check(CLI::Range(int64_t{0}, int64_t{1} << 31))->capture_default_str()->type_name("N")->group(sampling);
  generate->add_flag("--ignore-eos", params.ignore_eos, "go on after an end-of-text token")->group(sampling);
  add_engine_flags(generate, &generate_engine);
  generate->footer(kExitCodes);

  CLI::App* inspect = app.add_subcommand("inspect", "say what a checkpoint is: shapes, bytes per part, KV bytes per token");
  InspectOptions inspect_options;
  inspect->add_option("model", inspect_options.model, "checkpoint directory")->required()->type_name("DIR");
  inspect->add_flag("--json", inspect_options.json, "as JSON");

  CLI::App* bench = app.add_subcommand("bench", "measure a model or a shape, with the bound and the efficiency");
  BenchOptions bench_options;
  RawEngineFlags bench_engine;
  std::string prompt_len = "512", gen_len = "32";
  bench->add_option("-m,--model", bench_options.model, "checkpoint directory, a config.json, or a shape such as opt-6.7b or llama-3.1-8b")->required()->type_name("DIR|SHAPE");
  bench->add_option("--load-format", bench_options.load_format, "checkpoint: real weights; dummy: random ones, written once and kept; auto: checkpoint if there is one")->check(CLI::IsMember({"auto", "dummy", "checkpoint"}))->capture_default_str()->type_name("NAME");
  bench->add_option("--dtype", bench_options.dtype, "of dummy weights: bf16, f16, f32")->check(CLI::IsMember({"bf16", "f16", "f32"}))->capture_default_str()->type_name("NAME");
  bench->add_option("--dummy-dir", bench_options.dummy_directory, "where dummy weights are kept (default: FLEXGEN_CACHE_DIR, flexgen in XDG_CACHE_HOME, or ~/.cache/flexgen)")->type_name("DIR");
  bench->add_option("--prompt-len", prompt_len, "tokens a prompt, or a range like 64:512")->capture_default_str()->type_name("N|A:B");
  bench->add_option("--gen-len", gen_len, "tokens to generate, or a range")->capture_default_str()->type_name("N|A:B");
  bench->add_option("--num-prompts", bench_options.num_prompts, "sequences")->check(CLI::Range(int64_t{1}, int64_t{1} << 31))->capture_default_str()->type_name("N");
  bench->add_option("--seed", bench_options.seed, "of weights, prompts and lengths")->check(CLI::NonNegativeNumber)->capture_default_str()->type_name("N");
  bench->add_option("--json", bench_options.json_file, "write the figures here too")->type_name("FILE");
  bench->add_flag("--no-efficiency", bench_options.no_efficiency, "do not measure what the machine gives at most, nor compare the run with it: some ten seconds less");
  bench->add_flag("--simulate", bench_options.simulate, "afterwards run the same job on simulated lanes at the speeds of the profile, as a second opinion on the prediction");
  const char* peers_group = "The same job by other programs";
  PeerFlags& peers = bench_options.peers;
  CLI::Option* peers_option = bench->add_option("--peers", peers.names, "run it by these too, afterwards, and compare: accelerate (Hugging Face), flexllmgen (FlexGen as published; OPT shapes, --backend cuda)")->delimiter(',')->check(CLI::IsMember(std::vector<std::string>(std::begin(kPeers), std::end(kPeers))))->type_name("NAME,...")->group(peers_group);
  bench->add_option("--peer-python", peers.python, "the Python that has them")->capture_default_str()->type_name("FILE")->group(peers_group)->needs(peers_option);
  bench->add_option("--peer-batch", peers.batch_sizes, "batch sizes that accelerate tries; the fastest counts")->delimiter(',')->check(CLI::Range(int64_t{1}, int64_t{1} << 20))->capture_default_str()->type_name("N,...")->group(peers_group)->needs(peers_option);
  bench->add_option("--peer-rounds", peers.rounds, "batches that are run, the others are counted at their time; 0: all")->check(CLI::NonNegativeNumber)->capture_default_str()->type_name("N")->group(peers_group)->needs(peers_option);
  bench->add_option("--peer-policy", peers.policy, "flexllmgen's own flags (default: those of its published runs of the model)")->type_name("TEXT")->group(peers_group)->needs(peers_option);
  add_team_flags(bench, &bench_options.team);
  add_engine_flags(bench, &bench_engine);
  bench->footer(kExitCodes);

  CLI::App* eval = app.add_subcommand("eval", "the price of a policy in accuracy: perplexity of a text, or exact match of greedy answers");
  EvalOptions eval_options;
  RawEngineFlags eval_engine;
  const std::string text_group = "Perplexity of a text", task_group = "Exact match";
  auto positive = CLI::Range(int64_t{1}, int64_t{1} << 40);
  eval->add_option("-m,--model", eval_options.model, "checkpoint directory")->required()->type_name("DIR");
  CLI::Option* text_option = eval->add_option("--perplexity", eval_options.perplexity_file, "a UTF-8 text")->type_name("FILE")->group(text_group);
  CLI::Option* task_option = eval->add_option("--task", eval_options.task_file, "JSONL with prompt and answer")->type_name("FILE")->group(task_group)->excludes(text_option);
  eval->add_option("--window", eval_options.window, "tokens that go through the model together (default: its positions, up to 1024)")->check(positive)->type_name("N")->group(text_group)->needs(text_option);
  eval->add_option("--stride", eval_options.stride, "tokens between windows (default: half a window); those before are context")->check(positive)->type_name("N")->group(text_group)->needs(text_option);
  eval->add_option("--text-tokens", eval_options.text_tokens, "use the first N tokens of the text (default: all)")->check(positive)->type_name("N")->group(text_group)->needs(text_option);
  eval->add_option("--prompt-field", eval_options.prompt_field, "member that has the prompt")->capture_default_str()->type_name("NAME")->group(task_group)->needs(task_option);
  eval->add_option("--answer-field", eval_options.answer_field, "member that has the reference; if it is a JSON object, its members are counted too")->capture_default_str()->type_name("NAME")->group(task_group)->needs(task_option);
  eval->add_option("--max-tokens", eval_options.max_tokens, "tokens to generate at most")->check(CLI::Range(int64_t{1}, int64_t{1} << 31))->capture_default_str()->type_name("N")->group(task_group)->needs(task_option);
  eval->add_option("--stop", eval_options.stop, "end before this text (may be given several times)")->expected(1)->take_all()->type_name("TEXT")->group(task_group)->needs(task_option);
  eval->add_option("--limit", eval_options.limit, "use the first N lines (default: all)")->check(positive)->type_name("N")->group(task_group)->needs(task_option);
  eval->add_flag("--no-special-tokens", eval_options.no_special_tokens, kNoSpecialTokens);
  eval->add_option("--json", eval_options.json_file, "write the figures here too")->type_name("FILE");
  add_engine_flags(eval, &eval_engine);
  eval->footer(kExitCodes);

  CLI::App* plan = app.add_subcommand("plan", "say how a job would be done, how long it takes and what would help, without doing it");
  PlanOptions plan_options;
  RawEngineFlags plan_engine;
  std::string plan_prompt_len = "512", plan_gen_len = "32";
  plan->add_option("-m,--model", plan_options.model, "checkpoint directory, config.json, or shape by name, like opt-6.7b or llama-3.1-8b")->required()->type_name("DIR|SHAPE");
  plan->add_option("-i,--input", plan_options.input, "the job: a batch file as for run-batch")->type_name("IN.jsonl");
  plan->add_option("--prompt-len", plan_prompt_len, "or its lengths: tokens of a prompt, 512 or 64:512")->capture_default_str()->type_name("A[:B]");
  plan->add_option("--gen-len", plan_gen_len, "tokens to generate")->capture_default_str()->type_name("A[:B]");
  plan->add_option("--num-prompts", plan_options.num_prompts, "sequences")->check(CLI::Range(int64_t{1}, int64_t{1} << 31))->capture_default_str()->type_name("N");
  add_expected_tokens(plan, &plan_options.expected_tokens, "all of its max_tokens, or --gen-len");
  plan->add_option("--seed", plan_options.seed, "of the lengths")->check(CLI::NonNegativeNumber)->capture_default_str()->type_name("N");
  plan->add_option("--dtype", plan_options.dtype, "of a shape's weights")->check(CLI::IsMember({"bf16", "f16", "f32"}))->capture_default_str()->type_name("NAME");
  plan->add_flag("--json", plan_options.json, "as JSON");
  plan->add_option("--plot", plan_options.plot_file, "a page with the lanes, throughput over block size, and throughput against latency")->type_name("FILE.html");
  add_engine_flags(plan, &plan_engine);
  CLI::App* merge = app.add_subcommand("merge", "join the outputs of run-batch --shard; checks for missing and doubled answers");
  MergeOptions merge_options;
  merge->add_option("-i,--input", merge_options.input, "the JSONL file that the shards answer")->required()->type_name("IN.jsonl");
  merge->add_option("-o,--output", merge_options.output, "all answers, in the order of the input's lines")->required()->type_name("OUT.jsonl");
  merge->add_option("shards", merge_options.parts, "their outputs (default: OUT.0-of-N.jsonl and so on, beside the output)")->type_name("FILE");

  CLI::App* doctor = app.add_subcommand("doctor", "say what this machine offers: CPU features, memory, disk speed");
  DoctorOptions doctor_options;
  doctor->add_option("--disk-dir", doctor_options.disk_directory, "the disk to measure; up to 1 GiB is written there for a moment")->capture_default_str()->type_name("DIR");
  doctor->add_flag("--json", doctor_options.json, "as JSON");
  doctor->add_flag("--measure", doctor_options.measure, "measure every lane as the engine uses it (under a minute; nothing else should run), and keep the profile for the planner");
  doctor->add_flag("--disk-only", doctor_options.disk_only, "with --measure: the disk alone (some 15 s), the rest as it is kept");
  doctor->add_option("--model", doctor_options.model, "with --measure: read this checkpoint's files, as a job will")->type_name("DIR");
  doctor->add_option("--threads", doctor_options.threads, "with --measure: threads that compute (default: as for run-batch)")->check(CLI::Range(1, 4096))->type_name("N");

  for (CLI::App* command : app.get_subcommands({})) want_decimal_numbers(command);

  try {
    std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
    app.parse(reversed);
    if (batch->parsed()) {
      batch_options.engine = checked(batch_engine, *batch);
      if (batch_options.engine.chooses_dtypes() && !batch_options.shard.empty())
        fail_user("--shard {}: shards could choose different types; give one each for weights and KV cache (flexgen plan chooses among several)", batch_options.shard);
      if (batch_options.efficiency && launched()) fail_user("--efficiency is measured for one process alone; leave it out, or the launcher");
      if (batch_options.input == "-" || batch_options.output == "-")
        fail_user("-i and -o must be files, not '-': a job that may be continued reads its input again");
      return batch_options;
    }
    if (generate->parsed()) {
      generate_options.engine = checked(generate_engine, *generate);
      for (const std::string& stop : params.stop)
        if (stop.empty()) fail_user("--stop is empty");
      if (params.min_tokens > params.max_tokens) fail_user("--min-tokens {}: more than --max-tokens ({})", params.min_tokens, params.max_tokens);
      return generate_options;
    }
    if (inspect->parsed()) return inspect_options;
    if (plan->parsed()) {
      plan_options.engine = checked(plan_engine, *plan);
      plan_options.prompt_len = length_range(plan_prompt_len, "--prompt-len");
      plan_options.gen_len = length_range(plan_gen_len, "--gen-len");
      if (!plan_options.input.empty())
        for (const char* flag : {"--prompt-len", "--gen-len", "--num-prompts", "--seed"})
          if (plan->get_option(flag)->count() > 0) fail_user("{}: the lengths come from --input {}; leave one of them out", flag, plan_options.input);
      return plan_options;
    }
    if (merge->parsed()) return merge_options;
    if (bench->parsed()) {
      bench_options.engine = checked(bench_engine, *bench);
      bench_options.prompt_len = length_range(prompt_len, "--prompt-len");
      bench_options.gen_len = length_range(gen_len, "--gen-len");
      return bench_options;
    }
    if (eval->parsed()) {
      eval_options.engine = checked(eval_engine, *eval);
      if (eval_options.perplexity_file.empty() && eval_options.task_file.empty()) fail_user("eval: say what to measure, --perplexity FILE or --task FILE");
      for (const std::string& stop : eval_options.stop)
        if (stop.empty()) fail_user("--stop is empty");
      return eval_options;
    }
    if (!doctor_options.measure && (!doctor_options.model.empty() || doctor_options.threads > 0 || doctor_options.disk_only))
      fail_user("doctor: --model, --threads and --disk-only go with --measure");
    return doctor_options;
  } catch (const CLI::ParseError& error) {
    std::ostringstream out, err;
    bool fine = app.exit(error, out, err) == 0;
    return CommandText{fine ? kExitDone : kExitUsage, out.str() + err.str()};
  } catch (const Error& error) {
    return CommandText{kExitUsage, std::string(error.what()) + "\n"};
  }
}

EngineOptions engine_options(const EngineFlags& flags, const std::string& model_directory) {
  EngineOptions options;
  options.model_directory = model_directory;
  options.backend = flags.backend;
  options.compute_dtype = flags.compute_dtype;
  options.weight_dtype = flags.weight_dtype;
  options.weight_quantization = flags.weight_quantization;
  options.matmul_dtype = flags.matmul_dtype;
  options.prepare_progress = [announced = int64_t{0}](int64_t done, int64_t total) mutable {
    if (done - announced < kGiB && done < total) return;
    announced = done;
    spdlog::info("preparing weights: {} of {}", format_bytes(done), format_bytes(total));
  };
  options.kv_cache_dtype = flags.kv_cache_dtype;
  options.kv_cache_rotation = flags.kv_cache_rotation;
  options.attention_sparsity = flags.attention_sparsity;
  if (flags.attention_sparsity < 1)
    spdlog::info("attention sparsity {}: generated tokens use the values of this share of their positions; answers differ from those without it", flags.attention_sparsity);
  options.threads = flags.threads > 0 || flags.backend == "reference" ? flags.threads : default_threads();
  options.disk_directory = flags.disk_directory;
  options.disk_bytes_per_s = static_cast<double>(flags.disk_bytes_per_s);
  options.policy = flags.policy;
  options.planner = flags.planner;
  options.trace_file = flags.trace_file;
  options.budgets.cpu_bytes = flags.cpu_memory_bytes;
  options.budgets.gpu_bytes = flags.gpu_memory_bytes;
  if (options.budgets.cpu_bytes == 0) options.budgets.cpu_bytes = default_cpu_memory_bytes(read_memory_status());
  if (!flags.disk_directory.empty()) {
    std::error_code error;
    if (!file_is_there(flags.disk_directory)) fail_user("--disk-dir {}: there is no such directory; make it first", flags.disk_directory);
    if (!std::filesystem::is_directory(flags.disk_directory, error)) fail_user("--disk-dir {}: this is no directory; give one", flags.disk_directory);
    if (access(flags.disk_directory.c_str(), W_OK | X_OK) != 0)
      fail_user("--disk-dir {}: this directory cannot be written to: {}{}", flags.disk_directory, std::strerror(errno), file_advice(flags.disk_directory, errno));
    auto space = std::filesystem::space(flags.disk_directory, error);
    if (error) fail_io("--disk-dir {}: {}", flags.disk_directory, error.message());
    options.budgets.disk_bytes = flags.disk_space_bytes ? flags.disk_space_bytes : static_cast<int64_t>(space.available / 10 * 9);
  }
  return options;
}

}  // namespace flexgen
