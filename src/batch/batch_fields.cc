#include "batch/batch_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace flexgen {
namespace {

using Json = nlohmann::json;

/// A field that is understood where it changes nothing.
struct Field {
  bool (*changes_nothing)(const Json&);
  const char* otherwise;  ///< what is said of other values
};

bool any_text(const Json& value) { return value.is_string(); }
bool any_integer(const Json& value) { return value.is_number_integer(); }
bool any_object(const Json& value) { return value.is_object(); }
bool is_false(const Json& value) { return value == false; }
bool is_true(const Json& value) { return value == true; }
bool is_zero(const Json& value) { return value.is_number() && value == 0; }
bool is_one(const Json& value) { return value.is_number() && value == 1; }
bool is_empty(const Json& value) { return (value.is_structured() || value.is_string()) && (value.empty() || value == ""); }
bool is_none(const Json& value) { return value == "none"; }
bool only_text(const Json& value) { return value == Json::array({"text"}); }
bool never(const Json&) { return false; }

constexpr const char* kText = "must be a string";
constexpr const char* kNotBuilt = "is not supported; leave it out";
constexpr const char* kChat = "is a field of /v1/chat/completions; leave it out";
constexpr const char* kOfText = "is a field of /v1/completions; leave it out";

const std::map<std::string, Field>& fields() {
  // clang-format off
  static const std::map<std::string, Field> all = {
      // Who asks, for whom and how urgently: no part of an answer.
      {"user", {any_text, kText}}, {"safety_identifier", {any_text, kText}}, {"prompt_cache_key", {any_text, kText}}, {"prompt_cache_retention", {any_text, kText}},
      {"service_tier", {any_text, kText}}, {"metadata", {any_object, "must be an object"}}, {"request_id", {any_text, kText}}, {"session_id", {any_text, kText}},
      {"cache_salt", {any_text, kText}}, {"stream_interval", {any_integer, "must be an integer"}}, {"model", {any_text, kText}},
      {"store", {is_false, "answers are not stored for later calls; leave it out or make it false"}},
      {"priority", {is_zero, "lines have no priorities; leave it out or make it 0"}},
      // Other ways of answering.
      {"stream", {is_false, "batch answers are not streamed; leave it out or make it false"}},
      {"stream_options", {[](const Json& value) {
         return value.is_object() && std::all_of(value.begin(), value.end(), [](const Json& option) { return option.is_null() || option == false; });
       }, "batch answers are not streamed; leave it out"}},
      {"suffix", {is_empty, "inserting text is not supported; leave it out"}},
      {"use_beam_search", {is_false, "beam search is not supported; leave it out or make it false"}},
      {"num_beams", {is_one, "beam search is not supported; leave it out or make it 1"}},
      {"length_penalty", {is_one, "beam search is not supported; leave it out or make it 1"}},
      {"early_stopping", {is_false, "beam search is not supported; leave it out or make it false"}},
      {"guided_decoding_backend", {[](const Json& value) { return value == "auto" || value == "xgrammar"; }, "xgrammar is the only one; leave it out"}},
      {"guided_whitespace_pattern", {never, "is not supported; structured_outputs has disable_any_whitespace"}}, {"structural_tag", {never, kNotBuilt}}, {"allowed_token_ids", {never, "is not supported; use bad_words, or logit_bias for few tokens"}},
      {"logits_processors", {is_empty, kNotBuilt}}, {"watermarking", {is_false, kNotBuilt}}, {"vllm_xargs", {is_empty, kNotBuilt}},
      {"repetition_detection", {[](const Json& value) { return value.is_object() && (value.empty() || value.value("max_pattern_size", Json(0)) == 0); }, kNotBuilt}},
      {"thinking_token_budget", {[](const Json& value) { return value == -1; }, kNotBuilt}},
      {"detokenize", {is_true, "the text of an answer is always given; leave it out or make it true"}},
      {"truncation_side", {[](const Json& value) { return value == "left"; }, "only the start of a prompt is cut off; leave it out or make it \"left\""}},
      {"prompt_embeds", {is_empty, "prompts are texts or token ids; leave it out"}},
      {"mm_processor_kwargs", {is_empty, kNotBuilt}}, {"media_io_kwargs", {is_empty, kNotBuilt}}, {"return_prompt_text", {is_false, kNotBuilt}}, {"kv_transfer_params", {is_empty, kNotBuilt}}, {"ec_transfer_params", {is_empty, kNotBuilt}},
      {"return_tokens_as_token_ids", {is_false, kNotBuilt}}, {"return_token_offsets", {is_false, kNotBuilt}},
      {"return_mm_kwargs", {is_true, kNotBuilt}}, {"routed_experts_prompt_start", {is_zero, kNotBuilt}}, {"flat_logprobs", {is_false, kNotBuilt}}};
  // clang-format on
  return all;
}

/// Fields of the other endpoint, and those that mean something else there.
const std::map<std::string, Field>& own_fields(Endpoint endpoint) {
  static const std::map<std::string, Field> text = {{"messages", {never, kChat}},
                                                    {"top_logprobs", {never, "is a field of /v1/chat/completions; here logprobs is the number itself"}},
                                                    {"tools", {is_empty, kChat}},
                                                    {"tool_choice", {is_none, kChat}},
                                                    {"parallel_tool_calls", {[](const Json& value) { return value.is_boolean(); }, kChat}},
                                                    {"chat_template", {never, kChat}},
                                                    {"chat_template_kwargs", {is_empty, kChat}},
                                                    {"add_generation_prompt", {never, kChat}},
                                                    {"continue_final_message", {is_false, kChat}},
                                                    {"documents", {is_empty, kChat}},
                                                    {"reasoning_effort", {never, kChat}},
                                                    {"modalities", {only_text, kChat}}};
  static const std::map<std::string, Field> chat = {
      {"best_of", {is_one, kOfText}},
      {"echo", {is_false, kOfText}},
      {"modalities", {only_text, "answers are text; leave it out"}},
      {"chat_template", {never, "a line has no template of its own; give the file with --chat-template"}},
      {"chat_template_content_format", {[](const Json& value) { return value == "auto"; }, "content is given as the template takes it; leave it out"}},
      {"include_reasoning", {is_true, "thoughts are always given, in reasoning and reasoning_content; leave it out"}},
      {"functions", {is_empty, "is not supported; give tools"}},
      {"function_call", {is_none, "is not supported; give tool_choice"}},
      {"audio", {never, "answers are text; leave it out"}},
      {"prediction", {never, kNotBuilt}},
      {"web_search_options", {never, kNotBuilt}},
      {"verbosity", {[](const Json& value) { return value == "medium"; }, kNotBuilt}}};
  return endpoint == Endpoint::kChat ? chat : text;
}

}  // namespace

std::optional<std::string> refuse_field(const std::string& name, const Json& value, Endpoint endpoint) {
  if (value.is_null()) return std::nullopt;
  const auto& own = own_fields(endpoint);
  auto found = own.find(name);
  if (found == own.end()) found = fields().find(name);
  if (found == fields().end()) {
    const bool of_chat = endpoint == Endpoint::kText && own_fields(Endpoint::kChat).contains(name);
    return of_chat ? kChat : kUnknownField;
  }
  if (found->second.changes_nothing(value)) return std::nullopt;
  return found->second.otherwise;
}

bool has_no_effect(const std::string& name, Endpoint endpoint) { return own_fields(endpoint).contains(name) || fields().contains(name); }

}  // namespace flexgen
