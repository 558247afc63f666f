#include "tables/map_job.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>
#include <sstream>
#include <unordered_set>

#include "base/byte_order_mark.h"
#include "base/error.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/units.h"
#include "batch/answer_json.h"
#include "batch/batch_line.h"
#include "batch/chat_source.h"
#include "batch/grammar_fields.h"
#include "batch/job.h"
#include "batch/job_files.h"
#include "io/byte_source.h"
#include "io/checked_json.h"
#include "io/partial_json.h"
#include "io/same_file.h"
#include "io/whole_file.h"
#include "model/model.h"
#include "tables/judged_value.h"
#include "tables/table_writer.h"
#include "text/grammar/schema_options.h"
#include "text/jinja/json_values.h"
#include "text/unicode.h"

namespace flexgen {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr int64_t kMaxTextFileBytes = 16 << 20;  // of a template or a schema
constexpr int64_t kMaxMarkBytes = 4096;          // of the file that says what was written
constexpr size_t kHashDigits = 64;
constexpr size_t kMaxMapColumns = 65536;
constexpr int64_t kMaxRecordBytes = int64_t{1} << 30;

std::string file_of(const std::string& path, const char* flag) {
  std::string text = read_whole_file(path, kMaxTextFileBytes);
  if (!is_utf8(text)) fail_user("{} {}: this file is not UTF-8", flag, path);
  drop_byte_order_mark(&text);
  return text;
}

/// The dict that a text of JSON is, its numbers as they are written; none if it is anything else.
jinja::Value object_of(std::string_view text) {
  try {
    jinja::Value value = jinja::parse_json_value(text, kMaxRowValues, nullptr, jinja::Digits::kAsWritten);
    if (value.dict()) return value;
  } catch (const jinja::Failure&) {
  }
  return jinja::None();
}

/// The SHA-256 sums that a file of a job has, a line each; nothing if it is not such a file.
std::optional<std::vector<std::string>> hashes_in(const std::string& text) {
  std::vector<std::string> hashes;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    line = without_blanks(line);
    if (line.empty()) continue;
    if (line.size() != kHashDigits || line.find_first_not_of("0123456789abcdef") != std::string::npos) return std::nullopt;
    hashes.push_back(line);
  }
  return hashes;
}

bool holds(const std::vector<std::string>& hashes, const std::string& hash) { return std::find(hashes.begin(), hashes.end(), hash) != hashes.end(); }

std::string hash_of_file(const std::string& path) {
  FileBytes bytes(File::open(path, FileMode::kRead));
  Sha256 hash;
  std::string piece(1 << 20, '\0');
  while (const size_t count = bytes.read(piece.data(), piece.size())) hash.add(std::string_view(piece).substr(0, count));
  return Sha256::hex(hash.digest());
}

struct stat status_of(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) info.st_ino = 0;
  return info;
}

void set_time(const std::string& path, std::time_t time) {
  const timespec times[2] = {{time, 0}, {time, 0}};
  if (utimensat(AT_FDCWD, path.c_str(), times, 0) != 0) spdlog::debug("{}: its time cannot be set", path);
}

[[noreturn]] void fail_changed(const std::string& table) {
  fail_user("{} changed while its rows were answered; run the same command again: rows that are as they were keep their answers", table);
}

Truncation truncation_of(const std::string& name) { return name == "left" ? Truncation::kLeft : name == "right" ? Truncation::kRight : Truncation::kRefuse; }

}  // namespace

MapFiles::MapFiles(const std::string& output) : lines(output + ".lines.jsonl"), answers(output + ".answers.jsonl"), written(output + ".written") {}

MapJob::MapJob(const MapOptions& options, const std::string& model)
    : options_(options), files_(options.output), input_kind_(table_kind_of(options.input, "--input", true)),
      output_kind_(options.output.empty() ? input_kind_ : table_kind_of(options.output, "--output", false)) {
  fields_ = parse_json<OrderedJson>(options.sampling_json, "the sampling options");
  const std::string source = options.template_file.empty() ? options.prompt_template : file_of(options.template_file, "--template");
  Shots shots;
  if (!options.examples.empty()) {
    TableReader examples(options.examples, table_kind_of(options.examples, "--examples", true));
    shots = choose_shots(examples, options.answer_column.empty() ? options.output_column : options.answer_column,
                         {options.shots, options.balanced, options.seed, is_same_file(options.examples, options.input)});
  }
  const bool has_shots = !shots.shots.empty();
  prompts_.emplace(source, options.template_file.empty() ? "--prompt-template" : options.template_file, std::move(shots), options.system);
  // An answer ends where the next example would begin. JSON ends by itself, and may have empty lines in it.
  if (has_shots && !options.chat && !prompts_->places_shots() && options.choices.empty() && options.json_schema.empty() && !fields_.contains("stop"))
    fields_["stop"] = {"\n\n"};
  if (!options.json_schema.empty()) read_schema();
  if (options.json_schema.empty() || options.keeps_answer) added_.push_back(options.output_column);
  if (!added_.empty() && std::find(schema_fields_.begin(), schema_fields_.end(), added_.front()) != schema_fields_.end())
    fail_user("--output-column {}: --json-schema {} has a property of this name, which becomes a column too; give another name", options.output_column,
              options.json_schema);
  added_.insert(added_.end(), schema_fields_.begin(), schema_fields_.end());
  const Truncation truncation = truncation_of(options.truncate);
  if (options.choices.empty() && truncation == Truncation::kLeft) fields_["truncate_prompt_tokens"] = -1;
  const bool dry = options.dry_run > 0, counts_tokens = !dry && (!options.choices.empty() || truncation == Truncation::kRight);
  if (!options.chat_template_kwargs.empty()) fields_["chat_template_kwargs"] = parse_json<OrderedJson>(options.chat_template_kwargs, "--chat-template-kwargs");
  // With kwargs, one that the template never looks at is told once, and not by each row's record.
  const bool writes_chat = options.chat && (dry || !options.choices.empty() || !options.chat_template_kwargs.empty());
  if (counts_tokens || writes_chat) tokenizer_ = Tokenizer::load(model);
  if (writes_chat) chat_ = require_chat_template("--chat", model, options.chat_template, *tokenizer_);
  if (chat_) {
    kwargs_ = template_kwargs_of(options.chat_template_kwargs);
    Conversation conversation;
    conversation.variables = kwargs_;
    check_template_kwargs(*chat_, conversation);
  }
  if (counts_tokens) max_positions_ = Model::load(model, options.engine.model.ignored_config_fields)->config().max_positions;
  if (std::ssize(options.choices) > kMaxPromptsPerLine)
    fail_user("--choices: there are {}, and a row may have {} at most; leave some out", options.choices.size(), kMaxPromptsPerLine);
  if (!options.choices.empty() && !dry) choices_.emplace(options.choices, *tokenizer_, max_positions_, truncation);
  now_ = time_for_templates();
}

// With choices the date that a template tells is in the lines, as tokens: a job that goes on keeps it, whenever the table was last touched.
std::time_t MapJob::time_for_templates() const {
  try {
    if (choices_) return read_job_file(JobFiles(files_.answers).manifest, "").created_s;
  } catch (const Error&) {
    // There is none; or it is broken, which the job tells.
  }
  return created_of(status_of(options_.input).st_mtim.tv_sec);
}

void MapJob::read_schema() {
  const std::string text = file_of(options_.json_schema, "--json-schema");
  parse_checked_json(text, 200, "--json-schema " + options_.json_schema, "it", "correct it");
  const OrderedJson schema = parse_json<OrderedJson>(text, options_.json_schema);
  const OrderedJson* const object = target_of(schema, schema);
  const OrderedJson properties = object && object->is_object() ? object->value("properties", OrderedJson()) : OrderedJson();
  if (!properties.is_object() || properties.empty())
    fail_user("--json-schema {}: it must be the schema of an object with properties; each of these becomes a column", options_.json_schema);
  for (const auto& [name, property] : properties.items()) schema_fields_.push_back(name);
  try {
    if (options_.dry_run == 0) schema_grammar(text);  // each row's line would be refused for the same
  } catch (const Error& error) {
    fail_user("--json-schema {}: {}", options_.json_schema, error.what());
  }
  fields_["response_format"] = {{"type", "json_schema"}, {"json_schema", {{"name", "row"}, {"schema", schema}}}};
}

Conversation MapJob::conversation_of(const std::vector<Message>& messages) const {
  std::vector<jinja::Value> values;
  for (const Message& message : messages) values.push_back(jinja::make_dict({{"role", message.role}, {"content", message.content}}));
  Conversation conversation;
  conversation.messages = jinja::make_list(std::move(values));
  conversation.variables = kwargs_;
  return conversation;
}

std::optional<std::string> MapJob::conversation_text(const Conversation& conversation, std::string* why) const {
  try {
    chat_->check_all_is_written(conversation, now_);
    return chat_->render(conversation, now_);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUser) throw;
    *why = error.what();
    return std::nullopt;
  }
}

void MapJob::refuse_thoughts(const Conversation& conversation, const std::string& text) const {
  AnswerForm form;
  chat_->tell_form(conversation, text, &form);
  if (form.begins_in_thought || form.channels)
    fail_user(
        "--choices: the chat template has an answer begin with {}, and a choice would be judged as the first words of these; leave --choices or --chat out",
        form.channels ? "the name of a channel" : "thoughts");
}

std::string MapJob::within_bounds(std::string text) const {
  const auto most = static_cast<size_t>(kMaxTextBytes);
  if (text.size() <= most || options_.truncate == "refuse") return text;
  size_t at = options_.truncate == "right" ? most : text.size() - most;
  if (options_.truncate == "right") {
    while (is_continuation(text[at])) --at;
    text.resize(at);
  } else {
    while (is_continuation(text[at])) ++at;
    text.erase(0, at);
  }
  return text;
}

void MapJob::set_prompt(const std::string& text, OrderedJson* body) const {
  (*body)["prompt"] = text;
  if (options_.truncate != "right") return;
  std::vector<int32_t> tokens;
  try {
    tokens = tokenizer_->encode(text, true);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUser) throw;
    return;  // the line is refused for the same
  }
  const int64_t room = max_positions_ - fields_.value("max_tokens", int64_t{0});
  if (std::ssize(tokens) <= room || room < 1) return;
  tokens.resize(static_cast<size_t>(room));
  (*body)["prompt"] = tokens;
}

OrderedJson MapJob::choices_of(const std::string& text, const std::string& place) const {
  if (std::ssize(text) > kMaxTextBytes) return {{"prompt", text}};  // the line is refused for it
  try {
    return choices_->fields(text, options_.chat);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUser) throw;
    fail_user("{}: {}", place, error.what());
  }
}

std::optional<OrderedJson> MapJob::choices_of_conversation(const std::vector<Message>& messages, const std::string& place) const {
  const Conversation conversation = conversation_of(messages);
  std::string why;
  const std::optional<std::string> text = conversation_text(conversation, &why);
  if (!text) return std::nullopt;
  refuse_thoughts(conversation, *text);
  return choices_of(*text, place);
}

OrderedJson MapJob::body_of(const TableReader& table, const TableRow& row) const {
  OrderedJson body;
  std::string asked;  // for the seed
  if (options_.chat) {
    const std::vector<Message> messages = prompts_->messages(table, row);
    if (choices_)
      if (auto fields = choices_of_conversation(messages, table.place(row))) return *fields;
    // With choices: the line is refused for what the template says of it.
    body["messages"] = OrderedJson::array();
    for (const Message& message : messages) body["messages"].push_back({{"role", message.role}, {"content", message.content}});
    asked = body.dump();
  } else {
    asked = within_bounds(prompts_->text(table, row));
    if (choices_) return choices_of(asked, table.place(row));
    set_prompt(asked, &body);
  }
  body.update(fields_);
  // Rows draw each for themselves, wherever they stand in the table.
  if (fields_.value("temperature", 0.0) > 0) body["seed"] = seed_of(fmt::format("{} {}", options_.seed, asked)) >> 1;
  return body;
}

std::string MapJob::shown_conversation(const std::vector<Message>& messages) const {
  std::string why;
  const std::optional<std::string> text = conversation_text(conversation_of(messages), &why);
  return text ? *text : fmt::format("(refused: {})", why);
}

std::string MapJob::shown_prompts(int64_t count) {
  TableReader table(options_.input, input_kind_);
  TableRow row;
  std::string shown;
  forget_columns();
  for (int64_t i = 0; i < count && table.next(&row); ++i) {
    check_row(table, row);
    shown += fmt::format("row {}:\n{}\n\n", row.number, options_.chat ? shown_conversation(prompts_->messages(table, row)) : prompts_->text(table, row));
  }
  return shown;
}

void MapJob::check_output() const {
  if (options_.overwrite) return;
  const auto left = hashes_in(read_file_if_there(files_.written, kMaxMarkBytes));
  const bool begun = file_is_there(files_.written);
  if (!left)
    fail_user("--output {}: {} is there, where this job's own file would be, and is none of flexgen's; move it away, give another name, or --overwrite",
              options_.output, files_.written);
  if (!begun && file_is_there(files_.lines) && !file_is_there(JobFiles(files_.answers).manifest))
    fail_user("--output {}: {} is there, where this job's own lines would be, and no job has written it; move it away, give another name, or --overwrite",
              options_.output, files_.lines);
  if (!file_is_there(options_.output)) return;
  if (left->empty()) fail_user("--output {}: this file is there already, and is not of this job; give another name, or --overwrite", options_.output);
  if (!holds(*left, hash_of_file(options_.output)))
    fail_user("--output {}: this table was changed since this job wrote it; move it away, or give --overwrite", options_.output);
}

void MapJob::forget_columns() {
  columns_.clear();
  known_columns_.clear();
}

/// Refuses a row that has a column of an answer's name; of JSONL, collects the names of columns.
void MapJob::take_columns(const TableReader& table, const TableRow& row) {
  const auto refuse_taken = [&](const std::string& place, const std::string& name) {
    fail_user("{}: there is a column '{}' already, where answers would go; {}", place, name,
              schema_fields_.empty() ? "name another one with --output-column" : "rename it, or the schema's property");
  };
  const jinja::Dict* dict = row.object.dict();
  if (!dict) {
    if (!columns_.empty()) return;
    columns_ = table.columns();
    for (const std::string& name : added_)
      if (std::find(columns_.begin(), columns_.end(), name) != columns_.end()) refuse_taken(table.path(), name);
    const bool has_answers = std::find(columns_.begin(), columns_.end(), options_.answer_column) != columns_.end();
    if (!options_.examples.empty()) has_answers_ = has_answers;
    if (judges() && !has_answers) fail_user("--answer-column: {} has no column '{}'", table.path(), options_.answer_column);
    return;
  }
  for (const std::string& name : added_)
    if (dict->find(std::string_view(name))) refuse_taken(table.place(row), name);
  if (row.number == 1 && !options_.examples.empty()) has_answers_ = dict->find(std::string_view(options_.answer_column)) != nullptr;
  if (judges() && !dict->find(std::string_view(options_.answer_column)))
    fail_user("{}: there is no '{}', which --answer-column names", table.place(row), options_.answer_column);
  if (output_kind_ == TableKind::kJsonl) return;
  for (const auto& [key, value] : dict->items()) {
    const std::string& name = key.text()->bytes;
    if (known_columns_.contains(name)) continue;
    if (columns_.size() == kMaxMapColumns) fail_user("{}: rows have more than {} different names; write JSONL", table.place(row), kMaxMapColumns);
    known_columns_.insert(name);
    columns_.push_back(name);
  }
}

void MapJob::check_row(const TableReader& table, const TableRow& row) {
  take_columns(table, row);
  if (judges() && !schema_fields_.empty()) right_fields(table, row);
}

bool MapJob::is_choice(const jinja::Value& right) const {
  const bool is_text = right.text() || right.none();
  const std::string judged = is_text ? without_blanks(cell_text(right)) : judged_json(right);
  return std::any_of(options_.choices.begin(), options_.choices.end(),
                     [&](const std::string& choice) { return judged == (is_text ? without_blanks(choice) : judged_answer(choice)); });
}

bool MapJob::write_lines(const std::atomic<bool>& stop) {
  TableReader table(options_.input, input_kind_);
  lines_.emplace(files_.lines, ::write);
  TableRow row;
  forget_columns();
  int64_t rows = 0, no_choice = 0;
  std::string first_no_choice;
  for (; table.next(&row); ++rows) {
    if (stop) return false;
    check_row(table, row);
    lines_->add(json_text(body_of(table, row)) + "\n");
    if (!judges() || options_.choices.empty() || is_choice(right_answer(table, row))) continue;
    if (no_choice++ == 0) first_no_choice = cell_text(right_answer(table, row));
  }
  if (no_choice > 0)
    spdlog::warn("{}: the right answers of {} of {} rows are none of --choices ('{}', say), so that any answer to these counts as wrong", options_.input,
                 format_count(no_choice), format_count(rows), printable(std::string_view(first_no_choice).substr(0, 40)));
  if (rows == 0) fail_user("{} has no rows", options_.input);
  fingerprint_ = table.fingerprint();
  lines_->finish();
  set_time(lines_->opened_by(), now_);
  return !stop;
}

void MapJob::keep_lines() {
  check_output();                                                            // another process may have ended since it was looked at
  if (!file_is_there(files_.written)) write_whole_file(files_.written, "");  // from now on what is beside the table is this job's
  lines_->replace();
  lines_.reset();
}

// Where choices are scored, it has all tokens of all prompts. Else the names of its top logprobs are tokens, which may be called as these members.
nlohmann::json MapJob::record_of(const std::string& text, const std::string& line) const {
  const bool scored = choices_ && line.find("\"logprob_token_ids\"") == std::string::npos;
  if (!scored) return parse_json(text, files_.answers);
  static constexpr std::string_view kUnused[] = {"text", "tokens", "text_offset", "top_logprobs"};
  return parse_json_without(kUnused, text, files_.answers);
}

std::optional<std::vector<jinja::Value>> MapJob::answers_of(const nlohmann::json& record, const std::string& line) const {
  if (record.at("response").is_null()) return std::nullopt;
  const nlohmann::json& choices = record.at("response").at("body").at("choices");
  if (choices_) return std::vector<jinja::Value>{choices_->chosen(parse_json(line, files_.lines), choices)};
  const nlohmann::json& choice = choices.at(0);
  const nlohmann::json& said = options_.chat ? choice.at("message").at("content") : choice.at("text");
  if (options_.chat && !said.is_string()) return std::nullopt;  // it ended within its thoughts
  const std::string text = said.is_string() ? without_blanks(said.get<std::string>()) : "";
  std::vector<jinja::Value> values;
  if (schema_fields_.empty() || options_.keeps_answer) values.emplace_back(text);
  if (schema_fields_.empty()) return values;
  const jinja::Value object = object_of(text);
  if (!object.dict()) return std::nullopt;
  for (const std::string& name : schema_fields_) {
    const jinja::Value* value = object.dict()->find(std::string_view(name));
    values.push_back(value ? *value : jinja::None());
  }
  return values;
}

jinja::Value MapJob::right_answer(const TableReader& table, const TableRow& row) const {
  const std::optional<jinja::Value> right = value_as_written(row, columns_, options_.answer_column);
  if (!right) fail_changed(table.path());  // it was there when the lines were written
  return *right;
}

jinja::Value MapJob::right_fields(const TableReader& table, const TableRow& row) const {
  jinja::Value right = object_of(cell_text(right_answer(table, row)));
  if (!right.dict())
    fail_user("{}: '{}', which --answer-column names, is no JSON object; with --json-schema it has the right answer as one", table.place(row),
              options_.answer_column);
  return right;
}

void MapJob::judge_fields(const TableReader& table, const TableRow& row, const std::optional<std::vector<jinja::Value>>& answers, MapOutcome* outcome) const {
  const jinja::Value expected = right_fields(table, row);
  const size_t first = answers ? answers->size() - schema_fields_.size() : 0;  // behind the whole answer, where that is kept
  for (size_t i = 0; i < schema_fields_.size(); ++i) {
    const jinja::Value* right = expected.dict()->find(std::string_view(schema_fields_[i]));
    outcome->fields[i].second.add(right ? judged_text(*right) : "", answers ? std::optional(judged_text((*answers)[first + i])) : std::nullopt);
  }
}

void MapJob::put_in_place(RewrittenFile& file) const {
  const std::string hash = hash_of_file(file.opened_by()) + "\n";
  std::string before;
  if (const auto left = hashes_in(read_file_if_there(files_.written, kMaxMarkBytes)); left && !left->empty() && file_is_there(options_.output))
    if (const std::string there = hash_of_file(options_.output); holds(*left, there)) before = there + "\n";
  replace_whole_file(files_.written, before + hash);
  file.replace();
  if (!before.empty()) replace_whole_file(files_.written, hash);
}

MapOutcome MapJob::write_table() const {
  MapOutcome outcome;
  if (judges() && schema_fields_.empty()) outcome.metrics.emplace(options_.positive_label);
  if (judges())
    for (const std::string& name : schema_fields_) outcome.fields.emplace_back(name, Metrics(""));
  const std::string positive = judged_answer(options_.positive_label);
  TableReader table(options_.input, input_kind_);
  if (input_kind_ != TableKind::kJsonl && table.columns() != columns_) fail_changed(options_.input);
  FileBytes line_bytes(File::open(files_.lines, FileMode::kRead)), record_bytes(File::open(files_.answers, FileMode::kRead));
  LineReader lines(line_bytes, kMaxRecordBytes, files_.lines), records(record_bytes, kMaxRecordBytes, files_.answers);
  RewrittenFile file(options_.output, ::write);
  CsvForm form;
  if (input_kind_ != TableKind::kJsonl) form = table.form();
  TableWriter writer(file, output_kind_, form, columns_, added_);
  TableRow row;
  std::string line, text;
  for (; table.next(&row); ++outcome.rows) {
    if (!lines.next(&line) || !records.next(&text)) fail_user("{} has other rows than it had when this job began; run the same command again", options_.input);
    const nlohmann::json record = record_of(text, line);
    std::optional<std::vector<jinja::Value>> answers = answers_of(record, line);
    outcome.unanswered += !answers;
    outcome.unread += !answers && !record.at("response").is_null();
    if (outcome.metrics) {
      const jinja::Value right = right_answer(table, row);
      std::optional<std::string> answered;
      if (answers) answered = without_blanks(answer_text(answers->front()));
      // Of JSONL: what is no text may be written in several ways.
      if (right.text() || right.none()) {
        outcome.metrics->add(without_blanks(cell_text(right)), answered);
      } else {
        const auto label = [&](const std::string& judged) { return judged == positive ? options_.positive_label : judged; };
        if (answered) answered = label(judged_answer(*answered));
        outcome.metrics->add(label(judged_json(right)), answered);
      }
    }
    if (!outcome.fields.empty()) judge_fields(table, row, answers, &outcome);
    writer.add(row, answers ? *answers : std::vector<jinja::Value>(added_.size()));
  }
  if (table.fingerprint() != fingerprint_) fail_changed(options_.input);
  file.finish();
  put_in_place(file);
  return outcome;
}

}  // namespace flexgen
