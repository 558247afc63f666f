#pragma once
// Sparse attention of the cpu backend (FlexGen: Sheng et al., ICML 2023, section 5): all keys are read and scored, values of the best positions alone.
// One AttentionSparse a worker.

#include <vector>

#include <hwy/aligned_allocator.h>

#include "backend/cpu/attention.h"

namespace flexgen {

class AttentionSparse {
 public:
  /// Computes a sparse task's part of `out`. The chosen positions' keys and values are put together as a
  /// short sequence, which the dense kernel then attends to: a softmax over the chosen alone (top-k attention, Gupta et al. 2021).
  void attend(const AttentionTask& task);

 private:
  float* scratch(int64_t floats);

  std::vector<float> scores_, shares_;
  std::vector<int32_t> chosen_;
  std::vector<std::byte> memory_;
  std::vector<std::byte*> pages_;
  hwy::AlignedFreeUniquePtr<float[]> scratch_;
  int64_t scratch_size_ = 0;
};

}  // namespace flexgen
