#pragma once
// An output that others touch while a job writes it: noticing, and saving what is open still. Changes nothing that others have put there. Any thread.

#include <cstdint>
#include <string>

namespace flexgen {

/// What became of an open output.
struct OutputState {
  enum Kind {
    kAsLeft,
    kGone,      ///< no file has its name
    kReplaced,  ///< its name is another file's now
    kMoved,     ///< it has another name, `now_at`
    kShorter,
    kLonger,
  } kind = kAsLeft;
  std::string now_at;
  int64_t size = 0;
  std::string reason;  ///< kGone: why its name cannot be looked up, where that is not because there is none
};

/// `size`: what its writer has made it.
OutputState look_at_output(const std::string& path, int descriptor, int64_t size);

/// Copies an open file to a new one: PATH.rescued (or PATH.rescued-2, ...), or where that can't be made, into the current directory or that of
/// temporary files. Returns its path. Throws Error{io} if that fails.
std::string rescue_output(const std::string& path, int descriptor);

}  // namespace flexgen
