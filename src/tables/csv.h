#pragma once
// Csv: tables of RFC 4180 (and with tabs), read strictly from a stream in the memory of one row; and their fields written. One thread.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/byte_source.h"

namespace flexgen {

/// How a table of this kind is written; what a reader has found.
struct CsvForm {
  char delimiter = ',';
  bool crlf = false;  ///< lines end with CR LF
  bool mark = false;  ///< it begins with a byte order mark
};

/// What a row may hold, so that a quote that is never closed does not take the rest of a large file into memory.
inline constexpr int64_t kMaxRowBytes = 64 << 20;

/// The rows of a table, one after the other.
class CsvReader {
 public:
  /// Reads the header. `source` must live as long; `path` names the table in errors. Throws Error{user} for an empty table, a column without a name or with that of another, and as read() does.
  CsvReader(ByteSource& source, char delimiter, std::string path);

  const std::vector<std::string>& columns() const { return columns_; }
  const CsvForm& form() const { return form_; }
  /// The next row, as many fields as columns. False at the end. Blank lines are passed over, but in a table of one column, where they are empty fields. Throws Error{user} with the
  /// row's number and line for a quote that is not closed or stands where none may be, another number of fields, text that is not UTF-8, a row of more than kMaxRowBytes.
  bool read(std::vector<std::string>* fields);
  /// Of the last row, from 1, the header not counted.
  int64_t number() const { return number_; }

 private:
  enum class State { kFieldStart, kPlain, kQuoted, kQuoteInQuoted };
  /// Any fields up to a line end, or nothing at the end of the text.
  bool read_record(std::vector<std::string>* fields);
  bool fill();
  std::string place() const;
  void check_text(const std::vector<std::string>& fields) const;

  ByteSource& source_;
  std::string path_;
  CsvForm form_;
  std::vector<std::string> columns_;
  int64_t number_ = -1, line_ = 1, record_line_ = 1;  ///< number_: of the record that is read; -1: the header
  std::string buffer_;
  size_t at_ = 0, filled_ = 0;
  bool blank_ = false;     ///< the record was a line end alone
  bool after_cr_ = false;  ///< the last byte taken was a CR that ended a line: a LF belongs to it
};

/// A field as it stands in a table: in quotes where it has to be. `alone`: the only one of its row; an empty one is quoted then, as a blank line would be passed over.
std::string csv_field(std::string_view text, char delimiter, bool alone = false);

/// A row with its line end.
std::string csv_row(const std::vector<std::string>& fields, const CsvForm& form);

/// Whether all of it is valid UTF-8.
bool is_utf8(std::string_view text);

}  // namespace flexgen
