#pragma once
// Options: the command line as data. Every flag is honoured or refused; nothing here touches model or disk. Pure, but for
// reading a --config file in parse_command_line(), and free memory and disk space in engine_options().

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "app/peers.h"
#include "engine/engine.h"

namespace flexgen {

inline constexpr const char* kVersion = "0.1.0";

/// What the process ends with.
enum ExitCode {
  kExitDone = 0,
  kExitFailed = 1,    ///< an error; finished answers are kept
  kExitUsage = 2,     ///< the command line is wrong; nothing was done
  kExitBadLines = 3,  ///< run-batch: lines were bad and none was answered, or --fail-on-bad-lines
  kExitStopped = 75,  ///< SIGINT or SIGTERM; the same command goes on (EX_TEMPFAIL)
};

/// The flags that all commands share.
struct GeneralFlags {
  std::string config_file;         ///< TOML; empty: none
  bool quiet = false, verbose = false;
  std::string log_level = "info";  ///< "debug", "info", "warning", "error"
  std::vector<std::string> warnings, notes;  ///< about the command line, for the log; notes: where flags come from that were not typed
};

/// Which files a model is read from, and how: the flags beside --model.
struct ModelFlags {
  std::string revision;  ///< of a model in the Hub's cache: a branch, a tag or a commit; empty: main
  std::vector<std::string> ignored_config_fields;  ///< of config.json, that flexgen does not know and the user takes for harmless
};

/// The flags that run-batch, generate and bench share.
struct EngineFlags {
  ModelFlags model;
  std::string backend = "cpu";
  std::string compute_dtype = "auto", matmul_dtype = "auto";
  std::string weight_dtype = "auto", kv_cache_dtype = "auto";  ///< a list ("bf16,int4"): of these the planner takes what it finds fastest (app/dtype_choice.h)
  std::string weight_quantization = "auto";
  std::string kv_cache_rotation = "none";
  double attention_sparsity = 1;
  int threads = 0;
  int64_t cpu_memory_bytes = 0;  ///< 0: from what is free
  int64_t gpu_memory_bytes = 0;  ///< where a GPU computes (0: from what is free), or is planned for
  int64_t disk_space_bytes = 0;  ///< 0: from what is free in disk_directory
  std::string disk_directory;
  int64_t disk_bytes_per_s = 0;  ///< that reads and writes may take together; 0: all
  PolicyRequest policy;
  std::string hardware;      ///< a profile's file, "generic", or empty: this machine's own
  std::string planner = "search";
  std::string prefix_sharing = "auto";
  std::string expert_statistics;  ///< a file, "auto" (in the cache directory), or empty: nothing is counted
  std::string trace_file;

  bool shares_prefixes() const { return prefix_sharing == "auto"; }
  bool chooses_dtypes() const { return (weight_dtype + kv_cache_dtype).find(',') != std::string::npos; }
};

/// How several processes, started by mpirun or srun, share a command.
struct TeamFlags {
  int pipeline_stages = 0;     ///< processes a pipeline; 0: all. More processes than that make replicas
  std::string stage_split;     ///< "10:22": blocks of each stage; empty: by their budgets
  double rank_timeout_s = 20;
};

struct RunBatchOptions {
  std::string model, input, output;  ///< input "-": from stdin
  bool overwrite = false;
  bool fail_on_bad_lines = false;
  bool in_order = false;      ///< records in the order of the lines at the end
  std::string error_output;   ///< error records go there at the end; empty: nowhere else
  EngineFlags engine;
  bool efficiency = false;  ///< measure the machine, and compare the run with it
  TeamFlags team;
  std::string shard;        ///< "0/4", "auto", "auto/4", or empty
  int64_t expected_tokens = 0;  ///< as in BatchFiles; 0: not given
  std::string served_model_name;  ///< what answers give as their model; empty: the directory's name
  bool skip_tokenizer = false;    ///< prompts are token ids, and answers too
  std::string chat_template;      ///< a file; empty: the model's own; so in all options
  bool json = false;            ///< a summary of the run, on stdout or in json_file
  std::string json_file;
};

struct GenerateOptions {
  std::string model, prompt;  ///< prompt "-": from stdin
  SamplingParams params;
  EngineFlags engine;
  bool no_special_tokens = false;  ///< the tokenizer puts none before the text
  bool chat = false;          ///< the prompt is what a user says
  std::string json_schema;    ///< file of the schema that the answer follows; empty: none
  std::string system;         ///< what comes before it; empty: nothing
  std::string chat_template;
  bool stats = false;         ///< the plan and the run's figures, on stderr
  bool json = false;          ///< the answer and the figures instead of the text alone; with a file beside it
  std::string json_file;      ///< empty: stdout; so in all options
};

struct ChatOptions {
  std::string model;
  std::string system;             ///< what a conversation begins with; empty: nothing
  std::string chat_template;
  SamplingParams params;          ///< max_tokens: of an answer
  int64_t max_model_len = 0;      ///< tokens of the conversation; 0: as the model has it, within bounds
  EngineFlags engine;
};

struct ServeOptions {
  std::string model;
  std::string served_model_name;  ///< empty: the directory's name
  std::string chat_template;
  std::string host = "127.0.0.1";
  int port = 8000;
  std::vector<std::string> api_keys;  ///< none: nobody is asked for one
  int64_t max_connections = 1024;
  int64_t max_body_bytes = 0;
  std::string state_directory;    ///< for files and batches; empty: there are none
  int64_t max_file_bytes = 0;
  double shutdown_grace_s = 30;   ///< for answers under way, once a signal has come
  int64_t max_model_len = 0;      ///< tokens of a sequence; 0: as the model has it, within bounds
  int64_t max_num_seqs = 256;     ///< that are planned for
  int64_t max_queue = 4096;       ///< sequences that wait
  int64_t prompt_len = 0, gen_len = 0;  ///< that are planned with; 0: from max_model_len
  EngineFlags engine;
};

struct InspectOptions {
  std::string model;
  bool json = false;
  std::string json_file;
  ModelFlags model_flags = {};
};

struct BenchOptions {
  std::string model;                 ///< a directory, a config.json, or the name of a shape
  std::string load_format = "auto";  ///< "auto", "dummy", "checkpoint"
  std::string dtype = "bf16";        ///< of dummy weights
  std::string dummy_directory;       ///< empty: in the user's cache directory
  std::pair<int64_t, int64_t> prompt_len{512, 512}, gen_len{32, 32};
  int64_t num_prompts = 128;
  int64_t shared_prefix = 0, prefix_groups = 1;  ///< first tokens that all prompts of a group have; groups of prompts in a row
  uint64_t seed = 0;
  bool json = false;
  std::string json_file;
  std::optional<double> expert_skew;  ///< of a mixture with dummy weights; nothing: its routers choose
  bool no_efficiency = false;        ///< the machine's peaks are not measured, and the run not compared with them
  bool simulate = false;             ///< the same job on simulated lanes of the profile too
  PeerFlags peers;                   ///< the same job by other programs too
  TeamFlags team;
  EngineFlags engine;
};

/// Exactly one of perplexity_file and task_file is given.
struct EvalOptions {
  std::string model;
  std::string perplexity_file;
  int64_t window = 0, stride = 0;  ///< tokens; 0: the model's positions up to 1024, half a window
  int64_t text_tokens = 0;         ///< of the text, the first so many; 0: all
  std::string task_file, prompt_field = "prompt", answer_field = "answer";
  int64_t max_tokens = 64;
  std::vector<std::string> stop;
  int64_t limit = 0;               ///< lines; 0: all
  bool json = false;
  std::string json_file;
  EngineFlags engine;
  bool no_special_tokens = false;  ///< the tokenizer puts none before a text
};

struct MergeOptions {
  std::string input, output, error_output;
  std::vector<std::string> parts;  ///< empty: those beside the output
  bool json = false;
  std::string json_file;
};

struct MapOptions {
  std::string model, input, output;
  std::string template_file, prompt_template;  ///< one of them
  std::string output_column = "answer";
  bool keeps_answer = false;    ///< with a schema: the whole answer too, in output_column
  std::string examples;         ///< a table; empty: none
  int64_t shots = 0;
  bool balanced = false;
  uint64_t seed = 0;            ///< of the choice of examples and of what is drawn
  std::vector<std::string> choices;  ///< empty: answers are generated
  std::string json_schema;
  std::string answer_column;    ///< what is right; empty: not known
  std::string positive_label;
  std::string truncate = "refuse";  ///< or "left", "right"
  bool chat = false;
  std::string system, chat_template;
  int64_t dry_run = 0;          ///< show so many prompts, and no more
  std::string sampling_json;    ///< max_tokens and its like, as the body of a batch line has them
  bool overwrite = false, fail_on_bad_lines = false;
  int64_t expected_tokens = 0;
  EngineFlags engine;
  bool json = false;
  std::string json_file;
};

struct DoctorOptions {
  std::string disk_directory = ".";
  bool json = false;
  std::string json_file;
  bool measure = false;       ///< the whole HardwareProfile, kept for the planner
  bool disk_only = false;     ///< of the profile the disk alone, the rest as it is kept
  std::string model;          ///< whose files the disk reads are measured on; empty: a file written for it
  ModelFlags model_flags = {};
  int threads = 0;
};

struct PlanOptions {
  std::string model;              ///< a directory, a config.json, or the name of a shape
  std::string dtype = "bf16";     ///< of a shape's weights
  std::string input;              ///< a batch file; empty: the lengths below
  bool skip_tokenizer = false;    ///< as for run-batch
  std::string chat_template;
  std::pair<int64_t, int64_t> prompt_len{512, 512}, gen_len{32, 32};
  int64_t num_prompts = 128;
  int64_t expected_tokens = 0;    ///< of an answer, on average; 0: all of its max_tokens
  uint64_t seed = 0;
  bool json = false;
  std::string json_file;
  std::optional<double> expert_skew;  ///< of a mixture; nothing: experts are taken to be chosen alike, or as they were counted
  std::string plot_file;          ///< HTML, or SVG if it is called so; empty: none
  EngineFlags engine;
};

using Command = std::variant<PlanOptions, RunBatchOptions, MapOptions, GenerateOptions, ChatOptions, ServeOptions, InspectOptions, BenchOptions, EvalOptions, MergeOptions, DoctorOptions>;

/// The command line was answered by a text (help, version: exit_code 0) or is wrong (kExitUsage).
struct CommandText {
  int exit_code = 0;
  std::string text;
};

/// `arguments` without the program's name. `environment`: "NAME=value"; FLEXGEN_CPU_MEMORY stands in for --cpu-memory, and so on. A --config file comes after both.
/// `general`: filled if given.
std::variant<Command, CommandText> parse_command_line(const std::vector<std::string>& arguments, const std::vector<std::string>& environment = {}, GeneralFlags* general = nullptr);

/// "bf16,int4" -> bf16, int4.
std::vector<std::string> split_list(const std::string& text);

/// Flags as the engine takes them: budgets that were left out are set from what is free. Throws Error{user} for a
/// directory that is none.
EngineOptions engine_options(const EngineFlags& flags, const std::string& model_directory);

}  // namespace flexgen
