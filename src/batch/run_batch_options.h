#pragma once
// RunBatchOptions: what run-batch is asked for. Pure data.

#include <cstdint>
#include <string>

#include "setup/engine_flags.h"
#include "setup/team.h"

namespace flexgen {

struct RunBatchOptions {
  std::string model, input, output;  ///< input "-": from stdin
  bool overwrite = false;
  bool fail_on_bad_lines = false;
  bool in_order = false;     ///< records in the order of the lines at the end
  std::string error_output;  ///< error records go there at the end; empty: nowhere else
  EngineFlags engine;
  bool efficiency = false;  ///< measure the machine, and compare the run with it
  TeamFlags team;
  std::string shard;              ///< "0/4", "auto", "auto/4", or empty
  int64_t expected_tokens = 0;    ///< as in BatchFiles; 0: not given
  std::string served_model_name;  ///< what answers give as their model; empty: the directory's name
  bool skip_tokenizer = false;    ///< prompts are token ids, and answers too
  std::string chat_template;      ///< a file; empty: the model's own; so in all options
  bool json = false;              ///< a summary of the run, on stdout or in json_file
  std::string json_file;
};

}  // namespace flexgen
