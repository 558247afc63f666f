#pragma once
// ChoiceStore: finished choices of lines whose other choices are not, as they will stand in the record. A few MiB of them stay in memory; the rest goes to an unlinked
// temporary file, in blocks that are used again. One thread.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "batch/record_text.h"
#include "io/spilled_records.h"

namespace flexgen {

/// What a choice begins with in a record: {"index":0
std::string choice_front(int64_t index);

class ChoiceStore {
 public:
  static constexpr int64_t kDefaultMemory = 8 << 20;
  static constexpr int64_t kBlockBytes = 64 << 10;

  /// `directory`: as TemporaryFile's constructor has it.
  explicit ChoiceStore(const std::string& directory = "", int64_t memory_bytes = kDefaultMemory);

  void open(int64_t line, int64_t num_choices);
  /// Adds to choice `choice` of an open line. All of a choice comes before anything of another one of the line.
  void add(int64_t line, int64_t choice, std::string_view piece);
  /// All choices in order, with commas between them and this around them. As long as it lives the line must stay, and no choice be added to any.
  /// `picked`: these alone, in this order, each with its choice_front() before it; empty: all as they are.
  std::unique_ptr<RecordText> record(int64_t line, std::string before, std::string after, std::vector<int64_t> picked = {});
  void close(int64_t line);
  /// Bytes of choices in memory.
  int64_t held() const { return held_; }

 private:
  struct Where {
    int64_t offset = 0, bytes = 0;
  };
  struct Line {
    int64_t num_choices = 0;
    std::vector<Where> where;  ///< of each choice; of a line with many they are in many_, from first_where on
    int64_t first_where = -1;
    std::string tail;  ///< what is not in the file yet
    int64_t bytes_in_file = 0;
    std::vector<int64_t> blocks;
  };
  class Record;

  Where where(const Line& line, int64_t choice);
  void set_where(Line& line, int64_t choice, const Where& where);
  void spill(Line& line);
  size_t read(const Line& line, int64_t offset, char* data, size_t room);

  SpillPlace place_;
  int64_t memory_bytes_, held_ = 0;
  std::unordered_map<int64_t, Line> lines_;
  SpilledRecords<Where> many_;
  std::optional<TemporaryFile> file_;
  std::vector<int64_t> free_blocks_;
  int64_t num_blocks_ = 0, lines_in_file_ = 0;
};

}  // namespace flexgen
