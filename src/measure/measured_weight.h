#pragma once
// MeasuredWeight: a matrix to measure products with, of any type, in memory that is counted as a job's. One thread.

#include <memory>
#include <vector>

#include "measure/job_memory.h"
#include "tensor/code_format.h"

namespace flexgen {

/// The format that such a matrix is measured in; null where its type has no scales of their own.
inline std::unique_ptr<CodeFormat> measured_format(DType dtype, int64_t rows, int64_t cols) {
  if (!is_scaled(dtype)) return nullptr;
  return std::make_unique<CodeFormat>(dtype == DType::kFp4 ? mxfp4_format(cols) : usual_format(dtype, rows, cols));
}

class MeasuredWeight {
 public:
  MeasuredWeight(DType dtype, int64_t rows, int64_t cols) : format_(measured_format(dtype, rows, cols)) {
    memory_.emplace_back(rows * row_bytes(dtype, cols));
    view_ = {dtype, rows, cols, {{memory_.front().data(), rows}}, format_.get()};
    for (int part = 0; format_ && part < kNumCodeParts; ++part)
      if (const int64_t bytes = beside_bytes(*format_, dtype, static_cast<CodePart>(part), rows, cols); bytes > 0) {
        memory_.emplace_back(bytes);
        view_.pieces.front().beside[static_cast<size_t>(part)] = memory_.back().data();
      }
  }
  const WeightView& view() const { return view_; }

 private:
  std::unique_ptr<CodeFormat> format_;
  std::vector<JobMemory> memory_;
  WeightView view_;
};

}  // namespace flexgen
