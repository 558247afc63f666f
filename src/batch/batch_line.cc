#include "batch/batch_line.h"

#include <fmt/format.h>

#include <xxhash.h>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <type_traits>
#include <utility>

#include "base/byte_order_mark.h"
#include "base/error.h"
#include "base/nearest.h"
#include "base/sha256.h"
#include "base/units.h"
#include "batch/batch_fields.h"
#include "batch/chat_line.h"
#include "batch/grammar_fields.h"
#include "batch/line_body.h"
#include "batch/line_json.h"
#include "batch/special_tokens.h"
#include "batch/tool_choice.h"
#include "text/grammar/thoughts_grammar.h"
#include "text/xml_calls.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;

constexpr const char* kPromptPath = "body.prompt";
constexpr const char* kMessagesPath = "body.messages";
constexpr size_t kMaxStops = 16;
constexpr size_t kMaxStopBytes = 1024;
constexpr size_t kMaxStopTokenIds = 1024, kMaxBadWords = 1000;
constexpr double kLeastRepetition = 1e-3;
// Logits divided by less are infinite in fp32; long before that only the likeliest token is left.
constexpr double kLeastTemperature = 1e-30;

/// What makes a line no line of ours at all.
void check_json(const LineJson& json) {
  if (!json.syntax_error.empty()) refuse("invalid_json", "", json.syntax_error);
  if (json.too_deep) refuse("invalid_json", "", fmt::format("JSON is nested more than {} levels deep", kMaxLineDepth));
  if (!json.line.is_object()) refuse("invalid_json", "", "the line is not a JSON object");
  // Nobody could know which one is meant.
  if (json.twice && json.twice_in.empty()) refuse("invalid_json", *json.twice, fmt::format("field {} comes twice", quote_text(*json.twice)));
  if (json.twice) refuse("invalid_json", json.twice_in, fmt::format("{} has an object in which {} comes twice", json.twice_in, quote_text(*json.twice)));
}

/// A number that no double can hold, and a field that is too large to be kept whole.
void check_bounds(const LineJson& json) {
  if (json.overflow) refuse_value(json.overflow->first, fmt::format("is {}, which is out of range", quote_text(json.overflow->second)));
  if (json.too_large_value)
    refuse_value(*json.too_large_value, fmt::format("is too large: it may hold {} values, {} levels deep", kMaxFieldValues, jinja::kMaxValueDepth));
  if (json.too_large) refuse_value(*json.too_large, fmt::format("is too large: prompts apart, a line may hold {} values", kMaxLineValues));
}

/// The fields of both endpoints that are honoured.
const std::set<std::string>& honoured_fields() {
  // clang-format off
  static const std::set<std::string> kFields = {
      "max_tokens", "max_completion_tokens", "max_new_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "n", "stop", "stop_token_ids", "include_stop_str_in_output", "ignore_eos",
      "skip_special_tokens", "spaces_between_special_tokens", "add_special_tokens", "truncate_prompt_tokens", "logprobs", "prompt_logprobs", "logprob_token_ids", "return_token_ids",
      "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "bad_words", "response_format", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
      "structured_outputs"};
  // clang-format on
  return kFields;
}

/// What to do with a field that is not known: what it may be a typo of, or what other programs mean by it.
std::string advice_on_field(const std::string& name, const std::set<std::string>& own) {
  static const std::map<std::string, const char*> kForeign = {{"extra_body", "its fields stand in the body itself"},
                                                              {"num_predict", "it is max_tokens here"},
                                                              {"max_length", "max_tokens counts the tokens of the answer"},
                                                              {"stop_sequences", "it is stop here"},
                                                              {"num_return_sequences", "it is n here"},
                                                              {"do_sample", "temperature 0 takes the likeliest token each time"},
                                                              {"input", "it is prompt here"}};
  if (const auto found = kForeign.find(name); found != kForeign.end()) return found->second;
  std::vector<std::string> names(honoured_fields().begin(), honoured_fields().end());
  names.insert(names.end(), own.begin(), own.end());
  const std::string near = name.size() <= kQuotedBytes ? nearest_name(name, names) : "";
  return near.empty() ? "leave it out" : fmt::format("did you mean '{}'?", near);
}

void check_names(const Json& body, Endpoint endpoint) {
  static const std::set<std::string> kOfText = {"prompt", "echo", "best_of"};
  static const std::set<std::string> kOfChat = {"messages",
                                                "tools",
                                                "tool_choice",
                                                "parallel_tool_calls",
                                                "documents",
                                                "chat_template_kwargs",
                                                "add_generation_prompt",
                                                "continue_final_message",
                                                "reasoning_effort",
                                                "top_logprobs"};
  const std::set<std::string>& own = endpoint == Endpoint::kChat ? kOfChat : kOfText;
  for (const auto& [name, value] : body.items()) {
    if (honoured_fields().contains(name) || own.contains(name)) continue;
    const std::optional<std::string> why = refuse_field(name, value, endpoint);
    if (!why) continue;
    const std::string path = LineBody::path(name.substr(0, kQuotedBytes));
    if (*why == kUnknownField)
      refuse("unsupported_parameter", path, fmt::format("body has the field {}, which is not known; {}", quote_text(name), advice_on_field(name, own)));
    if (why->starts_with("must")) refuse_value(path, fmt::format("{}, not {}", *why, shown_value(value)));
    if (why->starts_with("is ")) refuse("unsupported_parameter", path, fmt::format("body has the field {}, which {}", quote_text(name), *why));
    refuse("unsupported_parameter", path, fmt::format("{}: {}", path, *why));
  }
}

std::vector<std::string> parse_stop(const LineBody& body, const ModelLimits& limits) {
  std::vector<std::string> stops;
  const Json* value = body.find("stop");
  if (!value) return stops;
  const std::string path = LineBody::path("stop");
  if (value->is_string()) stops.push_back(value->get<std::string>());
  else if (value->is_array() && value->size() <= kMaxStops)
    for (const Json& item : *value) {
      if (!item.is_string()) refuse_value(path, "must hold strings, not " + shown_value(item));
      stops.push_back(item.get<std::string>());
    }
  else refuse_value(path, fmt::format("must be a string or a list of at most {} strings", kMaxStops));
  for (const std::string& stop : stops)
    if (stop.empty() || stop.size() > kMaxStopBytes)
      refuse_value(path, fmt::format("has a stop string of {} bytes; from 1 to {} are allowed", stop.size(), kMaxStopBytes));
  if (!stops.empty() && !limits.has_text()) refuse_value(path, "is text, but the model has no tokenizer; give stop_token_ids");
  return stops;
}

int32_t parse_token_id(const Json& given, const std::string& path, const ModelLimits& limits) {
  const Json id = whole_number(given);
  if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(limits.vocab_size))
    refuse_value(path, fmt::format("holds {}, which is not a token id; the model has ids from 0 to {}", shown_value(given), limits.vocab_size - 1));
  return static_cast<int32_t>(id.get<uint64_t>());
}

std::vector<int32_t> parse_token_ids(const LineBody& body, const char* name, size_t most, const ModelLimits& limits) {
  std::vector<int32_t> ids;
  const Json* value = body.find(name);
  if (!value) return ids;
  const std::string path = LineBody::path(name);
  if (!value->is_array() || value->size() > most) refuse_value(path, fmt::format("must be a list of at most {} token ids", most));
  for (const Json& id : *value) {
    const int32_t token = parse_token_id(id, path, limits);
    if (std::find(ids.begin(), ids.end(), token) == ids.end()) ids.push_back(token);
  }
  return ids;
}

void check_length(const char* path, int64_t tokens, int64_t max_tokens, const ModelLimits& limits) {
  if (tokens == 0) refuse_value(path, "is empty: the model needs at least one token to start from");
  if (tokens + max_tokens > limits.max_positions)
    refuse("context_length_exceeded", path,
           fmt::format("the prompt has {} tokens and max_tokens is {}, {} together, but the model has {} positions; "
                       "shorten the prompt or lower max_tokens",
                       tokens, max_tokens, tokens + max_tokens, limits.max_positions));
}

/// How many tokens of a prompt are kept, the last ones.
int64_t parse_truncation(const LineBody& body, const SamplingParams& params, const ModelLimits& limits) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  const int64_t most = body.integer("truncate_prompt_tokens", kMost, -1, kMost);
  if (most == 0) refuse_value("body.truncate_prompt_tokens", "is 0, which leaves no prompt; -1 keeps as much as the model takes");
  return most > 0 ? most : std::max<int64_t>(1, limits.max_positions - params.max_tokens);
}

/// `path`: the field that it is from.
BatchPrompt text_prompt(std::string&& text, const char* path, bool add, const LineBody& body, const SamplingParams& params, const ModelLimits& limits) {
  const int64_t most = parse_truncation(body, params, limits);
  BatchPrompt prompt;
  if (std::ssize(text) > kMaxTextBytes)
    refuse_value(path, fmt::format("has a text of {}; one prompt may have {}, so give longer ones as token ids", format_bytes(std::ssize(text)),
                                   format_bytes(kMaxTextBytes)));
  if (limits.tokenizer) {
    try {
      prompt.tokens = limits.tokenizer->encode(text, add);
    } catch (const Error& error) {  // a limit of the tokenizer: this line's alone
      refuse_value(path, fmt::format("cannot be turned into tokens: {}", error.what()));
    }
    if (add) prompt.num_added = count_prefix(*limits.tokenizer, prompt.tokens);
  } else {
    if (limits.text_bytes_per_token == 0) refuse_value(path, "is text, but the model has no tokenizer; give token ids");
    // What stands for its tokens: where texts begin alike these do.
    const auto each = static_cast<size_t>(limits.text_bytes_per_token);
    for (size_t at = 0; at <= text.size(); at += each)
      prompt.tokens.push_back(static_cast<int32_t>(XXH3_64bits(text.data() + at, std::min(each, text.size() - at)) % static_cast<uint64_t>(limits.vocab_size)));
  }
  for (int32_t token : prompt.tokens)  // some tokenizers know more tokens than their model
    if (token < 0 || token >= limits.vocab_size)
      refuse_value(path, fmt::format("becomes token {} by the tokenizer, but the model has ids from 0 to {}", token, limits.vocab_size - 1));
  if (std::ssize(prompt.tokens) > most) {
    prompt.num_added = std::min(prompt.num_added, cut_to_last(limits.tokenizer, most, &prompt.tokens));
    text.clear();  // an echo is of what is left
  }
  check_length(path, static_cast<int64_t>(prompt.tokens.size()), params.max_tokens, limits);
  if (params.echo) prompt.text = std::move(text);
  return prompt;
}

std::vector<BatchPrompt> parse_prompts(PromptField&& field, const LineBody& body, const SamplingParams& params, const ModelLimits& limits) {
  using Form = PromptField::Form;
  const std::string path = LineBody::path("prompt");
  if (field.form == Form::kNone) refuse_value(path, "is missing");
  if (field.form == Form::kEmpty) refuse_value(path, "is empty");
  if (field.form == Form::kOther) refuse_value(path, "must be a text, a list of token ids, or a list of these");
  if (field.form == Form::kMixed) refuse_value(path, "must not mix texts and lists of token ids");
  if (field.form != Form::kIds && field.count > kMaxPromptsPerLine)
    refuse_value(path, fmt::format("holds {} prompts; a line may have {}, so use more lines", field.count, kMaxPromptsPerLine));
  if (field.no_id)
    refuse_value(path, fmt::format("holds {}, which is not a token id; the model has ids from 0 to {}", shown_value(*field.no_id), limits.vocab_size - 1));
  std::vector<BatchPrompt> prompts;
  for (std::string& text : field.texts)
    prompts.push_back(text_prompt(std::move(text), kPromptPath, body.flag("add_special_tokens", true), body, params, limits));
  for (PromptField::Ids& ids : field.ids) {
    const int64_t most = parse_truncation(body, params, limits);
    check_length(kPromptPath, std::min(ids.count, most), params.max_tokens, limits);
    const int64_t dropped = ids.count - std::ssize(ids.kept);
    ids.kept.insert(ids.kept.begin(), ids.first.begin(), ids.first.begin() + std::min(dropped, std::ssize(ids.first)));
    cut_to_last(limits.tokenizer, most, &ids.kept);
    prompts.push_back({"", std::move(ids.kept), 0});
  }
  return prompts;
}

/// SplitMix64's output function (Steele et al. 2014).
uint64_t mixed(uint64_t seed, uint64_t number) {
  uint64_t z = seed + number * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

void parse_seed(const LineBody& body, BatchRequest* request) {
  const Json* seed = body.find("seed");
  request->seeded = seed != nullptr;
  if (!seed) {
    request->params.seed = seed_of(request->custom_id);
    return;
  }
  const Json number = whole_number(*seed);
  if (!number.is_number_integer()) refuse_value("body.seed", "must be an integer of 64 bits, not " + shown_value(*seed));
  request->params.seed = number.is_number_unsigned() ? number.get<uint64_t>() : static_cast<uint64_t>(number.get<int64_t>());
}

int64_t parse_max_tokens(const LineBody& body, Endpoint endpoint) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  const int64_t tokens = body.integer("max_tokens", -1, 0, kMost), other = body.integer("max_completion_tokens", -1, 0, kMost);
  // lm-eval sends what a task says so beside a max_tokens of its own, which it holds for less.
  if (const int64_t named = body.integer("max_new_tokens", -1, 0, kMost); named >= 0) return named;
  if (tokens >= 0 && other >= 0 && tokens != other)
    refuse_value("body.max_completion_tokens", fmt::format("is {}, and max_tokens is {}; both say the same, so give one", other, tokens));
  return tokens >= 0 ? tokens : other >= 0 ? other : endpoint == Endpoint::kChat ? -1 : 16;
}

/// {"id": bias}; as vLLM does, a bias beyond 100 counts as 100.
std::vector<std::pair<int32_t, float>> parse_logit_bias(const LineBody& body, const ModelLimits& limits) {
  std::vector<std::pair<int32_t, float>> biases;
  const Json* value = body.find("logit_bias");
  if (!value) return biases;
  const std::string path = LineBody::path("logit_bias");
  if (!value->is_object()) refuse_value(path, "must be an object with token ids as names, not " + shown_value(*value));
  for (const auto& [name, bias] : value->items()) {
    int32_t token = -1;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), token);
    if (error != std::errc() || end != name.data() + name.size() || token < 0 || token >= limits.vocab_size)
      refuse_value(path, fmt::format("has the name {}, which is not a token id; the model has ids from 0 to {}", quote_text(name), limits.vocab_size - 1));
    if (!bias.is_number()) refuse_value(path, fmt::format("has {} for token {}; a bias is a number", shown_value(bias), token));
    const float clamped = std::clamp(bias.get<float>(), -100.0f, 100.0f);
    if (std::any_of(biases.begin(), biases.end(), [&](const auto& entry) { return entry.first == token; }))
      refuse_value(path, fmt::format("has token {} twice", token));
    if (clamped != 0) biases.emplace_back(token, clamped);
  }
  return biases;
}

/// The tokens of words, at the start of a text and behind a blank (vLLM's rule: the latter where it is as long and begins with another token).
std::vector<std::vector<int32_t>> parse_bad_words(const LineBody& body, const ModelLimits& limits) {
  std::vector<std::vector<int32_t>> words;
  const Json* value = body.find("bad_words");
  if (!value) return words;
  const std::string path = LineBody::path("bad_words");
  if (!value->is_array() || value->size() > kMaxBadWords) refuse_value(path, fmt::format("must be a list of at most {} texts", kMaxBadWords));
  for (const Json& item : *value) {
    if (!item.is_string() || item.get_ref<const std::string&>().empty()) refuse_value(path, "must hold texts that are not empty, not " + shown_value(item));
    if (!limits.has_text()) refuse_value(path, "is text, but the model has no tokenizer; use logit_bias");
    std::string word = item.get<std::string>();
    word.erase(0, word.find_first_not_of(" \t\n\r\f\v"));
    if (!limits.tokenizer) {  // for planning
      words.push_back({0});
      continue;
    }
    const std::vector<int32_t> plain = limits.tokenizer->encode(word, false), behind_blank = limits.tokenizer->encode(" " + word, false);
    if (plain.empty()) refuse_value(path, fmt::format("holds {}, which has no tokens", shown_value(item)));
    words.push_back(plain);
    if (behind_blank.size() == plain.size() && behind_blank.front() != plain.front()) words.push_back(behind_blank);
  }
  return words;
}

/// What is done to logits before a token is chosen; ranges as vLLM has them.
void parse_edits(const LineBody& body, const ModelLimits& limits, SamplingParams& params) {
  params.min_tokens = body.integer("min_tokens", 0, 0, std::numeric_limits<int32_t>::max());
  if (params.min_tokens > params.max_tokens)
    refuse_value("body.min_tokens", fmt::format("is {}, more than max_tokens ({}); lower it, or raise max_tokens", params.min_tokens, params.max_tokens));
  params.presence_penalty = body.number("presence_penalty", 0, -2, 2);
  params.frequency_penalty = body.number("frequency_penalty", 0, -2, 2);
  params.repetition_penalty = body.number("repetition_penalty", 1, kLeastRepetition, 1 / kLeastRepetition);
  params.logit_bias = parse_logit_bias(body, limits);
  params.bad_words = parse_bad_words(body, limits);
}

/// false is what OpenAI's other endpoint says for none.
int64_t parse_logprobs(const LineBody& body) {
  const Json* value = body.find("logprobs");
  return value && *value == false ? -1 : body.integer("logprobs", -1, 0, 20);
}

/// In chat the field says whether, and another one how many.
int64_t parse_chat_logprobs(const LineBody& body) {
  const bool wanted = body.flag("logprobs");
  const int64_t top = body.integer("top_logprobs", 0, 0, 20);
  if (!wanted && top > 0) refuse_value("body.top_logprobs", fmt::format("is {}, and logprobs is not true; give both", top));
  return wanted ? top : -1;
}

/// What the chat template passes over would be ignored without a word.
void refuse_unread(Conversation conversation, bool with_tools, const LineBody& body, const ModelLimits& limits) {
  std::string name = limits.chat->unread_field(conversation);  // tools choose the template, whatever comes of them
  if (name == "tools" && !with_tools) {
    conversation.tools = {};
    name = limits.chat->unread_field(conversation);
  }
  if (name.empty()) return;
  constexpr const char* kWhy = "which the model's chat template never looks at, so the model would not see it";
  const bool is_field = body.find(name.c_str()) != nullptr;
  const std::string path = LineBody::path(is_field ? name : "chat_template_kwargs");
  if (!is_field) refuse("unsupported_parameter", path, fmt::format("{} holds {}, {}; leave it out", path, quote_text(name), kWhy));
  refuse("unsupported_parameter", path,
         fmt::format("body has the field '{}', {}; leave it out, or give another template with --chat-template FILE", name, kWhy));
}

/// Thoughts that the answer begins with are part of its grammar.
void make_room_for_thoughts(HeldAnswer held, const ModelLimits& limits, BatchRequest* request) {
  if (!request->params.grammar) return;
  try {
    GrammarSpec whole = behind_thoughts(*request->params.grammar, held, limits.tokenizer, &*request->chat);
    if (!whole.before.empty()) request->params.grammar = kept_grammar(std::move(whole), true);
  } catch (const Error& error) {
    refuse_value(kMessagesPath, error.what());
  }
}

/// The conversation as a prompt, and how its answer is read.
void parse_chat(const LineJson& line, const LineBody& body, const ModelLimits& limits, BatchRequest* request) {
  Conversation conversation = parse_conversation(line, body);
  if (limits.chat) give_effort_as_thinking(*limits.chat, body, &conversation);
  std::string text;
  request->chat.emplace();
  // Without a template, for planning, any form will do.
  const CallForm calls = limits.chat ? limits.chat->call_form() : CallForm::kHermes;
  const bool beside = request->params.grammar != nullptr;  // a field that says what the answer is unless it calls
  ToolChoice choice = parse_tool_choice(conversation, body, calls, limits.tokenizer, beside);
  if (choice.grammar && beside) {
    if (choice.forced) refuse_value("body.tool_choice", "forces a call, and another field says what the answer must be; give one");
    GrammarSpec either = *request->params.grammar;
    either.instead = choice.grammar->text;
    request->params.grammar = kept_grammar(std::move(either), true);
  } else if (choice.grammar) {
    request->params.grammar = choice.grammar;
  }
  if (limits.chat) {
    *request->chat = {.calls = choice.calls ? calls : CallForm::kNone, .one_call = !body.flag("parallel_tool_calls", true)};
    request->chat->held_calls = choice.grammar != nullptr;
    if (choice.calls && xml_marks(calls)) request->chat->types = std::make_shared<const ParameterTypes>(std::move(choice.types));
    request->unread_calls = choice.calls && calls == CallForm::kNone;
    refuse_unread(conversation, choice.calls, body, limits);
    try {
      limits.chat->check_all_is_written(conversation, limits.now);
      text = limits.chat->render(conversation, limits.now);
    } catch (const Error& error) {
      refuse_value(kMessagesPath, fmt::format("cannot be written out: {}", error.what()));
    }
    limits.chat->tell_form(conversation, text, &*request->chat);
    request->params.answers_afresh = !conversation.continue_final_message;
    if (choice.grammar || (limits.tokenizer && has_special_marks(*request->chat, *limits.tokenizer))) request->params.skip_special_tokens = false;
    make_room_for_thoughts(choice.grammar && !beside ? HeldAnswer::kCalls : HeldAnswer::kContent, limits, request);
  } else if (limits.tokenizer || limits.text_bytes_per_token == 0) {
    refuse("unsupported_endpoint", kMessagesPath,
           fmt::format("a conversation needs the model's chat template: {}",
                       limits.no_chat.empty() ? "the model has none; give one with --chat-template FILE" : limits.no_chat));
  } else {
    text = texts_of(conversation);
  }
  request->prompts.push_back(text_prompt(std::move(text), kMessagesPath, body.flag("add_special_tokens", false), body, request->params, limits));
}

/// What the parameters of tools may be; texts that several list are added once.
void add_types(const ParameterTypes& types, const std::function<void(std::string_view)>& add) {
  std::map<const void*, size_t> added;
  for (const auto& [function, parameters] : types.functions)
    for (const auto& [name, kind] : parameters) {
      add(fmt::format("{} {} {} {}", function, name, kind.types, kind.texts.size()));
      for (const auto& texts : kind.texts) {
        const auto [found, is_new] = added.try_emplace(texts.get(), added.size());
        add(fmt::format("texts {}: {}", found->second, is_new ? texts->size() : 0));
        if (is_new)
          for (const std::string& text : *texts) add(text);
      }
    }
}

/// Two bodies that say the same of all but the seed, and but who asks and the like, have the same choices, if nothing is drawn.
std::array<uint8_t, 12> answers_id_of(Json body, Endpoint endpoint, const BatchRequest& request) {
  Sha256 hash;
  const auto add = [&](std::string_view bytes) {
    hash.add(fmt::format("{}:", bytes.size()));
    hash.add(bytes);
  };
  body.erase("seed");
  for (auto member = body.begin(); member != body.end();) member = has_no_effect(member.key(), endpoint) ? body.erase(member) : std::next(member);
  add(body.dump());
  // A field that is kept as values is empty in the body.
  if (const GrammarSpec* grammar = request.params.grammar.get()) {
    add(fmt::format("{} {} {}", static_cast<int>(grammar->kind), grammar->any_whitespace, grammar->choices.size()));
    add(grammar->text);
    for (const std::string& choice : grammar->choices) add(choice);
    for (const std::string* part : {&grammar->before, &grammar->after, &grammar->instead})
      if (!part->empty()) add(*part);
  }
  for (const BatchPrompt& prompt : request.prompts) {
    add(prompt.text);
    add({reinterpret_cast<const char*>(prompt.tokens.data()), prompt.tokens.size() * sizeof(int32_t)});
  }
  // Of a conversation's fields that the body has no more, the text tells all but how its answer is read.
  if (request.chat) add(fmt::format("{} {} {}", request.chat->thinks, request.chat->begins_in_thought, static_cast<int>(request.chat->calls)));
  if (request.chat && request.chat->types) add_types(*request.chat->types, add);
  if (request.chat && !request.params.answers_afresh) add("goes on");
  std::array<uint8_t, 12> id;
  const Sha256::Digest digest = hash.digest();
  std::copy_n(digest.begin(), id.size(), id.begin());
  return id;
}

BatchRequest parse_body(LineJson&& line, std::string custom_id, Endpoint endpoint, const ModelLimits& limits) {
  const Json& json = line.line["body"];
  if (!json.is_object()) refuse_value("body", "must be an object");
  const bool chat = endpoint == Endpoint::kChat;
  check_names(json, endpoint);
  check_bounds(line);
  if (chat && line.prompt.form != PromptField::Form::kNone)
    refuse("unsupported_parameter", kPromptPath, "body has the field 'prompt', which is a field of /v1/completions; leave it out");
  LineBody body(json);
  BatchRequest request;
  request.custom_id = std::move(custom_id);
  SamplingParams& params = request.params;
  request.n = body.integer("n", 1, 1, kMaxChoicesPerPrompt);
  request.best_of = body.integer("best_of", request.n, 1, kMaxChoicesPerPrompt);
  if (request.best_of < request.n)
    refuse_value("body.best_of", fmt::format("is {}, less than n ({}); the n best of so many are answered", request.best_of, request.n));
  params.max_tokens = parse_max_tokens(body, endpoint);
  request.open_ended = params.max_tokens < 0;  // as long as the model's positions allow
  if (request.open_ended) params.max_tokens = 1;
  if (params.max_tokens == 0) request.best_of = request.n;  // nothing is drawn
  params.echo = body.flag("echo");
  params.temperature = body.number("temperature", 1, 0, 2);
  if (params.temperature < kLeastTemperature) params.temperature = 0;
  params.top_p = body.number("top_p", 1, 0, 1);
  if (params.top_p == 0) refuse_value("body.top_p", "must be more than 0; for the likeliest token use temperature 0");
  params.top_k = std::max<int64_t>(0, body.integer("top_k", 0, -1, std::numeric_limits<int32_t>::max()));
  params.min_p = body.number("min_p", 0, 0, 1);
  params.top_logprobs = chat ? parse_chat_logprobs(body) : parse_logprobs(body);
  params.prompt_logprobs = body.integer("prompt_logprobs", -1, 0, 20);
  params.logprob_token_ids = parse_token_ids(body, "logprob_token_ids", kMaxLogprobTokenIds, limits);
  if (!params.logprob_token_ids.empty() && params.top_logprobs < 0)
    refuse_value("body.logprob_token_ids", fmt::format("needs logprobs: give logprobs {} too", chat ? "true" : "0"));
  if (params.logprob_token_ids.size() > limits.max_logprob_ids)
    refuse_value("body.logprob_token_ids", fmt::format("holds {} token ids; a server has memory for {}, so name fewer, or use run-batch, which takes {}",
                                                       params.logprob_token_ids.size(), limits.max_logprob_ids, kMaxLogprobTokenIds));
  if (params.max_tokens == 0 && !params.echo && params.prompt_logprobs < 0)
    refuse_value("body.max_tokens", "is 0, which asks for nothing; with echo or prompt_logprobs it scores the prompt");
  params.ignore_eos = body.flag("ignore_eos");
  params.stop = parse_stop(body, limits);
  params.stop_token_ids = parse_token_ids(body, "stop_token_ids", kMaxStopTokenIds, limits);
  params.include_stop = body.flag("include_stop_str_in_output");
  params.skip_special_tokens = body.flag("skip_special_tokens", true);
  body.flag("spaces_between_special_tokens", true);  // the decoders of this tokenizer put none there either way
  request.gives_prompt_token_ids = body.flag("return_token_ids");
  // Without a tokenizer nothing else would tell the answer.
  request.gives_token_ids = body.flag("return_token_ids", !limits.tokenizer);
  params.grammar = parse_grammar(line, body);
  parse_seed(body, &request);
  request.estimated = !limits.tokenizer && (chat || !line.prompt.texts.empty());
  if (chat) parse_chat(line, body, limits, &request);
  else request.prompts = parse_prompts(std::move(line.prompt), body, params, limits);
  if (params.grammar && !limits.has_text()) refuse_value("body", "asks for an answer that follows a grammar, but the model has no tokenizer");
  if (params.grammar && !limits.ends_answers)
    refuse_value("body", "asks for an answer that follows a grammar, but the model's config.json names no end token (eos_token_id)");
  if (request.open_ended) params.max_tokens = limits.max_positions - std::ssize(request.prompts.front().tokens);
  parse_edits(body, limits, params);
  for (const BatchPrompt& prompt : request.prompts)
    if (prompt.num_added > 0 && begins_with_two_prefixes(*limits.tokenizer, prompt.tokens)) ++request.doubled_bos;
  if (!request.draws() && !request.estimated) request.answers_id = answers_id_of(json, endpoint, request);
  return request;
}

}  // namespace

SamplingParams BatchRequest::engine_params() const {
  SamplingParams wanted = params;
  if (chooses() && params.top_logprobs < 0) {
    wanted.top_logprobs = 0;
    wanted.echo = false;  // the logprobs of its prompt are not wanted
  }
  return wanted;
}

Request BatchRequest::sequence(int64_t index) const {
  Request request;
  request.prompt = prompts[static_cast<size_t>(index / best_of)].tokens;
  request.params = engine_params();
  auto number = static_cast<uint64_t>(seeded ? index % best_of : index);
  if (number > 0) request.params.seed = mixed(params.seed, number);
  return request;
}

uint64_t seed_of(std::string_view name) {
  Sha256::Digest digest = Sha256::of(fmt::format("flexgen seed {}", name));
  uint64_t seed = 0;
  for (size_t i = 0; i < 8; ++i) seed = seed << 8 | digest[i];
  return seed;
}

LineError line_too_long() { return {"", "line_too_long", fmt::format("the line is longer than {}; use more lines", format_bytes(kMaxLineBytes)), ""}; }

namespace {

constexpr std::string_view kBodyPath = "body.";
constexpr std::string_view kTextUrl = "/v1/completions", kChatUrl = "/v1/chat/completions";

/// A line that is the body itself: {"prompt": "..."} or {"messages": [...]}.
bool is_bare(const Json& line) {
  return (line.contains("prompt") || line.contains("messages")) && !line.contains("body") && !line.contains("method") && !line.contains("url");
}

/// A member that is null is as one that is left out: tables of mixed lines are written so. The prompt is kept elsewhere, and is named if it is null.
void drop_nulls(Json& object) {
  for (auto member = object.begin(); member != object.end();) member = member->is_null() && member.key() != "prompt" ? object.erase(member) : std::next(member);
}

/// Checked; empty if there is none.
std::string parse_custom_id(const Json& object, bool needed) {
  const auto id = object.find("custom_id");
  if (id == object.end() && !needed) return "";
  if (id == object.end() && !object.contains("body") && !object.contains("method") && !object.contains("url"))
    refuse("invalid_custom_id", "custom_id",
           "the line has neither prompt nor messages, nor custom_id, method, url and body; lines like {\"prompt\": \"...\"} will do");
  if (id == object.end() || !id->is_string() || id->get_ref<const std::string&>().empty())
    refuse("invalid_custom_id", "custom_id", "custom_id is missing, or not a text; give every line one of its own");
  if (id->get_ref<const std::string&>().size() > kMaxCustomIdBytes)
    refuse("invalid_custom_id", "custom_id", fmt::format("custom_id has more than {} bytes", kMaxCustomIdBytes));
  return id->get<std::string>();
}

constexpr std::string_view url_of(Endpoint endpoint) { return endpoint == Endpoint::kChat ? kChatUrl : kTextUrl; }

void check_endpoint_is(Endpoint endpoint, const ModelLimits& limits) {
  if (limits.endpoint && *limits.endpoint != endpoint)
    refuse("unsupported_endpoint", "url", fmt::format("the line is for {}, but the batch for {}", url_of(endpoint), url_of(*limits.endpoint)));
}

std::string model_named_in(const Json& body) {
  const Json* model = LineBody(body).find("model");
  return model && model->is_string() ? model->get<std::string>() : "";
}

void check_model(const Json& body, const ModelLimits& limits) {
  if (limits.model.empty() || !body.is_object()) return;
  if (const std::string name = model_named_in(body); !name.empty() && name != limits.model)
    refuse("model_not_found", "body.model", fmt::format("the model {} is not here; the batch is for {}", quote_text(name), quote_text(limits.model)));
}

/// Errors name the body's fields as they are where nothing stands around it.
void take_path_off(Refusal* refusal, const char* what) {
  for (std::string* text : {&refusal->param, &refusal->message})
    if (text->starts_with(kBodyPath)) text->erase(0, kBodyPath.size());
  if (refusal->message.starts_with("body has")) refusal->message.replace(0, 4, what);
}

/// What the body says of the way of handing over, which is then left out of it.
void take_streaming(Json& json, CallBody* call) {
  const LineBody body(json);
  call->stream = body.flag("stream");
  if (const Json* options = body.find("stream_options")) {
    if (!call->stream) refuse_value("body.stream_options", "is there, and stream is not true; give both");
    if (!options->is_object()) refuse_value("body.stream_options", "must be an object, not " + shown_value(*options));
    for (const auto& [name, value] : options->items()) {
      const bool known = name == "include_usage" || name == "include_obfuscation" || name == "continuous_usage_stats";
      if (!known)
        refuse("unsupported_parameter", "body.stream_options", fmt::format("body.stream_options has the field {}, which is not known", quote_text(name)));
      if (value.is_null()) continue;
      if (!value.is_boolean())
        refuse_value("body.stream_options", fmt::format("has {} for {}; it must be true or false", shown_value(value), quote_text(name)));
      if (name == "include_obfuscation" && value == true)
        refuse("unsupported_parameter", "body.stream_options", fmt::format("body.stream_options: {} is not supported; leave it out", quote_text(name)));
    }
    call->stream_usage = LineBody(*options).flag("include_usage");
    call->stream_usage_so_far = LineBody(*options).flag("continuous_usage_stats");
  }
  for (const char* name : {"stream", "stream_options"}) json.erase(name);
}

LineBounds bounds_of(const ModelLimits& limits) {
  return {.prompts = kMaxPromptsPerLine,
          .ids = limits.max_positions,
          .first_ids = limits.tokenizer ? std::ssize(limits.tokenizer->prefix()) : 0,
          .vocab_size = limits.vocab_size};
}

/// The body of a call as that of a line.
LineJson read_call_json(std::string_view body, const ModelLimits& limits) {
  body = without_byte_order_mark(body);
  LineJson alone = read_line_json(body, {.prompts = 1, .ids = 1, .vocab_size = 1});  // or it could end what is put around it
  if (!alone.syntax_error.empty()) {
    constexpr std::string_view kLine = " of the line: ";
    if (const size_t at = alone.syntax_error.find(kLine); at != std::string::npos) alone.syntax_error.replace(at, kLine.size(), " of the body: ");
    refuse("invalid_json", "", alone.syntax_error);
  }
  if (!alone.line.is_object()) refuse("invalid_json", "", "the body is not a JSON object");
  LineJson parsed = read_line_json(fmt::format(R"({{"body":{}}})", body), bounds_of(limits));
  check_json(parsed);
  return parsed;
}

Endpoint check_endpoint(const Json& json) {
  for (const auto& [name, value] : json.items())
    if (name != "custom_id" && name != "method" && name != "url" && name != "body")
      refuse("unsupported_parameter", name.substr(0, kQuotedBytes),
             fmt::format("the line has the field {}, which is not part of the batch format", quote_text(name)));
  if (!json.contains("method") || json["method"] != "POST") refuse_value("method", "must be \"POST\"");
  if (!json.contains("url") || !json["url"].is_string()) refuse_value("url", "is missing, or not a text");
  const auto& url = json["url"].get_ref<const std::string&>();
  if (url != kChatUrl && url != kTextUrl)
    refuse("unsupported_endpoint", "url", fmt::format("url {} is not known; only {} and {} are", quote_text(url), kTextUrl, kChatUrl));
  if (!json.contains("body")) refuse_value("body", "is missing");
  return url == kChatUrl ? Endpoint::kChat : Endpoint::kText;
}

}  // namespace

std::variant<BatchRequest, LineError> parse_batch_line(std::string_view line, const ModelLimits& limits) {
  line = without_byte_order_mark(line);
  std::string custom_id;
  bool bare = false;
  try {
    const LineBounds bounds = bounds_of(limits);
    Endpoint endpoint = Endpoint::kText;
    LineJson parsed = read_line_json(line, bounds);
    if (parsed.line.is_object()) drop_nulls(parsed.line);
    bare = parsed.line.is_object() && is_bare(parsed.line);
    if (!bare || !parsed.syntax_error.empty()) check_json(parsed);  // a broken line could end what is put around it
    if (bare) {
      parsed = LineJson();
      parsed = read_line_json(fmt::format(R"({{"body":{}}})", line), bounds);  // so that its prompt goes where prompts go
      check_json(parsed);
      drop_nulls(parsed.line["body"]);
      custom_id = parse_custom_id(parsed.line["body"], false);
      parsed.line["body"].erase("custom_id");
      if (parsed.line["body"].contains("messages")) endpoint = Endpoint::kChat;
    } else {
      if (const auto prompt = parsed.line.find("prompt"); prompt != parsed.line.end() && prompt->is_null()) parsed.line.erase(prompt);
      custom_id = parse_custom_id(parsed.line, true);
      endpoint = check_endpoint(parsed.line);
    }
    check_endpoint_is(endpoint, limits);
    check_model(parsed.line["body"], limits);
    return parse_body(std::move(parsed), custom_id, endpoint, limits);
  } catch (Refusal& refusal) {
    if (bare) take_path_off(&refusal, "the line");
    return LineError{custom_id, refusal.code, refusal.message, refusal.param};
  }
}

namespace {

/// What `parse` gives, or why it refuses the body of a call.
template <class Parse>
std::variant<std::invoke_result_t<Parse>, LineError> parsed_or_refused(Parse parse) {
  try {
    return parse();
  } catch (Refusal& refusal) {
    take_path_off(&refusal, "the body");
    return LineError{"", refusal.code, refusal.message, refusal.param};
  }
}

}  // namespace

std::variant<CallBody, LineError> parse_call_body(std::string_view body, Endpoint endpoint, std::string name, const ModelLimits& limits) {
  return parsed_or_refused([&] {
    LineJson parsed = read_call_json(body, limits);
    CallBody call;
    take_streaming(parsed.line["body"], &call);
    call.model = model_named_in(parsed.line["body"]);
    call.request = parse_body(std::move(parsed), std::move(name), endpoint, limits);
    return call;
  });
}

std::variant<CountedBody, LineError> parse_counted_body(std::string_view body, ModelLimits limits) {
  const int64_t positions = std::exchange(limits.max_positions, std::numeric_limits<int32_t>::max());
  return parsed_or_refused([&] {
    LineJson parsed = read_call_json(body, limits);
    Json& json = parsed.line["body"];
    CountedBody counted;
    CallBody call;
    take_streaming(json, &call);
    counted.model = model_named_in(json);
    counted.gives_texts = LineBody(json).flag("return_token_strs");
    const Endpoint endpoint = json.contains("messages") ? Endpoint::kChat : Endpoint::kText;
    if (const Json* kept = LineBody(json).find("truncate_prompt_tokens"); kept && *kept == -1) {  // as many as the answer's call would keep
      const int64_t answer = parse_max_tokens(LineBody(json), endpoint);
      json["truncate_prompt_tokens"] = std::max<int64_t>(1, positions - (answer < 0 ? 1 : answer));
    }
    for (const char* name : {"return_token_strs", "max_completion_tokens", "max_new_tokens", "min_tokens"}) json.erase(name);
    json["max_tokens"] = 1;
    const bool is_empty = parsed.prompt.form == PromptField::Form::kText && parsed.prompt.texts.front().empty();
    if (is_empty) parsed.prompt.texts.front() = "x";  // the other fields are checked as ever
    const bool adds = LineBody(json).flag("add_special_tokens", true);
    std::vector<BatchPrompt> prompts = parse_body(std::move(parsed), "counted", endpoint, limits).prompts;
    if (prompts.size() != 1) refuse_value(kPromptPath, "must be one text");
    counted.tokens = is_empty ? limits.tokenizer->encode("", adds) : std::move(prompts.front().tokens);
    return counted;
  });
}

std::string custom_id_of(std::string_view line) {
  LineJson parsed = read_line_json(without_byte_order_mark(line), {.prompts = 1, .ids = 1, .vocab_size = 1});
  if (parsed.line.is_object()) drop_nulls(parsed.line);
  return parse_custom_id(parsed.line, false);
}

}  // namespace flexgen
