#pragma once
// How many cores this process may use.

namespace flexgen {

/// Those of its affinity mask; at least one.
int usable_cores();

}  // namespace flexgen
