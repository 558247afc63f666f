#pragma once
// FileCalls: the calls of /v1/files and /v1/batches. Any thread.

#include "serve/batch_desk.h"
#include "serve/file_store.h"
#include "serve/http_server.h"

namespace flexgen {

struct FileCalls {
  FileStore& files;
  BatchDesk& batches;
  int64_t most_file_bytes = 0;

  /// Whether the path is one of these; then it is answered. Throws ApiError.
  bool handle(HttpCall& call) const;
};

}  // namespace flexgen
