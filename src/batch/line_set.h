#pragma once
// LineSet: some of an input's lines, a bit for each line. LineWalk: through them in order. Bounded memory; one thread.

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "batch/batch_input.h"
#include "io/spilled_records.h"

namespace flexgen {

class LineSet {
 public:
  /// `directory`: as BatchInput::scan() has it.
  explicit LineSet(const std::string& directory = "") : words_({directory, "the list of lines to do"}) {}

  /// Whether the next line is in it.
  void add(bool in) {
    last_ |= uint64_t{in} << (num_lines_ % 64);
    count_ += in;
    if (++num_lines_ % 64 != 0) return;
    words_.push_back(last_);
    last_ = 0;
  }
  int64_t num_lines() const { return num_lines_; }
  /// Lines that are in it.
  int64_t count() const { return count_; }
  bool contains(int64_t line) const { return word(line / 64) >> (line % 64) & 1; }

  /// 64 lines, the first in the lowest bit.
  uint64_t word(int64_t index) const { return index < words_.size() ? words_[index] : last_; }
  int64_t num_words() const { return (num_lines_ + 63) / 64; }

 private:
  mutable SpilledRecords<uint64_t> words_;
  uint64_t last_ = 0;
  int64_t num_lines_ = 0, count_ = 0;
};

class LineWalk {
 public:
  /// Both must outlive it.
  LineWalk(const BatchInput& input, const LineSet& lines) : input_(input), lines_(lines) {}

  /// The next line of the set.
  std::optional<int64_t> next() {
    while (++at_ < lines_.num_lines()) {
      if (at_ % 64 == 0 && lines_.word(at_ / 64) == 0) {
        at_ += 63;
        continue;
      }
      if (!lines_.contains(at_)) continue;
      sequences_ += input_.line(at_).num_sequences;
      return at_;
    }
    at_ = lines_.num_lines();
    return std::nullopt;
  }
  /// Of what next() gave so far.
  int64_t sequences() const { return sequences_; }

 private:
  const BatchInput& input_;
  const LineSet& lines_;
  int64_t at_ = -1, sequences_ = 0;
};

}  // namespace flexgen
