// The flags that run-batch, generate, serve, bench, eval and plan share.

#include "cli/command_definitions.h"

#include <limits>

#include "base/error.h"
#include "base/nearest.h"
#include "base/units.h"
#include "net/world.h"

namespace flexgen {
namespace {

const std::vector<std::string> kBackends{"cpu", "cuda", "reference"};
constexpr uint64_t kMost = 1 << 30;  // sequences, tokens of a step

void add_memory_flags(CommandDefinition& command, RawEngineFlags* raw) {
  command.begin_group("Memory and disk");
  command.text("--cpu-memory", raw->cpu_memory, "RAM budget, like 6GiB; a promise (default: 80% of what is free)", "SIZE");
  command.text("--gpu-memory", raw->gpu_memory,
               "GPU memory budget, a promise; with --backend cuda (default: what is free, less a margin), or to plan with a --hardware profile that has a GPU",
               "SIZE");
  command.text("--disk-dir", raw->flags.disk_directory, "where KV cache and activations may spill (default: they may not)", "DIR");
  command.text("--disk-space", raw->disk_space, "disk budget for the spill (default: 90% of what is free)", "SIZE");
  command.text("--disk-bandwidth", raw->disk_bandwidth,
               "bytes per second that the job's reads and writes of disks may take together, so that other programs have the rest; planned with (default: all)",
               "SIZE");
}

void add_precision_flags(CommandDefinition& command, RawEngineFlags* raw) {
  EngineFlags& flags = raw->flags;
  command.begin_group("Execution");
  command.choices[command.text("--backend", flags.backend, "cpu, cuda (a GPU computes), or reference (plain fp32, slow)", "NAME")->capture_default_str()] =
      kBackends;
  command
      .choice_list(
          "--weight-dtype", flags.weight_dtype, {"auto", "bf16", "fp16", "int8", "int4"},
          "matrices: auto (as in the checkpoint), bf16, fp16, int8, int4; made once, kept in --disk-dir, streamed from there (int8 and int4 change answers a little). Several, like bf16,int4: whichever the job is planned to be done with soonest")
      ->capture_default_str();
  command
      .choice_list(
          "--kv-cache-dtype", flags.kv_cache_dtype, {"auto", "bf16", "int8", "int4"},
          "how keys and values are kept: auto (as they are computed), bf16, int8, int4 (groups of 64 with 16-bit scale and minimum; changes answers a little). Several: as with --weight-dtype")
      ->capture_default_str();
  command.whole_within("--threads", flags.threads, 1, 4096, "threads that compute (default: a core each, as many as affinity and cgroup quota allow)");
  command.file(FileUse::kWritten, "--trace", flags.trace_file, "write what each lane did, for Perfetto or chrome://tracing", "FILE");
  command.begin_group("Precision", true);
  command.choice("--compute-dtype", flags.compute_dtype, {"auto", "bf16", "f32"}, "arithmetic: auto, bf16, or f32 (no GPU)")->capture_default_str();
  command
      .choice(
          "--matmul-dtype", flags.matmul_dtype, {"auto", "int8"},
          "products with int4 or int8 weights, or with MXFP4, Q4_0, Q8_0 and IQ4_NL as shipped: auto (weights become the compute dtype), int8 (inputs are quantized to int8 per token in groups of 64, or 32, and multiplied in integers: faster; changes answers a little)")
      ->capture_default_str();
  command
      .choice(
          "--weight-quantization", flags.weight_quantization, {"auto", "minmax", "mse"},
          "how int8 and int4 weights choose a group's scale and minimum: minmax (its extremes), mse (least squared error), auto (mse for int4, minmax for int8)")
      ->capture_default_str();
  command
      .choice("--kv-cache-rotation", flags.kv_cache_rotation, {"none", "hadamard"},
              "none, or hadamard: keys are rotated before they are quantized, so that outliers cost less (heads of a power of two)")
      ->capture_default_str();
  command
      .real(
          "--attention-sparsity", flags.attention_sparsity, 1e-6, 1.0,
          "share of the positions, per head, whose values a generated token uses: 0.1 reads all keys and the values of the best tenth (changes answers; 1: off)")
      ->capture_default_str();
}

void add_placement_flags(CommandDefinition& command, RawEngineFlags* raw) {
  command.begin_group("Placement and batching (planned around what is given)", true);
  command.text("--weights", raw->weights, "percentages gpu:cpu:disk, like 0:40:60", "G:C:D");
  command.text("--kv-cache", raw->kv_cache, "percentages gpu:cpu:disk", "G:C:D");
  command.text("--activations", raw->activations, "percentages gpu:cpu:disk", "G:C:D");
  command.choice("--attention-on", raw->attention_on, {"auto", "gpu", "cpu"}, "with --backend cuda: gpu, cpu (beside the KV cache in RAM and on disk), or auto",
                 "WHERE");
  command.choice(
      "--load-experts", raw->load_experts, {"auto", "all", "chosen"},
      "of a mixture of experts, what a step loads of those that are not in memory: all, ahead of their use; those that its tokens choose (chosen), once that is known; or auto, by what is expected to take less time",
      "WHICH");
  command.file(
      FileUse::kAddedTo, "--expert-statistics", raw->flags.expert_statistics,
      "of a mixture of experts, a file of how often each is chosen: plans and placement in memory go by what is counted there, and runs add their counts; auto: kept with the hardware profile (default: none)",
      "FILE|auto");
  command.whole_within("--micro-batch-size", raw->micro_batch_size, 1, kMost, "sequences that go through a layer together");
  command.whole_within("--num-micro-batches", raw->num_micro_batches, 1, kMost, "micro-batches in flight");
  command.whole_within("--max-rows", raw->max_rows, 1, kMost, "tokens of one micro-batch in one step, at most: generated tokens and chunks of prompts");
  command.whole_within("--buffers", raw->buffers, 1, 16, "staging buffers per kind of tensor: 1 no overlap, 2, 3 smoother");
  command.whole_within(
      "--weight-buffers", raw->weight_buffers, 2, 16,
      "staging buffers of weights, where these are to be more than --buffers: units of experts are small, and are read and computed unevenly (default: as many as --buffers where that is given, else as is best)");
  command.file(FileUse::kRead, "--hardware", raw->flags.hardware,
               "profile of the machine to plan for (default: this one's, measured once; generic: assumed speeds)", "FILE|generic");
  command
      .choice(
          "--prefix-sharing", raw->flags.prefix_sharing, {"auto", "off"},
          "auto: what prompts have in common at their beginnings is computed once and kept once (answers stay the same); off: each prompt is computed whole")
      ->capture_default_str();
  command.choice("--planner", raw->flags.planner, {"search", "first-rule"}, "search, or first-rule (fills RAM first, measures nothing)")->capture_default_str();
}

int64_t positive_size(const std::string& text, const char* flag) {
  const int64_t bytes = size_of(text, flag);
  if (bytes == 0) fail_user("{} 0: give a size above 0, or leave it out", flag);
  return bytes;
}

}  // namespace

int64_t size_of(const std::string& text, const char* flag) {
  try {
    return parse_size_bytes(text);
  } catch (const Error& error) {
    fail_user("{}: {}", flag, error.what());
  }
}

void add_engine_flags(CommandDefinition& command, RawEngineFlags* raw) {
  add_memory_flags(command, raw);
  add_precision_flags(command, raw);
  add_placement_flags(command, raw);
}

EngineFlags checked_engine_flags(const RawEngineFlags& raw, const CLI::App& command) {
  EngineFlags flags = raw.flags;
  auto given = [&](const char* flag) { return command.get_option(flag)->count() > 0; };
  // emulated-gpu is for tests: a GPU played by RAM.
  const bool gpu_backend = flags.backend == "cuda" || flags.backend == "emulated-gpu";
  if (!gpu_backend && flags.backend != "cpu" && flags.backend != "reference")
    fail_user("--backend {}: there are cpu, cuda and reference{}", flags.backend, did_you_mean(flags.backend, kBackends));
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
  if (flags.backend == "reference" && flags.compute_dtype == "bf16") fail_user("--compute-dtype bf16: the reference backend computes in fp32 alone");
  if (flags.matmul_dtype == "int8")
    for (const std::string& weights : split_list(flags.weight_dtype))
      if (weights == "bf16" || weights == "fp16")
        fail_user("--matmul-dtype int8: {} weights are not multiplied in integers; give --weight-dtype int4 or int8", weights);
  if (flags.weight_quantization != "auto")
    for (const std::string& weights : split_list(flags.weight_dtype))
      if (weights != "int8" && weights != "int4")
        fail_user("--weight-quantization {}: weights of --weight-dtype {} are not quantized; give int4 or int8 in its place", flags.weight_quantization,
                  weights);
  if (flags.chooses_dtypes()) {
    const std::string lists = fmt::format("--weight-dtype {} --kv-cache-dtype {}", flags.weight_dtype, flags.kv_cache_dtype);
    if (command.get_name() == "eval" || command.get_name() == "generate" || command.get_name() == "chat" || command.get_name() == "serve")
      fail_user("{}: {} takes one type each", lists, command.get_name());
    if (gpu_backend) fail_user("{}: with --backend {} give one type each; flexgen plan --hardware chooses among several for a GPU", lists, flags.backend);
    if (flags.planner != "search") fail_user("{}: --planner {} cannot tell which is faster; give one type each", lists, flags.planner);
    if (launched_with_others() && command.get_name() != "plan")
      fail_user("{}: several processes need one type each; flexgen plan chooses among several", lists);
  }
  if (flags.backend == "reference" && flags.threads > 1) fail_user("--threads {}: the reference backend has one thread", flags.threads);
  if (given("--cpu-memory")) flags.cpu_memory_bytes = positive_size(raw.cpu_memory, "--cpu-memory");
  if (given("--disk-bandwidth")) flags.disk_bytes_per_s = positive_size(raw.disk_bandwidth, "--disk-bandwidth");
  if (given("--disk-space")) {
    flags.disk_space_bytes = positive_size(raw.disk_space, "--disk-space");
    if (!given("--disk-dir")) fail_user("--disk-space {}: say where with --disk-dir", raw.disk_space);
  }
  if (given("--weights")) flags.policy.weights = fractions_of(raw.weights, "--weights");
  if (given("--kv-cache")) flags.policy.kv_cache = fractions_of(raw.kv_cache, "--kv-cache");
  if (given("--activations")) flags.policy.activations = fractions_of(raw.activations, "--activations");
  for (auto [flag, share] : {std::pair{"--kv-cache", flags.policy.kv_cache}, {"--activations", flags.policy.activations}})
    if (share && share->disk > 0 && !given("--disk-dir")) fail_user("{} {}: a share on disk needs --disk-dir", flag, share->to_string());
  if (flags.policy.attention_tier == Tier::kCpu && flags.policy.kv_cache && flags.policy.kv_cache->gpu > 0)
    fail_user("--attention-on cpu: attends beside a KV cache in RAM and on disk, so --kv-cache {} can have no share in GPU memory", raw.kv_cache);
  if (given("--load-experts") && raw.load_experts != "auto")
    flags.policy.max_choosing_rows = raw.load_experts == "all" ? 0 : std::numeric_limits<int64_t>::max();
  if (given("--expert-statistics") && flags.expert_statistics.empty()) fail_user("--expert-statistics is empty; give a file, or auto");
  if (given("--micro-batch-size")) flags.policy.micro_batch_size = raw.micro_batch_size;
  if (given("--num-micro-batches")) flags.policy.num_micro_batches = raw.num_micro_batches;
  if (given("--buffers")) flags.policy.buffers = raw.buffers;
  if (given("--weight-buffers")) {
    if (flags.policy.buffers == 1) fail_user("--weight-buffers {}: with --buffers 1 nothing overlaps, so it cannot be honoured", raw.weight_buffers);
    if (flags.policy.buffers.value_or(0) > raw.weight_buffers)
      fail_user("--weight-buffers {}: weights have --buffers {} at the least", raw.weight_buffers, raw.buffers);
    flags.policy.weight_buffers = raw.weight_buffers;
  }
  if (given("--max-rows")) flags.policy.max_rows = raw.max_rows;
  return flags;
}

}  // namespace flexgen
