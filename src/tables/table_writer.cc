#include "tables/table_writer.h"

#include <utility>

#include "base/byte_order_mark.h"
#include "batch/answer_json.h"
#include "text/jinja/json_values.h"
#include "text/jinja/print.h"

namespace flexgen {
namespace {

std::string json_of_text(const std::string& text) { return json_text(nlohmann::ordered_json(text)); }
std::string json_of(const jinja::Value& value) { return jinja::to_json(value, {.between_items = ",", .behind_key = ":"}); }

}  // namespace

std::string answer_text(const jinja::Value& value) {
  if (value.none()) return "";
  return value.text() ? value.text()->bytes : json_of(value);
}

TableWriter::TableWriter(RewrittenFile& file, TableKind kind, CsvForm form, std::vector<std::string> columns, const std::vector<std::string>& added)
    : file_(file), kind_(kind), form_(form), columns_(std::move(columns)), added_(added) {
  if (kind_ == TableKind::kJsonl) return;
  form_.delimiter = kind_ == TableKind::kTsv ? '\t' : ',';
  if (form_.mark) file_.add(kByteOrderMark);
  std::vector<std::string> header = columns_;
  header.insert(header.end(), added_.begin(), added_.end());
  file_.add(csv_row(header, form_));
}

void TableWriter::add(const TableRow& row, const std::vector<jinja::Value>& answers) {
  if (kind_ == TableKind::kJsonl) {
    file_.add(object_line(row, answers));
    return;
  }
  std::vector<std::string> cells = row.cells;
  if (row.object.dict()) {
    const jinja::Value written = jinja::parse_json_value(row.json, kMaxRowValues, nullptr, jinja::Digits::kAsWritten);  // which prompts compute with otherwise
    cells.clear();
    for (const std::string& column : columns_) {
      const jinja::Value* value = written.dict()->find(std::string_view(column));
      cells.push_back(value ? cell_text(*value) : "");
    }
  }
  for (const jinja::Value& answer : answers) cells.push_back(answer_text(answer));
  file_.add(csv_row(cells, form_));
}

std::string TableWriter::object_line(const TableRow& row, const std::vector<jinja::Value>& answers) const {
  std::string line;
  const jinja::Dict* dict = row.object.dict();
  if (dict) {
    line = row.json.substr(0, row.json.rfind('}'));
  } else {
    line = "{";
    for (size_t i = 0; i < columns_.size(); ++i) line += fmt::format("{}{}: {}", i > 0 ? ", " : "", json_of_text(columns_[i]), json_of_text(row.cells[i]));
  }
  bool first = dict ? dict->items().empty() : columns_.empty();
  for (size_t i = 0; i < added_.size(); ++i)
    line += fmt::format("{}{}: {}", std::exchange(first, false) ? "" : ", ", json_of_text(added_[i]), json_of(answers[i]));
  return line + "}\n";
}

}  // namespace flexgen
