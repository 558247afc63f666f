// The flags of flexgen serve.

#include "base/error.h"
#include "base/units.h"
#include "batch/batch_line.h"
#include "cli/command_definitions.h"

namespace flexgen {
namespace {

class ServeDefinition : public CommandDefinition {
 public:
  ServeDefinition() : CommandDefinition("serve", "answer calls of OpenAI's API over HTTP") {
    add_model(*this, &options_.model, &engine_.flags.model);
    text("--served-model-name", options_.served_model_name, "the name that calls and answers give the model (default: the directory's name)", "NAME");
    file(FileUse::kRead, "--chat-template", options_.chat_template, kChatTemplate, "FILE");
    begin_group("Network");
    text("--host", options_.host, "the address to listen on; 0.0.0.0: all (give an --api-key then)", "ADDRESS")->capture_default_str();
    whole_within("--port", options_.port, 0, 65535, "the port; 0: one that is free")->capture_default_str();
    texts(
        "--api-key", options_.api_keys,
        "calls must bring this key (may be given several times; others can read it in the list of processes, but not where FLEXGEN_API_KEY or --config gives it)",
        "KEY");
    whole_within("--max-connections", options_.max_connections, 1, 65536, "connections at a time; more wait")->capture_default_str();
    text("--max-body", max_body_, "of a call's body; longer ones are refused, and four times as much is held of all together: further ones wait", "SIZE")
        ->capture_default_str();
    real("--shutdown-grace", options_.shutdown_grace_s, 0.0, 86400.0, "seconds after SIGINT or SIGTERM in which answers under way may be finished", "S")
        ->capture_default_str();
    begin_group("Files and batches");
    text("--state", options_.state_directory,
         "keep files and batches there, for /v1/files and /v1/batches; batches that are not done go on at the next start (default: there are none)", "DIR");
    text("--max-file", max_file_, "of an uploaded file; longer ones are refused", "SIZE")->capture_default_str();
    begin_group("Sequences");
    whole_within("--max-model-len", options_.max_model_len, 1, kManyTokens,
                 "tokens of a sequence, prompt and answer together (default: what the model takes, up to 8192)");
    whole_within("--max-num-seqs", options_.max_num_seqs, 1, 1 << 20, "sequences in flight, as far as memory allows")->capture_default_str();
    whole_within("--max-queue", options_.max_queue, 1, 1 << 24, "sequences that may wait for a slot; calls beyond them get status 429")->capture_default_str();
    whole_within("--prompt-len", options_.prompt_len, 1, kManyTokens,
                 "tokens that a prompt has on average, for planning (default: 512, or half of --max-model-len)");
    whole_within("--gen-len", options_.gen_len, 1, kManyTokens,
                 "tokens that an answer may have on average, for planning (default: 256, or a quarter of --max-model-len)");
    add_engine_flags(*this, &engine_);
  }
  Command finish() override {
    options_.engine = checked_engine_flags(engine_, app);
    for (const std::string& key : options_.api_keys)
      if (key.empty()) fail_user("--api-key is empty");
    options_.max_body_bytes = size_of(max_body_, "--max-body");
    if (options_.max_body_bytes < 1024 || options_.max_body_bytes > kMaxLineBytes)
      fail_user("--max-body {}: give a size from 1KiB to {}", max_body_, format_bytes(kMaxLineBytes));
    options_.max_file_bytes = size_of(max_file_, "--max-file");
    if (options_.max_file_bytes < 1024) fail_user("--max-file {}: give a size from 1KiB on", max_file_);
    if (given("--max-file") && options_.state_directory.empty()) fail_user("--max-file goes with --state");
    return options_;
  }

 private:
  ServeOptions options_;
  std::string max_body_ = "8MiB", max_file_ = "1GiB";
  RawEngineFlags engine_;
};

}  // namespace

std::unique_ptr<CommandDefinition> define_serve() { return std::make_unique<ServeDefinition>(); }

}  // namespace flexgen
