#include "tables/csv.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/byte_order_mark.h"
#include "base/error.h"
#include "base/units.h"
#include "text/unicode.h"

namespace flexgen {
namespace {

constexpr size_t kCsvPieceBytes = 256 << 10, kMaxColumns = 65536;

}  // namespace

bool is_utf8(std::string_view text) { return invalid_utf8_at(text) == std::string_view::npos; }

CsvReader::CsvReader(ByteSource& source, char delimiter, std::string path) : source_(source), path_(std::move(path)), buffer_(kCsvPieceBytes, '\0') {
  form_.delimiter = delimiter;
  filled_ = read_fully(source_, buffer_.data(), buffer_.size());
  if (std::string_view(buffer_).substr(0, filled_).starts_with(kByteOrderMark)) {
    form_.mark = true;
    at_ = kByteOrderMark.size();
  }
  if (!read_record(&columns_)) fail_user("{} is empty: its first line must name the columns", path_);
  if (after_cr_ && (at_ < filled_ || fill()) && buffer_[at_] == '\n') {
    ++at_;
    after_cr_ = false;
    form_.crlf = true;
  }
  check_text(columns_);
  std::set<std::string> seen;
  for (size_t i = 0; i < columns_.size(); ++i) {
    // One without a name is what pandas writes its index into.
    if (columns_.size() == 1 && columns_[i].empty()) fail_user("{}: the first line is empty; it must name the columns", path_);
    if (seen.insert(columns_[i]).second) continue;
    if (columns_[i].empty()) fail_user("{}: column {} of the header is not the only one without a name; name all but one", path_, i + 1);
    fail_user("{}: two columns are named '{}'; rename one", path_, columns_[i]);
  }
}

bool CsvReader::read(std::vector<std::string>* fields) {
  ++number_;
  if (number_ == 0) number_ = 1;
  do {
    if (!read_record(fields)) return false;
  } while (blank_ && columns_.size() > 1);
  check_text(*fields);
  if (fields->size() != columns_.size())
    fail_user("{} has {} fields, and there are {} columns; put fields with {} or line ends in them into double quotes", place(), fields->size(),
              columns_.size(), form_.delimiter == '\t' ? "tabs" : "commas");
  return true;
}

bool CsvReader::fill() {
  at_ = 0;
  filled_ = source_.read(buffer_.data(), buffer_.size());
  return filled_ > 0;
}

std::string CsvReader::place() const {
  return number_ < 0 ? fmt::format("{}: the header", path_) : fmt::format("{} row {} (line {})", path_, number_, record_line_);
}

void CsvReader::check_text(const std::vector<std::string>& fields) const {
  for (size_t i = 0; i < fields.size(); ++i)
    if (!is_utf8(fields[i])) fail_user("{}: column {} is not UTF-8; convert the table, for instance with iconv -f WINDOWS-1252 -t UTF-8", place(), i + 1);
}

bool CsvReader::read_record(std::vector<std::string>* fields) {
  fields->clear();
  State state = State::kFieldStart;
  std::string field;
  int64_t bytes = 0;
  bool any = false;
  const auto end_field = [&] {
    if (fields->size() == kMaxColumns) fail_user("{} has more than {} fields", place(), kMaxColumns);
    fields->push_back(std::move(field));
    field.clear();
    state = State::kFieldStart;
  };
  record_line_ = line_;
  for (;;) {
    if (at_ == filled_ && !fill()) {
      after_cr_ = false;
      if (state == State::kQuoted) fail_user("{}: a double quote is opened that nothing closes", place());
      if (!any) return false;
      blank_ = false;
      end_field();
      return true;
    }
    const char c = buffer_[at_];
    if (std::exchange(after_cr_, false) && c == '\n') {
      ++at_;
      continue;
    }
    // A run of ordinary characters at once.
    if (state == State::kPlain || state == State::kQuoted) {
      const char* const from = buffer_.data() + at_;
      const char* const end = buffer_.data() + filled_;
      const char* to = from;
      if (state == State::kQuoted) to = std::find_if(from, end, [](char d) { return d == '"' || d == '\n' || d == '\r'; });
      else to = std::find_if(from, end, [&](char d) { return d == '"' || d == '\n' || d == '\r' || d == form_.delimiter; });
      bytes += to - from;
      if (bytes > kMaxRowBytes)
        fail_user("{} has more than {}{}", place(), format_bytes(kMaxRowBytes), state == State::kQuoted ? "; is a double quote not closed?" : "; split it");
      field.append(from, to);
      at_ += static_cast<size_t>(to - from);
      if (to != from) continue;
    }
    ++at_;
    ++bytes;
    if (state == State::kQuoted) {
      if (c == '"') {
        state = State::kQuoteInQuoted;
      } else {
        if (c == '\n') ++line_;
        field += c;
      }
      continue;
    }
    if (c == '\n' || c == '\r') {
      ++line_;
      after_cr_ = c == '\r';
      blank_ = !any;
      end_field();
      return true;
    }
    any = true;
    if (c == form_.delimiter) {
      end_field();
      continue;
    }
    if (state == State::kQuoteInQuoted) {
      if (c != '"')
        fail_user("{}: text comes after the double quote that closes field {}; write a double quote within a field twice", place(), fields->size() + 1);
      field += '"';
      state = State::kQuoted;
      continue;
    }
    if (c == '"') {
      if (state == State::kFieldStart) {
        state = State::kQuoted;
        continue;
      }
      // Tables with tabs are written with bare quotes inside of fields as often as not.
      if (form_.delimiter != '\t')
        fail_user("{}: field {} has a double quote and does not begin with one; put the field into double quotes, and write those within it twice", place(),
                  fields->size() + 1);
    }
    field += c;
    state = State::kPlain;
  }
}

std::string csv_field(std::string_view text, char delimiter, bool alone) {
  // In front of a table a byte order mark would be none of the first name.
  const bool plain =
      !text.starts_with(kByteOrderMark) && text.find_first_of("\"\r\n") == std::string_view::npos && text.find(delimiter) == std::string_view::npos;
  if (plain && !(alone && text.empty())) return std::string(text);
  std::string quoted = "\"";
  for (char c : text) {
    if (c == '"') quoted += '"';
    quoted += c;
  }
  return quoted + '"';
}

std::string csv_row(const std::vector<std::string>& fields, const CsvForm& form) {
  std::string row;
  for (size_t i = 0; i < fields.size(); ++i) {
    if (i > 0) row += form.delimiter;
    row += csv_field(fields[i], form.delimiter, fields.size() == 1);
  }
  return row + (form.crlf ? "\r\n" : "\n");
}

}  // namespace flexgen
