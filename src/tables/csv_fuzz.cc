// Fuzz target: any bytes as a table. What is read is written and read again: the same.

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "base/error.h"
#include "tables/csv.h"

namespace {

/// Bytes in pieces of changing sizes.
class Pieces : public flexgen::ByteSource {
 public:
  explicit Pieces(std::string_view text) : text_(text) {}
  size_t read(char* data, size_t room) override {
    const size_t count = text_.copy(data, std::min(room, 1 + at_ % 7), at_);
    at_ += count;
    return count;
  }

 private:
  std::string_view text_;
  size_t at_ = 0;
};

using Table = std::vector<std::vector<std::string>>;

Table read_table(std::string_view text, char delimiter, flexgen::CsvForm* form) {
  Pieces source(text);
  flexgen::CsvReader reader(source, delimiter, "fuzz");
  Table table{reader.columns()};
  for (std::vector<std::string> row; reader.read(&row);) {
    if (row.size() != table.front().size()) std::abort();
    table.push_back(row);
  }
  *form = reader.form();
  return table;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (char delimiter : {',', '\t'}) {
    Table table;
    flexgen::CsvForm form;
    try {
      table = read_table(text, delimiter, &form);
    } catch (const flexgen::Error&) {
      continue;
    }
    std::string written;
    for (const auto& row : table) written += flexgen::csv_row(row, form);
    if (read_table(written, delimiter, &form) != table) std::abort();
  }
  return 0;
}
