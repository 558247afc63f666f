#pragma once
// MapOptions: what map is asked for. Pure data.

#include <cstdint>
#include <string>
#include <vector>

#include "setup/engine_flags.h"

namespace flexgen {

struct MapOptions {
  std::string model, input, output;
  std::string template_file, prompt_template;  ///< one of them
  std::string output_column = "answer";
  bool keeps_answer = false;  ///< with a schema: the whole answer too, in output_column
  std::string examples;       ///< a table; empty: none
  int64_t shots = 0;
  bool balanced = false;
  uint64_t seed = 0;                 ///< of the choice of examples and of what is drawn
  std::vector<std::string> choices;  ///< empty: answers are generated
  std::string json_schema;
  std::string answer_column;  ///< what is right; empty: not known
  std::string positive_label;
  std::string truncate = "refuse";  ///< or "left", "right"
  bool chat = false;
  std::string system, chat_template, chat_template_kwargs;
  int64_t dry_run = 0;        ///< show so many prompts, and no more
  std::string sampling_json;  ///< max_tokens and its like, as the body of a batch line has them
  bool overwrite = false, fail_on_bad_lines = false;
  int64_t expected_tokens = 0;
  EngineFlags engine;
  bool json = false;
  std::string json_file;
};

}  // namespace flexgen
