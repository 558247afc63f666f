#pragma once
// The definition of each command: its flags, as CLI11 parses them. For cli/command_line.cc and the files that define commands alone, as CLI11 is a heavy header.

#include <CLI/CLI.hpp>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "cli/named_files.h"
#include "cli/options.h"

namespace flexgen {

/// One command. Parse with `app`, then finish().
class CommandDefinition {
 public:
  CommandDefinition(std::string name, std::string description);
  virtual ~CommandDefinition() = default;
  /// The options that were parsed, checked against each other; Error{user} if they do not go together.
  virtual Command finish() = 0;

  /// All files that the words name, once these were parsed: for check_named_files().
  NamedFiles named_files() const;

  CLI::App app;
  GeneralFlags general;
  std::map<const CLI::Option*, std::vector<std::string>> choices;  ///< of flags that take one of some names
  std::set<const CLI::Option*> advanced;                           ///< flags that --help leaves to --help-all
  std::map<const CLI::Option*, FileUse> file_uses;                 ///< of flags that name files
  std::set<std::string> stand_ins;                                 ///< flags that the environment or a file gave, by their first long name

  /// Flags that are added from now on belong to this part of --help.
  void begin_group(std::string name, bool is_advanced = false);
  /// The flags that all commands have; --help shows them last.
  void add_general_flags();

  /// Texts and names are UTF-8; names of files may be anything.
  CLI::Option* text(const std::string& names, std::string& value, const std::string& description, const std::string& type);
  CLI::Option* texts(const std::string& names, std::vector<std::string>& values, const std::string& description, const std::string& type);
  /// Whole numbers, from 0 on.
  template <typename T>
  CLI::Option* wholes(const std::string& names, std::vector<T>& values, uint64_t low, uint64_t high, const std::string& description, const std::string& type) {
    return one_at_a_time(added(app.add_option(names, values, description), type))->check(whole_number(low, high));
  }
  /// The same, and some of `among`; of one word several, with commas between.
  CLI::Option* whole_lists(const std::string& names, std::vector<int64_t>& values, uint64_t low, uint64_t high, const std::string& description,
                           const std::string& type);
  CLI::Option* choice_lists(const std::string& names, std::vector<std::string>& values, const std::vector<std::string>& among, const std::string& description);
  /// The same for names of files: flags that name one are defined by these. A word behind a bar in the type ("FILE|auto") is a value that names none.
  CLI::Option* file(FileUse use, const std::string& names, std::string& value, const std::string& description, const std::string& type);
  CLI::Option* files(FileUse use, const std::string& names, std::vector<std::string>& values, const std::string& description, const std::string& type);
  CLI::Option* flag(const std::string& names, bool& value, const std::string& description);
  CLI::Option* real(const std::string& names, double& value, double low, double high, const std::string& description, const std::string& type = "X");
  CLI::Option* choice(const std::string& names, std::string& value, std::vector<std::string> among, const std::string& description,
                      const std::string& type = "NAME");
  /// One or several of `among`, with commas between, none twice.
  CLI::Option* choice_list(const std::string& names, std::string& value, std::vector<std::string> among, const std::string& description);
  template <typename T>
  CLI::Option* whole(const std::string& names, T& value, uint64_t low, const std::string& description, const std::string& type = "N") {
    return whole_within(names, value, low, std::numeric_limits<T>::max(), description, type);
  }
  template <typename T>
  CLI::Option* whole_within(const std::string& names, T& value, uint64_t low, uint64_t high, const std::string& description, const std::string& type = "N") {
    return added(app.add_option(names, value, description), type)->check(whole_number(low, high));
  }
  /// --json[=FILE]: `on` if it is given, `file` empty for stdout.
  void json(bool& on, std::string& file, const std::string& what);

 protected:
  /// Whether a flag was given, on the command line or in its stead.
  bool given(const char* flag) const { return app.get_option(flag)->count() > 0; }
  /// On the command line alone: what comes from elsewhere may be meant for other commands.
  bool typed(const char* flag) const { return given(flag) && !stand_ins.contains(flag); }
  /// Files whose names are made of those that flags name.
  virtual std::vector<NamedFile> files_beside() const { return {}; }

 private:
  static CLI::Validator whole_number(uint64_t low, uint64_t high);
  CLI::Option* added(CLI::Option* option, const std::string& type);
  /// `take` gets the parts of all words, which passed `check`. (CLI11's own delimiter() leaves out parts that are empty.)
  CLI::Option* lists(const std::string& names, std::function<void(std::vector<std::string>)> take, const CLI::Validator& check, const std::string& description,
                     const std::string& type);
  /// It may be given several times, with a value each.
  static CLI::Option* one_at_a_time(CLI::Option* option);

  std::string group_ = "Flags", json_value_;
  bool group_is_advanced_ = false;
};

// What several commands say of their flags.
inline constexpr const char* kModelHelp =
    "checkpoint directory as Hugging Face lays it out, a GGUF file, or the id of a model in the Hub's local cache; nothing is downloaded";
inline constexpr const char* kChatTemplate = "write conversations out by this Jinja template (default: the model's own)";
inline constexpr const char* kChatTemplateKwargs =
    "what the chat template is given beside the conversation, as a JSON object, like {\"enable_thinking\": false}";
inline constexpr int64_t kManyTokens = int64_t{1} << 31;
/// --model of a command that needs a checkpoint, and what stands beside it.
void add_model(CommandDefinition& command, std::string* model, ModelFlags* flags);
/// Beside --model.
void add_model_flags(CommandDefinition& command, ModelFlags* flags);

/// The bytes that a flag's text like "6GiB" means. Throws Error{user} naming the flag.
int64_t size_of(const std::string& text, const char* flag);

/// Flags as written, until they are checked together.
struct RawEngineFlags {
  EngineFlags flags;
  std::string cpu_memory, gpu_memory, disk_space, disk_bandwidth, weights, kv_cache, activations, attention_on, load_experts;
  int64_t micro_batch_size = 0, num_micro_batches = 0, max_rows = 0;
  int buffers = 0, weight_buffers = 0;
};
void add_engine_flags(CommandDefinition& command, RawEngineFlags* raw);
/// `command`: that they were parsed with.
EngineFlags checked_engine_flags(const RawEngineFlags& raw, const CLI::App& command);

/// Of one answer at a time, from --max-tokens to --stop-token-id.
void add_sampling_flags(CommandDefinition& command, SamplingParams* params);
/// Throws Error{user}.
void refuse_empty_stops(const std::vector<std::string>& stops);

std::unique_ptr<CommandDefinition> define_chat();
std::unique_ptr<CommandDefinition> define_serve();

std::vector<std::unique_ptr<CommandDefinition>> define_commands();

}  // namespace flexgen
