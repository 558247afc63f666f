#pragma once
// KeptUploads: small host data on its way to kernels, sent once where it repeats: positions and tasks of a visit are those that the layer before had, and what
// one kernel of a layer was told of the cache the next one is told again. A copy within a stream holds up the kernels behind it. One thread.

#include <algorithm>
#include <vector>

#include "backend/cuda/device_runtime.h"

namespace flexgen::inline FLEXGEN_SIDE {

class KeptUploads {
 public:
  explicit KeptUploads(DeviceRuntime& runtime) : runtime_(runtime) {}

  /// As DeviceRuntime::upload(): a copy that kernels may write to.
  std::byte* upload(const void* data, int64_t bytes) {
    spent_ += upload_spends(bytes);
    return runtime_.upload(data, bytes);
  }

  /// A copy for reading, good while uploads that spend up to kLargestUpload follow: the one that was sent before, if that is there.
  const std::byte* upload_once(const std::vector<std::byte>& data) {
    if (data.empty()) return nullptr;
    std::erase_if(kept_, [&](const Kept& kept) { return spent_ - kept.spent > kUploadLife - kLargestUpload; });
    const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const Kept& kept) { return kept.data == data; });
    if (found != kept_.end()) {
      std::rotate(found, found + 1, kept_.end());
      return kept_.back().at;
    }
    const std::byte* at = upload(data.data(), std::ssize(data));
    int64_t all = std::ssize(data);
    for (const Kept& kept : kept_) all += std::ssize(kept.data);
    while (all > kMostKept && !kept_.empty()) {
      all -= std::ssize(kept_.front().data);
      kept_.erase(kept_.begin());
    }
    if (all <= kMostKept) kept_.push_back({data, at, spent_});
    return at;
  }

 private:
  static constexpr int64_t kMostKept = 1 * kMiB;
  struct Kept {
    std::vector<std::byte> data;
    const std::byte* at;
    int64_t spent;  ///< in all, with it
  };
  DeviceRuntime& runtime_;
  std::vector<Kept> kept_;  ///< last used last
  int64_t spent_ = 0;
};

}  // namespace flexgen::inline FLEXGEN_SIDE
