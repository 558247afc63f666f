#pragma once
// Shots: the examples that every prompt of a table shows, chosen once from a table of examples, in memory that goes by their number alone. One thread.

#include <cstdint>
#include <string>
#include <vector>

#include "tables/table_reader.h"

namespace flexgen {

/// An example: a row and its answer.
struct Shot {
  TableRow row;
  std::string answer;  ///< what its answer column says
};

struct Shots {
  std::vector<Shot> shots;
  std::vector<std::string> columns = {};  ///< of their table, as TableReader has it
  // Where rows of that very table are asked: none may see its own answer.
  std::vector<Shot> spares = {};
  std::vector<size_t> spare_of = {};  ///< for each shot, which spare takes part where the shot's own row is asked
};

/// How examples are chosen.
struct ShotChoice {
  int64_t count = 0;
  bool balanced = false;  ///< as many of each answer; a remainder goes to the first by name
  uint64_t seed = 0;
  bool with_spares = false;
};

/// Rows of `table`, in an order that seed, row numbers and count alone decide. Throws Error{user} if a row has no
/// such column, there are too few rows, or balanced ones have too many answers or too few rows of one.
Shots choose_shots(TableReader& table, const std::string& answer_column, const ShotChoice& choice);

}  // namespace flexgen
