#pragma once
// TableReader: the rows of a table, CSV, TSV or JSONL, also compressed or in UTF-16, one after the other in the memory of one row. One thread.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/sha256.h"
#include "batch/unpacked_file.h"
#include "tables/csv.h"
#include "text/jinja/value.h"

namespace flexgen {

inline constexpr int64_t kMaxRowValues = 200'000;  ///< of a row of JSONL

/// CSV, TSV and lines of JSON objects.
enum class TableKind { kCsv, kTsv, kJsonl };
/// By the name's ending, before that of a compression if `may_be_packed`. Throws Error{user} that says which there are and how others are converted; `flag` is for the message.
TableKind table_kind_of(const std::string& path, const char* flag, bool may_be_packed);

/// A row of a table of any kind.
struct TableRow {
  int64_t number = 0;              ///< from 1
  std::vector<std::string> cells;  ///< of a table with a header, in its order
  jinja::Value object;             ///< of JSONL: a dict; None of others
  std::string json;                ///< of JSONL: as it is written
};

/// Lines of a text, without their ends (LF, CR LF).
class LineReader {
 public:
  /// `source` must live as long. A line of more than `most` bytes throws Error{user} with its number.
  LineReader(ByteSource& source, int64_t most, std::string path) : source_(source), most_(most), path_(std::move(path)) {}
  bool next(std::string* line);
  int64_t number() const { return number_; }

 private:
  ByteSource& source_;
  int64_t most_, number_ = 0;
  std::string path_, buffer_;
  size_t at_ = 0, filled_ = 0;
};

class TableReader {
 public:
  /// Throws Error{user} for a table that is none, Error{io}.
  TableReader(const std::string& path, TableKind kind);

  const std::string& path() const { return path_; }
  TableKind kind() const { return kind_; }
  /// Of a table with a header; of JSONL none are known.
  const std::vector<std::string>& columns() const;
  const CsvForm& form() const { return csv_->form(); }
  /// False at the end. Throws Error{user} with the row's number.
  bool next(TableRow* row);
  /// "t.csv row 7".
  std::string place(const TableRow& row) const;
  /// SHA-256 of the text, once next() has returned false.
  std::string fingerprint() { return Sha256::hex(bytes_.hash.digest()); }

 private:
  class HashedBytes : public ByteSource {
   public:
    explicit HashedBytes(ByteSource& from) : source(from) {}
    size_t read(char* data, size_t room) override;
    ByteSource& source;
    Sha256 hash;
  };
  bool next_object(TableRow* row);

  std::string path_;
  TableKind kind_;
  UnpackedFile file_;
  std::unique_ptr<ByteSource> laid_out_;  ///< null: rows are those of the file
  HashedBytes bytes_;
  std::optional<CsvReader> csv_;
  std::optional<LineReader> lines_;
  int64_t number_ = 0;
  bool holds_columns_ = false;  ///< the first object looks like a whole table
};

/// What a row has under a name, for templates; none if it has no such column.
std::optional<jinja::Value> value_of(const TableRow& row, const std::vector<std::string>& columns, const std::string& name);
/// The same with numbers as they are written, and not as templates compute with them.
std::optional<jinja::Value> value_as_written(const TableRow& row, const std::vector<std::string>& columns, const std::string& name);
/// A value as the text of a cell: a text as it is, None as nothing, others as JSON.
std::string cell_text(const jinja::Value& value);

}  // namespace flexgen
