// The flags of flexgen chat.

#include "base/error.h"
#include "batch/chat_source.h"
#include "cli/command_definitions.h"

namespace flexgen {
namespace {

class ChatDefinition : public CommandDefinition {
 public:
  ChatDefinition() : CommandDefinition("chat", "talk with a model: a line is what you say, the answer comes as it is made") {
    SamplingParams& params = options_.params;
    params.max_tokens = 512;
    params.temperature = 0;
    add_model(*this, &options_.model, &engine_.flags.model);
    text("--system", options_.system, "what a conversation begins with", "TEXT");
    file(FileUse::kRead, "--chat-template", options_.chat_template, kChatTemplate, "FILE");
    text("--chat-template-kwargs", options_.chat_template_kwargs, kChatTemplateKwargs, "JSON");
    whole_within("--max-model-len", options_.max_model_len, 1, kManyTokens,
                 "tokens of a conversation, all that was said and answered (default: what the model takes, up to 8192)");
    begin_group("Sampling");
    add_sampling_flags(*this, &params);
    add_engine_flags(*this, &engine_);
  }
  Command finish() override {
    options_.engine = checked_engine_flags(engine_, app);
    refuse_empty_stops(options_.params.stop);
    template_kwargs_of(options_.chat_template_kwargs);
    return options_;
  }

 private:
  ChatOptions options_;
  RawEngineFlags engine_;
};

}  // namespace

std::unique_ptr<CommandDefinition> define_chat() { return std::make_unique<ChatDefinition>(); }

}  // namespace flexgen
