#pragma once
// Names that nothing else has. Any thread.

#include <string>

#include "batch/batch_input.h"

namespace flexgen {

/// Drawn at random: unlike any other.
RecordId new_record_id();
/// `prefix` and 24 hex digits.
std::string new_id(const std::string& prefix);

}  // namespace flexgen
