#include "tables/table_reader.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <filesystem>

#include "base/byte_order_mark.h"
#include "base/error.h"
#include "base/units.h"
#include "batch/batch_line.h"
#include "batch/input_form.h"
#include "io/checked_json.h"
#include "text/jinja/json_values.h"
#include "text/jinja/print.h"

namespace flexgen {
namespace {

constexpr size_t kLinePieceBytes = 256 << 10;

std::string ending_of(std::filesystem::path path, bool may_be_packed) {
  const auto lower = [](std::string text) {
    for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return text;
  };
  std::string ending = lower(path.extension().string());
  if (may_be_packed && (ending == ".gz" || ending == ".zst")) ending = lower(path.stem().extension().string());
  return ending;
}

/// JSON that is laid out otherwise (an array, objects over several lines) as an object a line; null: it is so already.
std::unique_ptr<ByteSource> laid_out(TableKind kind, FrontBytes& text, const std::string& path) {
  const std::string_view front = text.front();
  if (front.starts_with("PAR1")) fail_user("{} is a Parquet file, whatever its name says; python3 tools/parquet_table.py converts it", path);
  if (front.starts_with("PK\x03\x04")) fail_user("{} is a zip archive or a spreadsheet; unpack it, or save it as CSV (UTF-8)", path);
  if (const std::string what = binary_form(front, path); !what.empty()) fail_user("{} is no table: {}", path, what);
  if (kind != TableKind::kJsonl) return nullptr;
  const TextForm form = text_form(text, static_cast<size_t>(kMaxLineBytes));
  if (form == TextForm::kLines) return nullptr;
  return form == TextForm::kCarriageReturns ? returns_as_line_ends(text) : values_as_lines(text, form, path);
}

/// Whether its names are "0", "1" and so on.
bool counts_rows(const jinja::Dict& column) {
  size_t row = 0;
  return std::all_of(column.items().begin(), column.items().end(),
                     [&](const jinja::Dict::Item& cell) { return cell.first.text()->bytes == std::to_string(row++); });
}

/// Whether all members are objects with the same names, as where one object is the table, by columns or by rows. A single one may be a column of a row.
bool holds_table(const jinja::Dict& table) {
  const jinja::Dict* first = table.items().empty() ? nullptr : table.items().front().second.dict();
  if (!first || first->items().empty()) return false;
  if (table.items().size() == 1 && !counts_rows(*first) && !counts_rows(table)) return false;
  return std::all_of(table.items().begin(), table.items().end(), [&](const jinja::Dict::Item& member) {
    const jinja::Dict* inner = member.second.dict();
    return inner && inner->items().size() == first->items().size() &&
           std::all_of(inner->items().begin(), inner->items().end(),
                       [&](const jinja::Dict::Item& cell) { return first->find(std::string_view(cell.first.text()->bytes)) != nullptr; });
  });
}

[[noreturn]] void refuse_columns(const std::string& path) {
  fail_user("{} is one object that holds the table by columns, as pandas writes it: write a row each, with df.to_json(path, orient=\"records\", lines=True)",
            path);
}

}  // namespace

TableKind table_kind_of(const std::string& path, const char* flag, bool may_be_packed) {
  const std::string ending = ending_of(path, may_be_packed);
  if (ending == ".csv") return TableKind::kCsv;
  if (ending == ".tsv" || ending == ".tab") return TableKind::kTsv;
  if (ending == ".jsonl" || ending == ".ndjson" || (may_be_packed && ending == ".json")) return TableKind::kJsonl;
  if (ending == ".parquet")
    fail_user(
        "{} {}: Parquet is read and written by tools/parquet_table.py alone: python3 tools/parquet_table.py FROM TO converts between it and .jsonl or .csv (needs PyPI pyarrow)",
        flag, path);
  if (ending == ".xlsx" || ending == ".xls" || ending == ".ods")
    fail_user("{} {}: a spreadsheet; save it as CSV (UTF-8) in the program that made it", flag, path);
  fail_user("{} {}: the name must end in .csv, .tsv or .jsonl{}, which says what the table is", flag, path,
            may_be_packed ? " (also .json, and with .gz or .zst behind it)" : "");
}

bool LineReader::next(std::string* line) {
  line->clear();
  bool any = false;
  for (;;) {
    if (at_ == filled_) {
      if (buffer_.empty()) buffer_.resize(kLinePieceBytes);
      at_ = 0;
      filled_ = source_.read(buffer_.data(), buffer_.size());
      if (filled_ == 0) break;
    }
    if (!any) ++number_;
    any = true;
    const char* from = buffer_.data() + at_;
    const void* end = std::memchr(from, '\n', filled_ - at_);
    const size_t count = end ? static_cast<size_t>(static_cast<const char*>(end) - from) : filled_ - at_;
    if (std::ssize(*line) + static_cast<int64_t>(count) > most_) fail_user("{} line {} is longer than {}", path_, number_, format_bytes(most_));
    line->append(from, count);
    at_ += count + (end ? 1 : 0);
    if (end) break;
  }
  if (line->ends_with('\r')) line->pop_back();
  return any;
}

size_t TableReader::HashedBytes::read(char* data, size_t room) {
  const size_t count = source.read(data, room);
  hash.add({data, count});
  return count;
}

TableReader::TableReader(const std::string& path, TableKind kind)
    : path_(path), kind_(kind), file_(File::open(path, FileMode::kRead)), laid_out_(laid_out(kind, file_.text(), path)),
      bytes_(laid_out_ ? *laid_out_ : file_.text()) {
  if (laid_out_) {
    lines_.emplace(bytes_, kMaxRowBytes, path);
    return;
  }
  if (kind == TableKind::kJsonl) lines_.emplace(bytes_, kMaxRowBytes, path);
  else csv_.emplace(bytes_, kind == TableKind::kTsv ? '\t' : ',', path);
}

const std::vector<std::string>& TableReader::columns() const {
  static const std::vector<std::string> kNone;
  return csv_ ? csv_->columns() : kNone;
}

std::string TableReader::place(const TableRow& row) const { return fmt::format("{} row {}", path_, row.number); }

bool TableReader::next(TableRow* row) {
  if (lines_) return next_object(row);
  if (!csv_->read(&row->cells)) return false;
  row->number = csv_->number();
  return true;
}

bool TableReader::next_object(TableRow* row) {
  std::string& line = row->json;
  size_t begin = 0;
  do {
    if (!lines_->next(&line)) {
      if (number_ == 1 && holds_columns_) refuse_columns(path_);
      return false;
    }
    if (lines_->number() == 1) drop_byte_order_mark(&line);
    begin = line.find_first_not_of(" \t\r");
  } while (begin == std::string::npos);
  line.erase(line.find_last_not_of(" \t\r") + 1);
  line.erase(0, begin);
  row->number = ++number_;
  const auto refuse_row = [&](const std::string& why) { fail_user("{} row {} (line {}): {}", path_, row->number, lines_->number(), why); };
  if (!is_utf8(line)) refuse_row("it is not UTF-8");
  std::string twice;
  try {
    row->object = jinja::parse_json_value(line, kMaxRowValues, &twice);
  } catch (const jinja::Failure& failure) {
    refuse_row(failure.what());
  }
  if (!twice.empty()) refuse_row(fmt::format("it has '{}' twice; rename one", printable(twice)));
  if (!row->object.dict()) refuse_row("it is no JSON object; a row is one, like {\"name\": \"value\"}");
  if (number_ == 1) holds_columns_ = holds_table(*row->object.dict());
  return true;
}

std::optional<jinja::Value> value_of(const TableRow& row, const std::vector<std::string>& columns, const std::string& name) {
  if (const jinja::Dict* dict = row.object.dict()) {
    const jinja::Value* found = dict->find(std::string_view(name));
    return found ? std::optional(*found) : std::nullopt;
  }
  const auto column = std::find(columns.begin(), columns.end(), name);
  if (column == columns.end()) return std::nullopt;
  return jinja::Value(row.cells[static_cast<size_t>(column - columns.begin())]);
}

std::optional<jinja::Value> value_as_written(const TableRow& row, const std::vector<std::string>& columns, const std::string& name) {
  if (!row.object.dict()) return value_of(row, columns, name);
  const jinja::Value written = jinja::parse_json_value(row.json, kMaxRowValues, nullptr, jinja::Digits::kAsWritten);
  const jinja::Value* found = written.dict()->find(std::string_view(name));
  return found ? std::optional(*found) : std::nullopt;
}

std::string cell_text(const jinja::Value& value) {
  if (value.none()) return "";
  if (const jinja::Text* text = value.text()) return text->bytes;
  return jinja::to_json(value, {});
}

}  // namespace flexgen
