#pragma once
// The tokenizer classes of PyPI transformers 5.24: which of them AutoTokenizer takes for a checkpoint, and what each makes of a
// vocabulary and merges. Pure functions and constants.

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace flexgen {

/// What a tokenizer's class is given from tokenizer_config.json.
struct ClassOptions {
  bool add_prefix_space = false, legacy = false;
  std::string unknown_token;
};

/// A class that makes its steps itself. What a tokenizer.json says beside vocabulary, merges and post-processor is not read.
struct TokenizerClass {
  const char* name;
  bool reads_vocab_json;  ///< can be made from vocab.json and merges.txt
  bool reads_pieces;      ///< can be made from SentencePiece's tokenizer.model
  bool prefix_space_by_default;
  bool always_own_template;                                         ///< the post-processor of a tokenizer.json isn't read either
  bool begins_by_default;                                           ///< add_bos_token where nothing says so
  std::vector<std::pair<const char*, const char*>> default_tokens;  ///< name, content; null: there is none, whatever tokenizer.json's `padding` says
  /// Sets normalizer, pre_tokenizer, decoder and the model's flags, as in a tokenizer.json.
  void (*make_steps)(nlohmann::json& tokenizer, const ClassOptions& options);
};

/// What config.json and tokenizer_config.json say about the class.
struct ClassHints {
  std::string model_type;        ///< may be empty
  std::string declared;          ///< tokenizer_class of tokenizer_config.json; may be empty
  std::string config_class;      ///< tokenizer_class of config.json; may be empty
  bool remote_code = false;      ///< auto_map names an AutoTokenizer
  bool byte_level_file = false;  ///< a tokenizer.json speaks of ByteLevel
};

/// The name of the class; "" for the plain one, which reads tokenizer.json as it is. Throws Error{user} naming `directory` where
/// only the checkpoint's own Python code could say.
std::string choose_tokenizer_class(const ClassHints& hints, const std::string& directory);

/// Null for the plain class. Throws Error{user} for a class that flexgen doesn't have.
const TokenizerClass* find_tokenizer_class(const std::string& name, const std::string& directory);

}  // namespace flexgen
