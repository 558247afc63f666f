#pragma once
// LineIndex: an input's lines by their ids, in bounded memory. One thread.

#include <cstdint>
#include <optional>
#include <string>

#include "batch/batch_input.h"
#include "io/spilled_records.h"

namespace flexgen {

class LineIndex {
 public:
  /// `directory`: as BatchInput::scan() has it.
  LineIndex(const BatchInput& input, const std::string& directory) : places_({directory, "the index of the input's ids"}) {
    RecordSorter<Place> sorter({directory, "the index of the input's ids"});
    for (int64_t i = 0; i < input.num_lines(); ++i) sorter.add({input.line(i).id, i});
    sorter.drain([&](const Place& place) {
      places_.push_back(place);
      return true;
    });
  }
  /// As BatchInput::line() counts.
  std::optional<int64_t> find(const RecordId& id) {
    const auto found = places_.find({id});
    return found ? std::optional(found->line) : std::nullopt;
  }

 private:
  struct Place {
    RecordId id{};
    int64_t line = 0;
    friend bool operator<(const Place& a, const Place& b) { return a.id < b.id; }
  };
  RecordTable<Place> places_;
};

}  // namespace flexgen
