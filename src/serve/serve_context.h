#pragma once
// ServeContext: what all calls need. Constant while the server runs, but for what is thread-safe by itself.

#include <cstdint>
#include <string>
#include <vector>

#include "batch/batch_line.h"
#include "serve/http_server.h"
#include "serve/metrics.h"
#include "serve/request_queue.h"

namespace flexgen {

struct ServeContext {
  ModelLimits limits;  ///< of one sequence: max_positions is what the cache takes
  std::string model_name;
  int64_t started_s = 0;  ///< when the server began, in Unix time
  int64_t most_body_bytes = kMaxLineBytes;
  bool shares_prefixes = true;
  RequestQueue& queue;
  ServeMetrics& metrics;
};

/// The limits for a call that is taken now.
ModelLimits limits_now(const ServeContext& context);

/// Throws ApiError if a call names another model; empty: it names none.
void check_model(const ServeContext& context, const std::string& model);

}  // namespace flexgen
