#pragma once
// Options: the command line as data. Every flag is honoured or refused; nothing here touches model or disk. Pure, but for
// reading a --config file in parse_command_line().

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/exit_code.h"
#include "base/version.h"
#include "batch/run_batch_options.h"
#include "cli/peers.h"
#include "generation/request.h"
#include "serve/serve_options.h"
#include "setup/engine_flags.h"
#include "setup/team.h"
#include "tables/map_options.h"

namespace flexgen {

/// The flags that all commands share.
struct GeneralFlags {
  std::string config_file;  ///< TOML; empty: none
  bool quiet = false, verbose = false;
  std::string log_level = "info";            ///< "debug", "info", "warning", "error"
  std::vector<std::string> warnings, notes;  ///< about the command line, for the log; notes: where flags come from that were not typed
};

/// What `flexgen generate` was given.
struct GenerateOptions {
  std::string model, prompt;  ///< prompt "-": from stdin
  SamplingParams params;
  EngineFlags engine;
  bool no_special_tokens = false;  ///< the tokenizer puts none before the text
  bool chat = false;               ///< the prompt is what a user says
  std::string json_schema;         ///< file of the schema that the answer follows; empty: none
  std::string system;              ///< what comes before it; empty: nothing
  std::string chat_template;
  std::string chat_template_kwargs;  ///< JSON; empty: none; so in all options
  bool stats = false;                ///< the plan and the run's figures, on stderr
  bool json = false;                 ///< the answer and the figures instead of the text alone; with a file beside it
  std::string json_file;             ///< empty: stdout; so in all options
};

/// What `flexgen chat` was given.
struct ChatOptions {
  std::string model;
  std::string system;  ///< what a conversation begins with; empty: nothing
  std::string chat_template, chat_template_kwargs;
  SamplingParams params;      ///< max_tokens: of an answer
  int64_t max_model_len = 0;  ///< tokens of the conversation; 0: as the model has it, within bounds
  EngineFlags engine;
};

/// What `flexgen inspect` was given.
struct InspectOptions {
  std::string model;
  bool json = false;
  std::string json_file;
  ModelFlags model_flags = {};
};

/// What `flexgen bench` was given.
struct BenchOptions {
  std::string model;                 ///< a directory, a config.json, or the name of a shape
  std::string load_format = "auto";  ///< "auto", "dummy", "checkpoint"
  std::string dtype;                 ///< of dummy weights; empty: bf16
  bool dtype_is_stand_in = false;    ///< it comes from a variable or a file: passed over for a checkpoint
  std::string dummy_directory;       ///< empty: in the user's cache directory
  std::pair<int64_t, int64_t> prompt_len{512, 512}, gen_len{32, 32};
  int64_t num_prompts = 128;
  std::vector<int64_t> shared_prefix, prefix_groups;  ///< as PrefixLevels takes them, as many of each; empty: prompts have nothing in common
  uint64_t seed = 0;
  bool json = false;
  std::string json_file;
  std::optional<double> expert_skew;  ///< of a mixture with dummy weights; nothing: its routers choose
  bool no_efficiency = false;         ///< the machine's peaks are not measured, and the run not compared with them
  bool simulate = false;              ///< the same job on simulated lanes of the profile too
  PeerFlags peers;                    ///< the same job by other programs too
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
  int64_t limit = 0;  ///< lines; 0: all
  bool json = false;
  std::string json_file;
  EngineFlags engine;
  bool no_special_tokens = false;  ///< the tokenizer puts none before a text
};

/// What `flexgen merge` was given.
struct MergeOptions {
  std::string input, output, error_output;
  std::vector<std::string> parts;  ///< empty: those beside the output
  bool json = false;
  std::string json_file;
};

/// What `flexgen doctor` was given.
struct DoctorOptions {
  std::string disk_directory = ".";
  bool json = false;
  std::string json_file;
  bool measure = false;    ///< the whole HardwareProfile, kept for the planner
  bool disk_only = false;  ///< of the profile the disk alone, the rest as it is kept
  std::string model;       ///< whose files the disk reads are measured on; empty: a file written for it
  ModelFlags model_flags = {};
  int threads = 0;
};

/// What `flexgen plan` was given.
struct PlanOptions {
  std::string model;               ///< a directory, a config.json, or the name of a shape
  std::string dtype;               ///< of a shape's weights; empty: bf16
  bool dtype_is_stand_in = false;  ///< it comes from a variable or a file: passed over for a checkpoint
  std::string input;               ///< a batch file; empty: the lengths below
  bool skip_tokenizer = false;     ///< as for run-batch
  std::string chat_template;
  std::pair<int64_t, int64_t> prompt_len{512, 512}, gen_len{32, 32};
  int64_t num_prompts = 128;
  int64_t expected_tokens = 0;  ///< of an answer, on average; 0: all of its max_tokens
  uint64_t seed = 0;
  bool json = false;
  std::string json_file;
  std::optional<double> expert_skew;  ///< of a mixture; nothing: experts are taken to be chosen alike, or as they were counted
  std::string plot_file;              ///< HTML, or SVG if it is called so; empty: none
  EngineFlags engine;
};

using Command = std::variant<PlanOptions, RunBatchOptions, MapOptions, GenerateOptions, ChatOptions, ServeOptions, InspectOptions, BenchOptions, EvalOptions,
                             MergeOptions, DoctorOptions>;

/// The command line was answered by a text (help, version: exit_code 0) or is wrong (kExitUsage).
struct CommandText {
  int exit_code = 0;
  std::string text;
};

/// `arguments` without the program's name. `environment`: "NAME=value"; FLEXGEN_CPU_MEMORY stands in for --cpu-memory, and so on. A --config file comes after both.
/// `general`: filled if given.
std::variant<Command, CommandText> parse_command_line(const std::vector<std::string>& arguments, const std::vector<std::string>& environment = {},
                                                      GeneralFlags* general = nullptr);

}  // namespace flexgen
