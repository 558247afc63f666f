#pragma once
// Jobs that come from flags instead of files: a model by directory, config.json or name of a shape, and lengths drawn at random. One thread.

#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "model/config.h"
#include "tensor/dtype.h"

namespace flexgen {

/// config.json of a directory, of a file, or of a shape known by name. Throws Error{user} naming the shapes for anything else.
std::string config_text(const std::string& model);
/// Of the weights that a shape gets: --dtype bf16, f16 or f32; empty: bf16.
DType shape_dtype(const std::string& name);

/// (prompt, tokens to generate) of each sequence, uniform in the ranges. Throws Error{user} if the longest are more than the model takes.
std::vector<std::pair<int64_t, int64_t>> synthetic_lengths(const std::pair<int64_t, int64_t>& prompt, const std::pair<int64_t, int64_t>& gen, int64_t count,
                                                           const ModelConfig& config, std::mt19937_64& random);

/// What made-up prompts have in common, in levels: the outermost groups begin with `tokens[0]` tokens of their own, the `groups[1]` groups inside each go on with `tokens[1]`, and so on. Groups are prompts in a row, of
/// sizes that differ by one at most.
class PrefixLevels {
 public:
  /// `groups[i]`: of level i inside each group of the level before it. Their product is at most `num_prompts`.
  PrefixLevels(const std::vector<int64_t>& tokens, const std::vector<int64_t>& groups, int64_t num_prompts);
  /// Of a prompt, how many tokens are its groups', before its own.
  int64_t tokens() const;
  /// How many of them two prompts have in common.
  int64_t common_tokens(int64_t a, int64_t b) const;
  /// What a prompt has in common with its neighbours, which is what it has in common with any.
  int64_t shared_tokens(int64_t prompt) const;
  /// Where its levels end, as far as it has them in common with others: Request::shared_ends.
  std::vector<int64_t> shared_ends(int64_t prompt) const;
  /// The groups' tokens of a prompt, drawn anew for each, so that none is kept.
  std::vector<int32_t> draw(int64_t prompt, uint64_t seed, int64_t vocab_size) const;

 private:
  struct Level {
    int64_t tokens = 0, groups = 1;  ///< groups: in all
  };
  int64_t group_of(const Level& level, int64_t prompt) const { return prompt * level.groups / num_prompts_; }

  std::vector<Level> levels_;
  int64_t num_prompts_ = 0;
};

}  // namespace flexgen
