#pragma once
// BatchInput: a batch file, read once to know what there is to do, and then line by line again as the work comes
// to it. What is known of each line lies in a temporary file, so that memory grows neither with their number nor with their length. One thread.

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include "batch/batch_line.h"
#include "batch/input_text.h"
#include "generation/shared_prefixes.h"
#include "io/spilled_records.h"
#include "plan/workload.h"

namespace flexgen {

/// Names a line by its content, wherever it stands; the record that answers it carries it.
using RecordId = std::array<uint8_t, 12>;
/// "batch_req_" and 24 hex digits.
std::string record_id_text(const RecordId& id);
inline constexpr std::string_view kRecordIdPrefix = "batch_req_";

/// Tells custom_ids apart.
RecordId hash_of_name(std::string_view custom_id);

/// "line-7": the custom_id of a line that brings none.
std::string line_name(int64_t number);
/// Whether a line holds nothing, so that it is passed over.
inline bool is_blank(std::string_view line) { return line.find_first_not_of(" \t\r") == std::string_view::npos; }

/// What prompts share is known in multiples of so many tokens, of which pages of the KV cache are multiples.
inline constexpr int64_t kSharedGrain = 16;
/// Tokens that two prompts share at their beginnings, in whole kSharedGrain and without the last token of either.
int64_t shared_tokens_of(std::span<const int32_t> a, std::span<const int32_t> b);

/// A line that is not blank.
struct InputLine {
  int64_t number = 0;         ///< from 1, blank lines counted; in a file whose lines are not its own, of the request
  int64_t offset = 0;         ///< bytes from the start of the text
  int64_t bytes = 0;          ///< without the line end
  RecordId id{};              ///< that of the text, unless an earlier line has the same text or custom_id
  RecordId text_id{};         ///< hash of its text
  RecordId name{};            ///< hash_of_name() of the custom_id that its answer has; of good lines
  int64_t duplicate_of = 0;   ///< number of the line that has the same custom_id; 0: none
  int64_t num_sequences = 0;  ///< 0: a bad line
  int64_t copies = 1;         ///< of these, so many in a row are the same, as nothing is drawn
  int64_t same_as = -1;       ///< index of the first line that has the same choices; -1: no other line has
  int64_t prompt_tokens = 0;  ///< of all sequences
  int64_t longest_prompt = 0;
  int64_t max_tokens = 0;     ///< of each sequence
  int64_t logprob_bytes = 0;  ///< logprob_bytes() of its longest sequence
  int64_t inside_prefix = 0;  ///< shared_tokens_of() its first sequence and its second, copies left out
  int64_t inside_shared = 0;  ///< of each further one and the one before it, in all
  bool keeps_logits = false, scored = false, wants_logprobs = false;

  bool good() const { return num_sequences > 0; }
};

class BatchInput {
 public:
  /// Chat templates are told that it is when the file was last changed, so that a job that goes on another day gives the same answers.
  /// Reads and checks the whole file, in any form that InputText reads; ends early if `stop` is set (then stopped()). Throws Error for a file
  /// that cannot be read, is not a regular one or is in another form, and Error{io} if there is no room for the index; bad lines are no reason to throw.
  /// `directory`: where the index goes, some 160 bytes a line and four for every 16 tokens of its prompt, once there are more than a few hundred; empty: the system's for temporary files.
  static BatchInput scan(const std::string& path, const ModelLimits& limits, const std::atomic<bool>& stop, const std::string& directory = "");

  const std::string& path() const { return path_; }
  int64_t num_lines() const { return lines_.size(); }
  /// `index` from 0, blank lines not counted. Going through them in order is fast, jumping is not.
  InputLine line(int64_t index) const { return lines_[index]; }
  /// The same for jumping.
  InputLine line_anywhere(int64_t index) const {
    InputLine line;
    lines_.read(index, {&line, 1});
    return line;
  }
  /// All lines, by index, in an order in which those that may share the beginnings of their first prompts stay together (SharedPrefixes, in kSharedGrain), and of these
  /// those with the same choices.
  void in_shared_order(const std::function<void(const PlacedPrompt&)>& take) const;
  /// SHA-256 of the lines, hex: of the file itself, unless it is compressed or laid out otherwise.
  const std::string& fingerprint() const { return fingerprint_; }
  /// When the file was last changed, seconds since 1970.
  int64_t modified_s() const { return modified_s_; }
  bool stopped() const { return stopped_; }
  /// Good lines whose texts were counted by ModelLimits::text_bytes_per_token.
  int64_t num_estimated() const { return num_estimated_; }
  /// Good lines with prompts that begin with the token which the tokenizer puts before a text, and so have it twice.
  int64_t doubled_bos_lines() const { return doubled_bos_lines_; }
  /// Good lines whose answers may take all positions that are left, as they give no max_completion_tokens.
  int64_t open_ended_lines() const { return open_ended_lines_; }
  /// Good lines with tools of a model whose calls are of an unknown form.
  int64_t unread_call_lines() const { return unread_call_lines_; }

  /// The line once more. The custom_id of a bare body that has none is "line-N". An error's custom_id is what its record is keyed by: the line's own custom_id, or "line-N" if
  /// it has none or the same as an earlier line ("#error" is added while a good line is called so).
  /// Throws Error{io} if the file changed since the scan.
  std::variant<BatchRequest, LineError> read(const InputLine& line) const;
  /// The custom_id that read() gives of a good line, without looking at its prompts. Throws as read() does.
  std::string read_custom_id(const InputLine& line) const;

 private:
  /// Who was first to have a custom_id or, of lines that bring none, a text.
  struct NamedLine {
    bool by_text = false;
    bool implied = false;  ///< the line brings no custom_id, and gets this one
    RecordId name{};       ///< hash of the custom_id or the text
    int64_t index = 0, number = 0;
    friend bool operator<(const NamedLine& a, const NamedLine& b) { return std::tie(a.by_text, a.name, a.index) < std::tie(b.by_text, b.name, b.index); }
  };
  /// A line with a name or text that an earlier one has, the number of that if it is the custom_id, and of lines that bring the one or the other the how manyth it is (0: the first, or it brings none).
  struct Duplicate {
    int64_t index = 0, duplicate_of = 0, repeat = 0;
    friend bool operator<(const Duplicate& a, const Duplicate& b) { return std::tie(a.index, a.duplicate_of) < std::tie(b.index, b.duplicate_of); }
  };
  /// A line whose choices others may have too.
  struct AnsweredLine {
    RecordId answers{};  ///< BatchRequest::answers_id
    int64_t index = 0;
    friend bool operator<(const AnsweredLine& a, const AnsweredLine& b) { return std::tie(a.answers, a.index) < std::tie(b.answers, b.index); }
  };
  struct SameLine {
    int64_t index = 0, same_as = 0;
    friend bool operator<(const SameLine& a, const SameLine& b) { return a.index < b.index; }
  };
  BatchInput(InputText text, const std::string& directory);
  void read_file(const std::atomic<bool>& stop);
  std::string read_text(const InputLine& line) const;
  void take_line(std::string_view text, int64_t number, int64_t offset, int64_t bytes);
  void find_duplicates(const std::atomic<bool>& stop);
  void find_same(const std::atomic<bool>& stop);

  std::string path_;
  InputText text_;
  ModelLimits limits_;
  mutable SpilledRecords<InputLine> lines_;
  mutable SharedPrefixes prompts_;  ///< a line: its first prompt; empty where it must not share
  std::string fingerprint_;
  int64_t modified_s_ = 0, num_estimated_ = 0;
  bool stopped_ = false;
  int64_t doubled_bos_lines_ = 0, open_ended_lines_ = 0, unread_call_lines_ = 0;
  RecordSorter<NamedLine> named_;  ///< of all lines with a custom_id, until the duplicates are found
  RecordSorter<Duplicate> duplicates_;
  RecordSorter<AnsweredLine> answered_;  ///< until the same ones are found
  RecordSorter<SameLine> same_;
  bool has_same_ = false;
  mutable RecordTable<RecordId> names_;  ///< hashes of the custom_ids
};

/// How long answers are expected to be, where not all are to take all of their max_tokens.
struct ExpectedAnswers {
  int64_t tokens = 0;                 ///< of each, as far as max_tokens allows; 0: as `shares` has it
  std::vector<float> shares = {};     ///< of its max_tokens that an answer takes: those of known answers, in turn; empty: all
  int64_t num_known = 0, stride = 1;  ///< answers that add() was given; every stride-th is in `shares`
  static constexpr size_t kMaxShares = 16384;

  void add(float share);
  /// Of the `index`-th answer.
  int64_t operator()(int64_t index, int64_t max_tokens) const;
};

}  // namespace flexgen
