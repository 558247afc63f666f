#pragma once
// Regular expressions as xgrammar is to read them. Pure functions; any thread.

#include <string>
#include <string_view>

namespace flexgen {

/// Where the text is that a pattern describes.
enum class PatternPlace {
  kAnswer,      ///< the answer itself
  kJsonString,  ///< a string of JSON, between its quotes: a character that JSON escapes is none there
  kXmlValue,    ///< text that a mark ends: '<' is none there; `pattern` is one that was written for kJsonString
};

/// Of the counts of repetitions {n,m} together, each up to kMostCopies, as compiling takes a state for each and looks at the whole vocabulary there.
inline constexpr int64_t kMostCounts = 8192, kMostCopies = 256;

/// The same pattern (UTF-8) in ASCII, but for control characters, with all escapes, classes and '.' written in the one way that xgrammar 0.2.8 reads rightly: its \x takes all hexadecimal digits that
/// follow, and [\^a] is [^a]. Classes leave out surrogates, and in kJsonString '"', '\' and control characters. Groups, anchors and
/// repetitions stay. Throws Error{user} that names the place for what it does not know, may mean several things, or asks for a character that cannot come; where counts are more than kMostCounts (the same
/// repetition counts once; in kJsonString it is the characters that are written out, as they all become states); and where groups are nested more than 250 deep.
/// `characters`: how many it has with its repetitions written out; may be null.
std::string plain_pattern(std::string_view pattern, PatternPlace place, double* characters = nullptr);

}  // namespace flexgen
