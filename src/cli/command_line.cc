// parse_command_line: from words, environment and file to options, or to what is to be said instead.

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <optional>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"
#include "base/nearest.h"
#include "cli/command_definitions.h"
#include "cli/command_spec.h"
#include "cli/config_file.h"
#include "cli/named_files.h"

namespace flexgen {
namespace {

using Definitions = std::vector<std::unique_ptr<CommandDefinition>>;
constexpr const char* kVariablePrefix = "FLEXGEN_";
/// Variables that are no flags: of flexgen, and of its tests.
const std::vector<std::string> kOtherVariables{"FLEXGEN_CACHE_DIR", "FLEXGEN_TOKENIZER_DIR", "FLEXGEN_TOKENIZER_CASES", "FLEXGEN_SHOW_ERRORS"};
constexpr const char* kDescription = "Runs language models that are larger than the memory: batches of prompts, as fast as the disk allows.";

/// Flags of other programs, and what they are here.
struct ForeignFlag {
  const char *name, *here;
};
constexpr ForeignFlag kForeignFlags[] = {
    {"--percent", "FlexGen's six percentages are --weights, --kv-cache and --activations, each G:C:D"},
    {"--gpu-batch-size", "called --micro-batch-size here"},
    {"--num-gpu-batches", "called --num-micro-batches here"},
    {"--offload-dir", "called --disk-dir here"},
    {"--path", "--model takes the checkpoint's folder itself"},
    {"--attn-sparsity", "called --attention-sparsity here"},
    {"--sep-layer", "decided by flexgen; leave it out"},
    {"--pin-weight", "decided by flexgen; leave it out"},
    {"--overlap", "--buffers 1 is without overlap; leave it out for the best"},
    {"--compress-weight", "--weight-dtype int4"},
    {"--compress-cache", "--kv-cache-dtype int4"},
    {"--cpu-cache-compute", "--attention-on cpu"},
    {"--tensor-parallel-size", "layers are not split between processes; several share the layers under mpirun (--pipeline-stages)"},
    {"--pipeline-parallel-size", "called --pipeline-stages here, under mpirun"},
    {"--gpu-memory-utilization", "--gpu-memory takes a size, like 14GiB"},
    {"--max-model-len", "prompts and answers may be as long as the model's positions"},
    {"--max-num-seqs", "--micro-batch-size and --num-micro-batches say how many sequences are in flight"},
    {"--max-num-batched-tokens", "--max-rows limits the tokens of one micro-batch in one step"},
    {"--quantization", "--weight-dtype and --kv-cache-dtype take int8 and int4"},
    {"--n-gpu-layers", "--weights G:C:D says which share of the weights is on the GPU"},
    {"-ngl", "--weights G:C:D says which share of the weights is on the GPU"},
    {"--n-predict", "called --max-tokens here"},
    {"--num-predict", "called --max-tokens here"},
    {"--max-new-tokens", "called --max-tokens here"},
    {"--ctx-size", "prompts and answers may be as long as the model's positions"},
    {"--file", "flexgen generate --model DIR - <FILE reads the prompt from a file"},
    {"--batch-size", "--micro-batch-size and --num-micro-batches say how many sequences are in flight"},
    {"--device", "--backend cuda computes on the GPU"},
    {"--dtype", "--compute-dtype chooses the arithmetic, --weight-dtype the type of the weights"},
    {"--cpu-offload-gb", "--cpu-memory says how much RAM may be used"},
    {"--swap-space", "--disk-dir and --disk-space say where the KV cache may spill"},
    {"--tokenizer", "the tokenizer is that of the checkpoint's folder"},
    {"--trust-remote-code", "no code of a checkpoint is ever run; leave it out"},
    {"--enforce-eager", "there are no graphs to be captured; leave it out"},
    {"--download-dir", "nothing is downloaded; --model takes a folder"},
};

std::string first_long_name(const CLI::Option& option) { return option.get_lnames().empty() ? "" : "--" + option.get_lnames().front(); }

/// --cpu-memory -> FLEXGEN_CPU_MEMORY.
std::string variable_of(const CLI::Option& option) {
  if (option.get_lnames().empty()) return "";
  std::string name = kVariablePrefix;
  for (char c : option.get_lnames().front()) name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

/// "--cpu_memory=1" -> "--cpu-memory=1"; words that are no flags stay.
std::string dashed(std::string word) {
  if (word.starts_with("--")) std::replace(word.begin() + 2, word.begin() + static_cast<std::ptrdiff_t>(std::min(word.find('='), word.size())), '_', '-');
  return word;
}

bool is_flag(const CLI::Option& option) { return option.get_items_expected_max() == 0; }

CommandSpec spec_of(const CommandDefinition& definition) {
  CommandSpec command{definition.app.get_name(), definition.app.get_description(), {}};
  for (const CLI::Option* option : definition.app.get_options()) {
    FlagSpec flag;
    for (const std::string& name : option->get_snames()) flag.names.push_back("-" + name);
    for (const std::string& name : option->get_lnames()) flag.names.push_back("--" + name);
    if (option->get_positional()) flag.positional = option->get_name(true);
    if (!is_flag(*option) || option->get_name() == "--json") flag.type = option->get_type_name();
    flag.description = option->get_description();
    flag.default_value = option->get_default_str();
    flag.group = option->get_group();
    if (auto found = definition.choices.find(option); found != definition.choices.end()) flag.choices = found->second;
    flag.variable = variable_of(*option);
    flag.required = option->get_required();
    flag.repeatable = option->get_multi_option_policy() == CLI::MultiOptionPolicy::TakeAll || (flag.names.empty() && option->get_items_expected_max() > 1);
    flag.advanced = definition.advanced.contains(option);
    command.flags.push_back(std::move(flag));
  }
  command.flags.push_back({{"-h", "--help"}, "", "", "say what the command does", "", "General", {}, "", false, false, false});
  command.flags.push_back({{"--help-all"}, "", "", "with all of its flags", "", "General", {}, "", false, false, false});
  return command;
}

ProgramSpec spec_of(const Definitions& definitions) {
  ProgramSpec program{kDescription, {}};
  for (const auto& definition : definitions) program.commands.push_back(spec_of(*definition));
  return program;
}

std::vector<std::string> names_of(const Definitions& definitions) {
  std::vector<std::string> names;
  for (const auto& definition : definitions) names.push_back(definition->app.get_name());
  return names;
}

/// All spellings of its flags.
std::vector<std::string> flags_of(const CLI::App& app) {
  std::vector<std::string> flags{"--help", "--help-all"};
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
    for (const std::string& name : option->get_snames()) flags.push_back("-" + name);
  }
  return flags;
}

CommandDefinition& find_command(const Definitions& definitions, const std::string& name) {
  for (const auto& definition : definitions)
    if (definition->app.get_name() == name) return *definition;
  if (name == "version") fail_user("there is no command 'version'; flexgen --version says it");
  std::vector<std::string> names = names_of(definitions);
  names.insert(names.end(), {"help", "completion"});
  fail_user("there is no command '{}'{}\nUsage: flexgen COMMAND [FLAGS]; flexgen --help lists the commands.", name, did_you_mean(name, names));
}

/// help, completion and man-page: words that are answered by a text.
std::optional<std::string> text_for(const Definitions& definitions, const std::vector<std::string>& words) {
  auto one_more = [&](const char* what) {
    if (words.size() != 2) fail_user("{}: give {}", words[0], what);
    return words[1];
  };
  if (words[0] == "completion") return completion_script(spec_of(definitions), one_more("bash, zsh or fish"));
  if (words[0] == "man-page")
    return words.size() < 2 ? program_man_page(spec_of(definitions), kVersion)
                            : command_man_page(spec_of(find_command(definitions, one_more("one command"))), kVersion);
  if (words[0] != "help") return std::nullopt;
  // What these two do is said there.
  return words.size() < 2 || (words.size() == 2 && (words[1] == "help" || words[1] == "completion"))
             ? program_help(spec_of(definitions), false)
             : command_help(spec_of(find_command(definitions, one_more("one command"))), false);
}

/// A value for a flag that was not typed, and where it comes from.
struct StandIn {
  CLI::Option* option;
  std::vector<std::string> values;
  std::string origin;  ///< "FLEXGEN_THREADS", "job.toml: threads"
};

std::vector<StandIn> from_environment(const Definitions& definitions, CommandDefinition& command, const std::vector<std::string>& environment,
                                      std::vector<std::string>* warnings) {
  std::vector<std::string> known = kOtherVariables;
  for (const auto& definition : definitions)
    for (const CLI::Option* option : definition->app.get_options())
      if (const std::string name = variable_of(*option); !name.empty()) known.push_back(name);
  std::vector<StandIn> found;
  for (const std::string& entry : environment) {
    const size_t end = std::min(entry.find('='), entry.size());
    const std::string name = entry.substr(0, end), value = entry.substr(std::min(end + 1, entry.size()));
    if (!name.starts_with(kVariablePrefix)) continue;
    if (std::find(known.begin(), known.end(), name) == known.end())
      warnings->push_back(fmt::format("the environment variable {} is none that flexgen knows{}", name, did_you_mean(name, known)));
    if (value.empty()) continue;
    for (CLI::Option* option : command.app.get_options())
      if (variable_of(*option) == name) found.push_back({option, {value}, name});
  }
  return found;
}

/// The commands that have this flag.
std::vector<std::string> commands_with(const std::string& flag, const Definitions& definitions) {
  std::vector<std::string> names;
  for (const auto& definition : definitions)
    if (const std::vector<std::string> flags = flags_of(definition->app); std::find(flags.begin(), flags.end(), flag) != flags.end())
      names.push_back(definition->app.get_name());
  return names;
}

std::vector<StandIn> from_file(const Definitions& definitions, CommandDefinition& command, const std::string& path) {
  std::error_code unseen;  // is told where it is read
  if (std::filesystem::is_directory(path, unseen)) fail_user("--config {}: this is a folder", path);
  std::vector<StandIn> own, common;  // what is for this command alone comes first
  const std::string& name = command.app.get_name();
  for (const ConfigEntry& entry : read_config_file(path)) {
    const std::string where = fmt::format("--config {}: line {}", path, entry.line);
    const auto meant = std::find_if(definitions.begin(), definitions.end(),
                                    [&](const auto& other) { return other->app.get_name() == (entry.command.empty() ? name : entry.command); });
    if (meant == definitions.end()) fail_user("{}: there is no command '{}'{}", where, entry.command, did_you_mean(entry.command, names_of(definitions)));
    const std::string flag = dashed("--" + entry.key);
    CLI::Option* option = (*meant)->app.get_option_no_throw(flag);
    if (flag == "--config" || flag == "--help" || flag == "--help-all" || flag == "--version")
      fail_user("{}: '{}' is for the command line alone", where, entry.key);
    if (!option) {
      const std::vector<std::string> others = commands_with(flag, definitions);
      fail_user("{}: '{}' is no flag of {}{}", where, entry.key, (*meant)->app.get_name(),
                others.empty() ? did_you_mean(flag, flags_of((*meant)->app))
                               : fmt::format(", but of {}; put it below [{}]", fmt::join(others, ", "), others.front()));
    }
    if (meant->get() != &command) continue;
    std::vector<StandIn>& part = entry.command.empty() ? common : own;
    for (const StandIn& other : part)
      if (other.option == option) fail_user("{}: {} is there twice", where, first_long_name(*option));
    part.push_back({option, entry.values, fmt::format("{}: {}", path, entry.key)});
  }
  own.insert(own.end(), common.begin(), common.end());
  return own;
}

/// "yes" and the like, "no" and the like, or neither.
std::optional<bool> truth_of(const std::string& text) {
  std::string word = text;
  std::transform(word.begin(), word.end(), word.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  for (const char* yes : {"true", "1", "yes", "on"})
    if (word == yes) return true;
  for (const char* no : {"false", "0", "no", "off"})
    if (word == no) return false;
  return std::nullopt;
}

/// Whether the word after this one is its value.
bool takes_next_word(const std::string& word, const CLI::App& app) {
  if (word.size() < 2 || word[0] != '-' || word.find('=') != std::string::npos) return false;
  const CLI::Option* option = app.get_option_no_throw(dashed(word));
  return option && !is_flag(*option);
}

/// Throws Error{user} for a flag with a value that is typed twice where one value counts: of two, one would be ignored.
void refuse_twice(const std::vector<std::string>& words, const CLI::App& app) {
  std::set<const CLI::Option*> seen;
  const std::vector<const CLI::Option*> options = app.get_options();
  const auto by_place =
      std::find_if(options.begin(), options.end(), [](const CLI::Option* option) { return option->get_positional() && !option->get_lnames().empty(); });
  for (size_t i = 0; i < words.size() && words[i] != "--"; ++i) {
    const std::string& word = words[i];
    if (word.size() < 2 || word[0] != '-') {
      if (by_place != options.end()) seen.insert(*by_place);
      continue;
    }
    const CLI::Option* option = app.get_option_no_throw(word.starts_with("--") ? word.substr(0, word.find('=')) : word.substr(0, 2));
    if (takes_next_word(word, app)) ++i;
    const bool has_value = option && (!is_flag(*option) || option->get_name() == "--json");
    if (has_value && option->get_multi_option_policy() != CLI::MultiOptionPolicy::TakeAll && !seen.insert(option).second)
      fail_user("{} is given twice; give it once", first_long_name(*option));
  }
}

/// Whether `words` give `option` by one of its names, or by its place.
bool gives_option(const std::vector<std::string>& words, const CLI::Option& option, const CLI::App& app) {
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i] == "--") return option.get_positional() && i + 1 < words.size();
    const std::string name = words[i].substr(0, std::min(words[i].find('='), words[i].size()));
    if (name.size() < 2 || name[0] != '-') {
      if (option.get_positional()) return true;
      continue;
    }
    if (name.starts_with("--") ? option.check_lname(name.substr(2)) : option.check_sname(name.substr(1, 1))) return true;
    if (takes_next_word(words[i], app)) ++i;
  }
  return false;
}

/// The words that `stand_ins` come to, to be put before those that were typed.
std::vector<std::string> words_of(const std::vector<StandIn>& stand_ins, const std::vector<std::string>& typed, CommandDefinition& command) {
  std::vector<std::string> words;
  auto is_typed = [&](const CLI::Option* option) { return gives_option(typed, *option, command.app); };
  for (const StandIn& stand_in : stand_ins) {
    CLI::Option& option = *stand_in.option;
    const std::string name = first_long_name(option);
    const std::set<CLI::Option*> excluded = option.get_excludes();
    // What is typed also comes before that which does not go with it.
    if (is_typed(&option) || std::any_of(excluded.begin(), excluded.end(), is_typed) || command.stand_ins.contains(name)) continue;
    const bool takes_several = option.get_multi_option_policy() == CLI::MultiOptionPolicy::TakeAll;
    if (stand_in.values.size() != 1 && !takes_several) fail_user("{}: {} takes one value", stand_in.origin, name);
    if (name == "--json") {
      const std::optional<bool> truth = truth_of(stand_in.values.front());
      if (truth == false) continue;
      words.push_back(truth ? name : name + "=" + stand_in.values.front());
    } else if (is_flag(option)) {
      const std::optional<bool> truth = truth_of(stand_in.values.front());
      if (!truth) fail_user("{}: '{}' is neither true nor false", stand_in.origin, stand_in.values.front());
      if (!*truth) continue;
      words.push_back(name);
    } else {
      for (const std::string& value : stand_in.values) words.insert(words.end(), {name, value});
    }
    command.stand_ins.insert(name);
    command.general.notes.push_back(
        fmt::format("{} {} (from {})", name, name == "--api-key" ? "(not shown)" : fmt::format("{}", fmt::join(stand_in.values, " ")), stand_in.origin));
  }
  return words;
}

/// The words of a command as CLI11 takes them: --cpu_memory is --cpu-memory, --json FILE is --json=FILE where nothing else can follow, --flag= is refused.
std::vector<std::string> plain_words(const std::vector<std::string>& words, const CLI::App& app) {
  const std::vector<std::string> flags = flags_of(app);
  const std::vector<const CLI::Option*> options = app.get_options();
  const bool has_places = std::any_of(options.begin(), options.end(), [](const CLI::Option* option) { return option->get_positional(); });
  std::vector<std::string> plain;
  for (size_t i = 0; i < words.size(); ++i) {
    std::string word = words[i];
    if (word == "--") return plain.insert(plain.end(), words.begin() + static_cast<std::ptrdiff_t>(i), words.end()), plain;
    const size_t end = std::min(word.find('='), word.size());
    if (word.starts_with("--")) {
      const std::string name = dashed(word.substr(0, end));
      const bool known = std::find(flags.begin(), flags.end(), name) != flags.end();
      if (known) word = name + word.substr(end);
      if (known && end + 1 == word.size()) fail_user("{} has no value after the '='", name);
    }
    if (word == "--json" && !has_places && i + 1 < words.size() && !words[i + 1].starts_with('-')) word += "=" + words[++i];
    plain.push_back(word);
  }
  return plain;
}

/// Words that were not understood. CLI11 counts the "--" that ends the flags among them.
std::vector<std::string> unknown_words(const CLI::App& app) {
  std::vector<std::string> words = app.remaining();
  if (const auto mark = std::find(words.begin(), words.end(), "--"); mark != words.end()) words.erase(mark);
  return words;
}

/// What is wrong with words that were not understood.
std::string unknown_text(const Definitions& definitions, const CommandDefinition& command, const std::vector<std::string>& words,
                         const std::vector<std::string>& typed) {
  auto after_json = [&](const std::string& word) {
    const auto json = std::find(typed.begin(), typed.end(), "--json");
    return json != typed.end() && json + 1 != typed.end() && json[1] == word;
  };
  const std::string& name = command.app.get_name();
  std::string text = fmt::format("{}: unknown argument{}: {}", name, words.size() > 1 ? "s" : "", fmt::join(words, " "));
  const auto mark = std::find(typed.begin(), typed.end(), "--");
  if (mark != typed.end() && std::all_of(words.begin(), words.end(), [&](const std::string& word) { return std::find(typed.begin(), mark, word) == mark; }))
    return text + fmt::format("\n  behind -- each word is a value, and there is no place for {}; put a text of several words in quotes",
                              words.size() > 1 ? "these" : "this one");
  for (const std::string& word : words) {
    if (!word.starts_with('-')) {
      if (after_json(word)) text += fmt::format("\n  --json takes a file as --json={}", word);
      continue;
    }
    const std::string flag = word.substr(0, std::min(word.find('='), word.size()));
    const auto foreign = std::find_if(std::begin(kForeignFlags), std::end(kForeignFlags), [&](const ForeignFlag& other) { return flag == other.name; });
    if (foreign != std::end(kForeignFlags)) {
      text += fmt::format("\n  {}: {}", flag, foreign->here);
    } else if (const std::string near = nearest_name(flag, flags_of(command.app)); !near.empty()) {
      text += fmt::format("\n  {}: did you mean {}?", flag, near);
    } else {
      const std::vector<std::string> others = commands_with(flag, definitions);
      if (others.empty()) continue;
      text += fmt::format("\n  {}: a flag of {}, not of {}", flag, fmt::join(others, ", "), name);
      if (name == "run-batch" && others.front() == "generate") text += "; each line of the batch says it in its body";
    }
  }
  return text;
}

/// CLI11's message in our words.
std::string parse_error_text(const CLI::ParseError& error) {
  const std::string text = error.what();
  const std::string name = text.substr(0, std::min({text.find(':'), text.find(' '), text.size()}));
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error)) return name + " needs a value";
  if (dynamic_cast<const CLI::ConversionError*>(&error))
    return text.find("--") == std::string::npos
               ? text
               : fmt::format("{}: this value cannot be read", text.substr(text.find("--"), text.find_first_of(" =", text.find("--")) - text.find("--")));
  for (const auto& [theirs, ours] : {std::pair<std::string, std::string>{" requires ", " goes with "}, {" excludes ", " cannot be combined with "}})
    if (const size_t at = text.find(theirs); at != std::string::npos) return text.substr(0, at) + ours + text.substr(at + theirs.size());
  return text;
}

Command parse_command(const Definitions& definitions, CommandDefinition& command, const std::vector<std::string>& typed,
                      const std::vector<std::string>& environment, GeneralFlags* general) {
  std::vector<std::string> words = plain_words(typed, command.app);
  refuse_twice(words, command.app);
  std::vector<StandIn> stand_ins = from_environment(definitions, command, environment, &command.general.warnings);
  std::string config;
  for (const StandIn& stand_in : stand_ins)
    if (first_long_name(*stand_in.option) == "--config") config = stand_in.values.front();
  for (size_t i = 0; i < words.size() && words[i] != "--"; ++i) {
    if (words[i] == "--config" && i + 1 < words.size()) config = words[i + 1];
    if (words[i].starts_with("--config=")) config = words[i].substr(std::string("--config=").size());
  }
  if (!config.empty())
    for (StandIn& stand_in : from_file(definitions, command, config)) stand_ins.push_back(std::move(stand_in));
  const std::vector<std::string> before = words_of(stand_ins, words, command);
  words.insert(words.begin(), before.begin(), before.end());
  std::reverse(words.begin(), words.end());
  auto with_origin = [&](const std::string& message) {
    for (const StandIn& stand_in : stand_ins)
      if (const std::string name = first_long_name(*stand_in.option);
          command.stand_ins.contains(name) && (message.starts_with(name + ":") || message.starts_with(name + " ")))
        return fmt::format("{} (from {})", message, stand_in.origin);
    return message;
  };
  auto refuse_unknown = [&] {
    if (const std::vector<std::string> unknown = unknown_words(command.app); !unknown.empty())
      fail_user("{}", unknown_text(definitions, command, unknown, typed));
  };
  try {
    command.app.parse(words);
    refuse_unknown();
    const Command options = command.finish();
    check_named_files(command.named_files());
    if (general) *general = command.general;
    return options;
  } catch (const CLI::ParseError& error) {
    refuse_unknown();
    fail_user("{}", with_origin(parse_error_text(error)));
  } catch (const Error& error) {
    throw Error(error.kind(), with_origin(error.what()));
  }
}

/// Flags alone: names the one that no command has, which may be a typo of --version.
[[noreturn]] void refuse_without_command(const Definitions& definitions, const std::vector<std::string>& arguments) {
  std::vector<std::string> known{"-V", "--version", "-h"};
  for (const auto& definition : definitions)
    for (std::string& flag : flags_of(definition->app)) known.push_back(std::move(flag));
  for (const std::string& word : arguments) {
    if (!word.starts_with('-') || word == "--") continue;
    const std::string flag = dashed(word.substr(0, word.find('=')));
    if (std::find(known.begin(), known.end(), flag) == known.end())
      fail_user("unknown argument: {}{}", word, did_you_mean(flag, {"--version", "--help", "--help-all"}));
  }
  fail_user("say a command");
}

}  // namespace

std::variant<Command, CommandText> parse_command_line(const std::vector<std::string>& arguments, const std::vector<std::string>& environment,
                                                      GeneralFlags* general) {
  const Definitions definitions = define_commands();
  // Flags before the command are as good as after it.
  size_t at = 0;
  for (; at < arguments.size() && arguments[at].starts_with('-') && arguments[at].size() > 1; ++at) {
    const std::string& word = arguments[at];
    if (word == "-h" || word == "--help") return CommandText{kExitDone, program_help(spec_of(definitions), false)};
    if (word == "--help-all") return CommandText{kExitDone, program_help(spec_of(definitions), true)};
    if (word == "-V" || word == "--version") return CommandText{kExitDone, std::string("flexgen ") + kVersion + "\n"};
    if (std::any_of(definitions.begin(), definitions.end(), [&](const auto& command) { return takes_next_word(word, command->app); })) ++at;
  }
  if (arguments.empty()) return CommandText{kExitUsage, program_help(spec_of(definitions), false)};
  std::string help = "flexgen --help lists the commands.";
  try {
    if (at >= arguments.size()) refuse_without_command(definitions, arguments);
    if (const auto text = text_for(definitions, {arguments.begin() + static_cast<std::ptrdiff_t>(at), arguments.end()})) return CommandText{kExitDone, *text};
    help.clear();
    CommandDefinition& command = find_command(definitions, arguments[at]);
    std::vector<std::string> words(arguments.begin(), arguments.begin() + static_cast<std::ptrdiff_t>(at));
    words.insert(words.end(), arguments.begin() + static_cast<std::ptrdiff_t>(at) + 1, arguments.end());
    for (const std::string& word : words) {
      if (word == "--") break;
      if (word == "-h" || word == "--help" || word == "--help-all") return CommandText{kExitDone, command_help(spec_of(command), word == "--help-all")};
      if (word == "-V" || word == "--version") return CommandText{kExitDone, std::string("flexgen ") + kVersion + "\n"};
    }
    help = fmt::format("flexgen {} --help lists its flags, --help-all all of them.", arguments[at]);
    return parse_command(definitions, command, words, environment, general);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUser) return CommandText{kExitFailed, fmt::format("flexgen: {}\n", error.what())};  // the words may be right
    if (std::string(error.what()).ends_with("--help lists the commands.")) help.clear();
    return CommandText{kExitUsage, fmt::format("flexgen: {}\n{}{}", error.what(), help, help.empty() ? "" : "\n")};
  }
}

}  // namespace flexgen
