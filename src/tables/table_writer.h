#pragma once
// TableWriter: rows with the columns that answers add, written as CSV, TSV or JSONL. One thread.

#include <string>
#include <vector>

#include "batch/rewritten_file.h"
#include "tables/table_reader.h"

namespace flexgen {

class TableWriter {
 public:
  /// `columns`: of the rows, `added`: of the answers. `form`: line ends and mark of a table with a header. `file` must live as long. Writes the header, if there is one.
  TableWriter(RewrittenFile& file, TableKind kind, CsvForm form, std::vector<std::string> columns, const std::vector<std::string>& added);

  /// `answers`: a value for each added column; none: an empty cell. Numbers keep the digits that they are written with. Values of JSONL rows stay as they are written where the table is JSONL too.
  void add(const TableRow& row, const std::vector<jinja::Value>& answers);

 private:
  std::string object_line(const TableRow& row, const std::vector<jinja::Value>& answers) const;

  RewrittenFile& file_;
  TableKind kind_;
  CsvForm form_;
  std::vector<std::string> columns_, added_;
};

/// An answer's value as the text of a cell.
std::string answer_text(const jinja::Value& value);

}  // namespace flexgen
