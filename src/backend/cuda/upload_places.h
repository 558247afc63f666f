#pragma once
// Where small host data lies on its way to kernels: a ring in segments, one upload behind the other in a segment. Pure arithmetic, shared by the ring itself
// (cuda_kernels.cu), by whoever counts what is still there (kept_uploads.h), and by the tests.

#include <cstdint>

#include "base/units.h"

namespace flexgen {

inline constexpr int64_t kLargestUpload = 4 * kMiB, kUploadLife = 2 * kLargestUpload;  ///< both in bytes that uploads spend

/// What an upload of so many bytes spends of the ring: each begins at 256 bytes, as kernels read whole words.
constexpr int64_t upload_spends(int64_t bytes) { return round_up(bytes, 256); }

/// Gives each upload its place in the ring, and knows when a segment may be used again.
class UploadPlaces {
 public:
  // What goes into a segment and what comes first in the next one spend more than kLargestUpload together, as else it would have gone into the former: any two
  // segments that follow one another hold more than that, and the five that are passed before a segment is used again more than kUploadLife.
  static constexpr int kSegments = 6;
  static_assert(kUploadLife == 2 * kLargestUpload && kLargestUpload % 256 == 0);
  static constexpr int64_t kBytes = kSegments * kLargestUpload;

  struct Place {
    int64_t at = 0;  ///< in the ring
    int segment = 0;
    int left = -1;  ///< the segment that nothing more goes to for now, or -1
  };
  /// The place of the next upload; at most kLargestUpload bytes.
  Place next(int64_t bytes) {
    const int before = segment_;
    const bool is_full = used_ + upload_spends(bytes) > kLargestUpload;
    if (is_full) {
      segment_ = (segment_ + 1) % kSegments;
      used_ = 0;
    }
    const Place place{segment_ * kLargestUpload + used_, segment_, is_full ? before : -1};
    used_ += upload_spends(bytes);
    return place;
  }

 private:
  int segment_ = 0;
  int64_t used_ = 0;
};

}  // namespace flexgen
