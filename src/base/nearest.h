#pragma once
// The name that a typo was probably meant to be. Pure functions.

#include <string>
#include <string_view>
#include <vector>

namespace flexgen {

/// Steps from `a` to `b`: a character put in, left out, replaced, or two neighbours swapped.
int edit_distance(std::string_view a, std::string_view b);

/// The one of `names` that is nearest to `word`, by edits or as what `word` is the beginning of; '_' counts as '-' and capitals as small letters. Empty if none is near.
std::string nearest_name(std::string_view word, const std::vector<std::string>& names);

/// "; did you mean NAME?", or nothing.
std::string did_you_mean(std::string_view word, const std::vector<std::string>& names);

}  // namespace flexgen
