#pragma once
// Which lines of a batch are those of a shard: a function of the input, the model and the number of shards alone, so that shards that know nothing of each other agree. Bounded memory; one thread.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "batch/batch_input.h"
#include "batch/line_set.h"

namespace flexgen {

/// A part of the lines: lines_of_shard() says which.
struct Shard {
  int64_t index = 0, count = 1;
};

/// What a job's options say of how lines were dealt: shards of another way have other lines. It counts up where lines_of_shard() gives other lines.
inline constexpr const char *kDealing = "way of dealing lines to shards", *kDealt = "2";

/// Tokens to compute for a line: in all, and of these those that are not computed where the line before it in the order was.
struct LineCost {
  int64_t tokens = 0, shared = 0;
};

/// Deals lines to shards, in turns by their places in the input, or by pieces of the order in which lines that share stand together: whichever leaves the slowest shard less to compute.
/// In turns each shard computes nearly all that is shared.
class ShardSplit {
 public:
  /// `directory`: as BatchInput::scan() has it.
  explicit ShardSplit(int64_t num_shards, const std::string& directory = "");

  /// The next line of the order, and its place in the input.
  void add(int64_t line, const LineCost& cost);
  /// After the last line.
  void settle();
  bool by_pieces() const { return by_pieces_; }
  /// Tokens that the slowest shard computes.
  int64_t slowest() const { return by_pieces_ ? slowest_piece_ : slowest_in_turns_; }
  /// The places of a shard's lines in the input, in any order.
  void lines_of(int64_t shard, const std::function<void(int64_t line)>& take);

 private:
  struct Line {
    int64_t line = 0;
    LineCost cost;
  };
  /// All lines from `place` on, to the last, share at least so much with the one before.
  struct Least {
    int64_t place = 0, shared = 0;
  };
  int64_t least_shared_after(int64_t place) const;
  int64_t cut_pieces();

  int64_t num_shards_, tokens_ = 0;  ///< tokens_: of all in one piece
  bool any_shared_ = false, by_pieces_ = false;
  int64_t slowest_in_turns_ = 0, slowest_piece_ = 0;
  SpilledRecords<Line> order_;
  std::vector<Least> least_;              ///< of places up to the last one, both growing
  std::vector<int64_t> in_turns_, last_;  ///< a shard: what it computes in turns, and the place of its last line in the order
  std::vector<int64_t> cuts_;             ///< a shard: where its piece begins; then the end
};

/// The lines of a shard; all of them if there is one shard.
LineSet lines_of_shard(const BatchInput& input, const Shard& shard, const std::string& directory);

}  // namespace flexgen
