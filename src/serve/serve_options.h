#pragma once
// ServeOptions: what serve is asked for. Pure data.

#include <cstdint>
#include <string>
#include <vector>

#include "setup/engine_flags.h"

namespace flexgen {

struct ServeOptions {
  std::string model;
  std::string served_model_name;  ///< empty: the directory's name
  std::string chat_template;
  std::string host = "127.0.0.1";
  int port = 8000;
  std::vector<std::string> api_keys;  ///< none: nobody is asked for one
  int64_t max_connections = 1024;
  int64_t max_body_bytes = 0;
  std::string state_directory;  ///< for files and batches; empty: there are none
  int64_t max_file_bytes = 0;
  double shutdown_grace_s = 30;         ///< for answers under way, once a signal has come
  int64_t max_model_len = 0;            ///< tokens of a sequence; 0: as the model has it, within bounds
  int64_t max_num_seqs = 256;           ///< that are planned for
  int64_t max_queue = 4096;             ///< sequences that wait
  int64_t prompt_len = 0, gen_len = 0;  ///< that are planned with; 0: from max_model_len
  EngineFlags engine;
};

}  // namespace flexgen
