#pragma once
// LogitEdits: what a request's parameters do to logits as its answer grows: penalties, biases, tokens that cannot be chosen. Definitions are vLLM's. One thread.

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "generation/request.h"

namespace flexgen {

class LogitEdits {
 public:
  LogitEdits() = default;
  /// `eos`: the model's end tokens. Tokens that are not below `vocab_size` are left alone. `request` must outlive it.
  LogitEdits(const Request& request, std::span<const int32_t> eos, int64_t vocab_size);

  /// Of the token behind `answer`, which must have grown since the last call alone. Each token once.
  std::vector<LogitEdit> next(std::span<const int32_t> answer);

 private:
  LogitEdit& edit_of(int32_t token);

  const Request* request_ = nullptr;
  int64_t vocab_size_ = 0;
  std::vector<int32_t> ends_;                    ///< cannot be chosen before min_tokens
  std::vector<LogitEdit> edits_;                 ///< of biases and penalties
  std::unordered_map<int32_t, size_t> places_;   ///< in edits_
  std::unordered_map<int32_t, int64_t> counts_;  ///< in the answer
  size_t counted_ = 0;                           ///< of the answer
};

}  // namespace flexgen
