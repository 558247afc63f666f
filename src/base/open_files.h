#pragma once
// How many files this process may have open at once (ulimit -n). Any thread, but for raise_open_files().

#include <cstdint>
#include <string>

namespace flexgen {

/// Raises the soft limit to the hard one: a usual soft limit is 1024, for programs that call select(), and the weights of a mixture may lie in more files. Before threads start.
void raise_open_files();

/// Throws Error{user} if `count` files more cannot be open beside those that are, and some that every run opens. `what` begins its sentence and names them, like
/// "DIR: these 2000 files".
void require_open_files(int64_t count, const std::string& what);

}  // namespace flexgen
