#pragma once
// What the tokenizer files of a checkpoint mean together: tokenizer.json, or vocab.json and merges.txt, with
// tokenizer_config.json, special_tokens_map.json, added_tokens.json and config.json. The rule: what PyPI transformers 5 makes of
// them (AutoTokenizer of 5.24), or a refusal that names the field. Pure functions of the files.

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "text/added_tokens.h"

namespace flexgen {

/// An id that a file gives a token. transformers counts anew, in the order of adding.
struct ExpectedId {
  std::string content;
  int64_t id;
  const char* file;
};

/// A checkpoint's tokenizer as one tokenizer.json would say it, and what such a file has no place for.
struct TokenizerFiles {
  std::string source;                                               ///< the file that messages name
  nlohmann::json json;                                              ///< as in a tokenizer.json: model, normalizer, pre_tokenizer, post_processor, decoder
  std::vector<AddedToken> added;                                    ///< in the order in which they're added; the flags of the last of one content count
  bool split_special_tokens = false;                                ///< special tokens in a text are ordinary text
  bool own_template = false;                                        ///< begin_token and end_token stand for json's post_processor
  std::string begin_token, end_token;                               ///< put around every text; may be empty
  std::string eos;                                                  ///< may be empty
  std::vector<std::pair<std::string, std::string>> special_tokens;  ///< "bos_token" and its like, and how each is written
  std::optional<bool> says_begin, says_end;                         ///< add_bos_token, add_eos_token beside a tokenizer.json, where they don't count
  std::vector<ExpectedId> expected_ids;
  std::vector<std::string> warnings;
};

/// Throws Error{user} that names the file and the field for what is broken or not supported.
/// `directory`: a folder, or a GGUF.
TokenizerFiles read_tokenizer_files(const std::string& directory);

/// A tokenizer.json alone.
TokenizerFiles tokenizer_files_of(const std::string& tokenizer_json, const std::string& source);

}  // namespace flexgen
