#pragma once
// Reads an output as it lies on the disk: which records are in it, and what else. Changes nothing. One thread; flat in memory.

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "batch/kept_record.h"

namespace flexgen {

/// What was found in an output. Pure data.
struct OutputScan {
  /// Lines of one kind: how many there are, and the first of them.
  struct Lines {
    static constexpr size_t kNamed = 20;
    int64_t count = 0;
    std::vector<int64_t> numbers;
    std::string reason;  ///< of the first
    void add(int64_t number, const std::string& why);
  };
  int64_t size = 0;             ///< of the file when it was read
  int64_t keep = 0;             ///< bytes at its front that stay: all but a torn record at its end and a tail of zeros
  bool needs_line_end = false;  ///< the last of the bytes that stay is no line feed
  bool stopped = false;
  Lines foreign;  ///< neither a record nor blank
  Lines damaged;  ///< records that do not fit their checksums
};

/// Where a record lies.
struct RecordPlace {
  int64_t number = 0;             ///< of its line, from 1
  int64_t offset = 0, bytes = 0;  ///< without the line end
  bool as_written = false;        ///< id and custom_id stand at its front and the checksum at its end, byte for byte as flexgen writes them
};

/// Calls `take` with each record; a last line without a line end may be a record too. Ends early, with what it has, once `stop` is set (within a line, too). Throws Error{io}.
OutputScan scan_output(int descriptor, const std::string& path, const std::atomic<bool>& stop,
                       const std::function<void(const KeptRecord&, const RecordPlace&)>& take);

}  // namespace flexgen
