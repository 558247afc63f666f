#pragma once
// LineOrder: the lines of a job in the order in which they are given out: lines whose prompts begin alike come one after the other, so that what they have in common is computed once, used by all
// and dropped; and of lines that ask for the same, where nothing is drawn, one is given out and the others get its choices. Answers keep their lines' ids. Bounded memory; one thread.

#include <cstdint>
#include <string>

#include "batch/line_set.h"
#include "io/spilled_records.h"

namespace flexgen {

/// A line that is given out, and what its prompts share with others. Pure data; counts are tokens.
struct LineToDo {
  int64_t line = 0;           ///< as BatchInput::line() counts them
  int64_t num_sequences = 0;  ///< that are computed
  int64_t prefix_tokens = 0;  ///< of its first prompt, what other lines to do have too; this and the others in whole kSharedGrain
  int64_t shared_tokens = 0;  ///< of these, what the line to do before it has
  int64_t usage_tokens = 0;   ///< what the line before it has in the order of the whole input, whatever of it is done: the same however often a job was stopped
  int64_t first_same = 0, num_same = 0;  ///< the lines that get its choices too: LineOrder::same()
  int64_t place = 0;                     ///< in the order
};

/// A line that gets another one's choices.
struct SameLineToDo {
  int64_t line = 0, usage_tokens = 0;  ///< as in LineToDo
};

class LineOrder {
 public:
  /// `shares`: whether prompts may share; else the order is the input's. `directory`: as BatchInput::scan() has it.
  LineOrder(const BatchInput& input, const LineSet& lines, bool shares, const std::string& directory);

  int64_t size() const { return lines_.size(); }
  LineToDo operator[](int64_t index) const { return lines_[index]; }
  /// Those of a line: from LineToDo::first_same on.
  SameLineToDo same(int64_t index) const { return same_[index]; }
  int64_t num_same() const { return same_.size(); }
  int64_t num_sequences() const { return num_sequences_; }
  bool shares() const { return shares_; }

 private:
  void add(const LineToDo& line);

  mutable SpilledRecords<LineToDo> lines_;
  mutable SpilledRecords<SameLineToDo> same_;
  int64_t num_sequences_ = 0;
  bool shares_;
};

/// What the lines ask for in all. `page_tokens`: of the KV cache, a multiple of kSharedGrain: sequences share whole pages.
Workload workload_of(const BatchInput& input, const LineOrder& lines, const ExpectedAnswers& expected = {}, int64_t page_tokens = kSharedGrain);

/// The same of all good lines of an input, for planning alone.
Workload workload_of_input(const BatchInput& input, bool shares, const ExpectedAnswers& expected, int64_t page_tokens, const std::string& directory = "");

}  // namespace flexgen
