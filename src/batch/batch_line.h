#pragma once
// BatchLine: one line of an OpenAI batch file as sequences to generate, or the reason why not. Pure functions;
// any thread.

#include <array>
#include <cstdint>
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "generation/request.h"
#include "text/chat_answer.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace flexgen {

enum class Endpoint;

/// How many tokens a line may name whose logprobs it wants.
inline constexpr size_t kMaxLogprobTokenIds = 128;

/// What a request may ask of the model.
struct ModelLimits {
  int64_t vocab_size = 0;
  int64_t max_positions = 0;
  const Tokenizer* tokenizer = nullptr;                ///< null: only prompts of token ids
  int64_t text_bytes_per_token = 0;                    ///< for planning without a tokenizer: a text counts as a token for every so many bytes; 0: it is refused
  std::shared_ptr<const ChatTemplate> chat = nullptr;  ///< null: conversations are refused, but for planning
  std::string no_chat = "";                            ///< why there is none, where more can be said than that the model has none
  std::time_t now = 0;                                 ///< the time that a chat template may tell; 0: when the batch was written
  std::optional<Endpoint> endpoint = std::nullopt;     ///< the one that all lines must be for; nothing: lines say
  std::string model = "";                              ///< the one that lines may name; empty: any
  bool ends_answers = true;                            ///< the model has end tokens
  size_t max_logprob_ids = kMaxLogprobTokenIds;        ///< a server has memory for fewer

  /// Whether texts have tokens, counted or real.
  bool has_text() const { return tokenizer || text_bytes_per_token > 0; }
};

/// Bounds on one line: what a bad file can make us hold.
inline constexpr int64_t kMaxLineBytes = 8 << 20;
inline constexpr int64_t kMaxTextBytes = 2 << 20;  ///< of one prompt: turning text into tokens takes up to 60 times its size
inline constexpr int64_t kMaxPromptsPerLine = 2048;
inline constexpr int64_t kMaxChoicesPerPrompt = 128;
inline constexpr size_t kMaxCustomIdBytes = 512;

/// One prompt of a line, as text and in tokens. Pure data.
struct BatchPrompt {
  std::string text;  ///< as given; for echo alone, and empty for a prompt of token ids
  std::vector<int32_t> tokens;
  int64_t num_added = 0;  ///< of these, put before the text by the tokenizer
};

/// A good line. Of each prompt best_of sequences are generated, and the n whose tokens have the largest mean logprob are its choices, best first; where both are the same, all are, as they
/// are numbered. Sequences are numbered prompt by prompt: sequence i is number i % best_of of prompt i / best_of.
struct BatchRequest {
  std::string custom_id;  ///< empty: the line is a bare body without one; then its seed, unless `seeded`, is not that of its own either
  std::vector<BatchPrompt> prompts;
  int64_t n = 1, best_of = 1;
  SamplingParams params;                                         ///< as the line has them; seed: of sequence 0
  bool seeded = false;                                           ///< the line gave the seed: every prompt starts from it
  bool gives_token_ids = false, gives_prompt_token_ids = false;  ///< in the answer
  std::optional<AnswerForm> chat = std::nullopt;                 ///< a conversation's line: how its answer is read
  bool open_ended = false;                                       ///< it gave no max_tokens: an answer may take all positions that are left
  bool unread_calls = false;                                     ///< it has tools, and how the model writes calls is not known: they stay in the text
  bool estimated = false;                                        ///< its texts were not tokenized: ModelLimits::text_bytes_per_token
  int64_t doubled_bos = 0;                                       ///< prompts whose text begins with the token that the tokenizer puts before it
  std::optional<std::array<uint8_t, 12>> answers_id;             ///< hash of all that its choices depend on, where nothing is drawn and all is known

  /// Whether a record shows something of its prompts.
  bool shows_prompt() const { return params.echo || gives_prompt_token_ids; }
  /// Whether its choices tell where tokens begin in the text, which the end of the prompt bears on.
  bool has_text_offsets() const { return !chat && params.top_logprobs >= 0; }
  int64_t num_sequences() const { return static_cast<int64_t>(prompts.size()) * best_of; }
  /// Whether sequences of the same prompt may differ.
  bool draws() const { return params.temperature > 0 && params.max_tokens > 0; }
  /// Whether not all sequences are choices.
  bool chooses() const { return best_of > n; }
  /// As the engine takes them: with logprobs, if sequences are chosen by them.
  SamplingParams engine_params() const;
  /// Sequence `index` as the engine takes it; its random numbers depend on the line and the index alone.
  Request sequence(int64_t index) const;
};

/// A bad line.
struct LineError {
  std::string custom_id;  ///< empty: the line has none that can be used
  std::string code;       ///< invalid_json, invalid_custom_id, duplicate_custom_id, unsupported_endpoint, model_not_found,
                          ///< unsupported_parameter, invalid_value, context_length_exceeded, line_too_long,
                          ///< not_finite, dead_end (of a good line: batch_output.h)
  std::string message;
  std::string param;  ///< the field at fault, "body.max_tokens"; may be empty
};

/// A request of OpenAI's batch format, or its body alone ({"prompt": ...}, with or without a custom_id beside it).
std::variant<BatchRequest, LineError> parse_batch_line(std::string_view line, const ModelLimits& limits);

/// The body of a call: that of a line, and how its answer is to be handed over.
struct CallBody {
  BatchRequest request;
  std::string model;                 ///< as the call names it; empty: it does not
  bool stream = false;               ///< piece by piece
  bool stream_usage = false;         ///< with the tokens at the end
  bool stream_usage_so_far = false;  ///< and with each piece those of its choice so far
};
/// `name`: stands where a line has its custom_id; unless the body has a seed, the call's is seed_of(name).
std::variant<CallBody, LineError> parse_call_body(std::string_view body, Endpoint endpoint, std::string name, const ModelLimits& limits);

/// The body of a call whose tokens are to be counted (/tokenize): as that of an answer, but for lengths, which are no matter, a prompt that may be empty, and one field more.
struct CountedBody {
  std::vector<int32_t> tokens;
  std::string model;         ///< as above
  bool gives_texts = false;  ///< return_token_strs
};
/// `limits`: with a tokenizer.
std::variant<CountedBody, LineError> parse_counted_body(std::string_view body, ModelLimits limits);

/// Of a line that is good, the custom_id as it is written; empty if it has none. Without looking at its prompts.
std::string custom_id_of(std::string_view line);

/// For a line without a seed: the same one every time it is run. `name` tells it from other lines.
uint64_t seed_of(std::string_view name);

/// The error for a line longer than kMaxLineBytes.
LineError line_too_long();

}  // namespace flexgen
