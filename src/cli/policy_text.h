#pragma once
// A policy in a few words, and for programs. Pure functions.

#include <nlohmann/json.hpp>
#include <string>

#include "schedule/policy.h"

namespace flexgen {

/// "3 buffers", or "2 buffers, 8 of weights".
std::string buffers_text(const Policy& policy);
/// "40 x 2 sequences, 208 tokens a micro-batch, 2 buffers, weights 0:14:86, KV cache 0:100:0, activations 0:100:0".
std::string policy_text(const Policy& policy);
/// Its sizes and shares, by their names in Policy.
nlohmann::ordered_json policy_json(const Policy& policy);

}  // namespace flexgen
