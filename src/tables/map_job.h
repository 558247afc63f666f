#pragma once
// MapJob: a table as a batch job: the lines that are made of its rows, and the table that is made of the lines' records. The files of it lie beside the output, so that a job that was stopped goes on.
// One thread; memory grows with no number of rows.

#include <atomic>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "batch/rewritten_file.h"
#include "tables/choice_prompt.h"
#include "tables/map_options.h"
#include "tables/metrics.h"
#include "tables/row_prompt.h"
#include "tables/table_reader.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace flexgen {

/// What a job with `output` keeps beside it.
struct MapFiles {
  explicit MapFiles(const std::string& output);
  std::string lines;    ///< a batch line a row
  std::string answers;  ///< their records, and beside them the job's manifest
  std::string written;  ///< the SHA-256 of the table as the job left it; while a new one takes its place, of both, a line each
};

/// What became of the rows.
struct MapOutcome {
  int64_t rows = 0, unanswered = 0, unread = 0;  ///< unread: of the unanswered, those whose answer does not fit the schema, or ends within thoughts
  std::optional<Metrics> metrics;
  std::vector<std::pair<std::string, Metrics>> fields;  ///< with a schema: of each of its properties
};

class MapJob {
 public:
  /// Reads templates, examples, schema and what is needed of the model's tokenizer. `model`: its folder. Throws Error{user}.
  MapJob(const MapOptions& options, const std::string& model);

  /// The first `count` prompts, as the model gets them but for its special tokens. Throws Error{user} for columns and right answers of these rows as write_lines() does.
  std::string shown_prompts(int64_t count);
  /// Throws Error{user} if the output is a table that this job did not leave so, unless it may be overwritten.
  void check_output() const;
  /// Writes the lines, to a file without a name. False if `stop` was set before that was done. Throws Error{user} with the row's number for a table, or a template, that is broken.
  bool write_lines(const std::atomic<bool>& stop);
  /// By which the lines can be read until keep_lines().
  std::string lines_path() const { return lines_->opened_by(); }
  /// Once the answers are locked, so that no other process has this job under way: check_output(), and the lines take their place.
  void keep_lines();
  /// Once all lines have their records, in their order, and before the answers are unlocked: writes the table, whole or not at all.
  MapOutcome write_table() const;
  const MapFiles& files() const { return files_; }

 private:
  nlohmann::ordered_json body_of(const TableReader& table, const TableRow& row) const;
  /// Without what of a text is too long for a line, at the side that --truncate cuts: turning text into tokens takes many times its size.
  std::string within_bounds(std::string text) const;
  void set_prompt(const std::string& text, nlohmann::ordered_json* body) const;
  /// Whether an answer may be right at all.
  bool is_choice(const jinja::Value& right) const;
  /// What asks for the choices behind a prompt. `place`: of its row, for messages.
  nlohmann::ordered_json choices_of(const std::string& text, const std::string& place) const;
  /// Nothing if the chat template does not take it.
  std::optional<nlohmann::ordered_json> choices_of_conversation(const std::vector<Message>& messages, const std::string& place) const;
  Conversation conversation_of(const std::vector<Message>& messages) const;
  /// Nothing if the chat template refuses it; then `*why` is what it says.
  std::optional<std::string> conversation_text(const Conversation& conversation, std::string* why) const;
  /// The same, or why the template refuses it.
  std::string shown_conversation(const std::vector<Message>& messages) const;
  void refuse_thoughts(const Conversation& conversation, const std::string& text) const;
  std::time_t time_for_templates() const;
  /// Throws Error{user} for what cannot be in the table of answers, or be what answers are compared with.
  void check_row(const TableReader& table, const TableRow& row);
  void forget_columns();
  void take_columns(const TableReader& table, const TableRow& row);
  void read_schema();
  /// Of a table that is finished. At any moment the file that says what was written has the sum of the table that is there, if that is this job's.
  void put_in_place(RewrittenFile& file) const;
  /// Whether answers are compared with those of a column. With a schema, examples may have it alone.
  bool judges() const { return !options_.answer_column.empty() && (schema_fields_.empty() || has_answers_); }
  /// What the row has in --answer-column.
  jinja::Value right_answer(const TableReader& table, const TableRow& row) const;
  /// The same with a schema: a dict. Throws Error{user} for anything else.
  jinja::Value right_fields(const TableReader& table, const TableRow& row) const;
  void judge_fields(const TableReader& table, const TableRow& row, const std::optional<std::vector<jinja::Value>>& answers, MapOutcome* outcome) const;
  /// What is needed of a record. `line`: what it answers.
  nlohmann::json record_of(const std::string& text, const std::string& line) const;
  /// A value for each added column; nothing if there is no answer that can be read.
  std::optional<std::vector<jinja::Value>> answers_of(const nlohmann::json& record, const std::string& line) const;

  const MapOptions& options_;
  MapFiles files_;
  std::optional<RewrittenFile> lines_;  ///< until they are kept
  TableKind input_kind_, output_kind_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::shared_ptr<const ChatTemplate> chat_;
  TemplateVariables kwargs_;
  std::time_t now_ = 0;  ///< that templates may tell, and the lines' last change
  int64_t max_positions_ = 0;
  std::optional<ChoicePrompts> choices_;
  std::optional<RowPrompts> prompts_;
  nlohmann::ordered_json fields_;                   ///< of all bodies alike
  std::vector<std::string> added_, schema_fields_;  ///< columns
  std::vector<std::string> columns_;                ///< of a table with a header; of JSONL all names that come up, where the output has a header
  std::unordered_set<std::string> known_columns_;   ///< of JSONL the same names
  bool has_answers_ = true;                         ///< the table has the column of right answers, or is to have it
  std::string fingerprint_;                         ///< of the table that the lines were made of
};

}  // namespace flexgen
