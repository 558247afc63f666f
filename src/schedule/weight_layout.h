#pragma once
// WeightLayout: which rows of each layer's weights are where. WeightStore loads by it, plans count by it. Pure arithmetic over the model; any thread.

#include <cstdint>
#include <vector>

#include "memory/memory_item.h"
#include "model/model.h"
#include "schedule/policy.h"

namespace flexgen {

/// A byte range of a file as direct I/O can read it: the aligned superset of what is wanted.
struct AlignedExtent {
  int file = 0;
  int64_t offset = 0;  ///< aligned
  int64_t bytes = 0;   ///< aligned
  int64_t skip = 0;    ///< wanted bytes start here

  static AlignedExtent around(int file, int64_t offset, int64_t bytes);
};

/// What a layout of weights comes to, in bytes but for num_streamed_layers.
struct WeightSums {
  Tier compute_tier = Tier::kCpu;
  int64_t resident_bytes = 0;     ///< in the compute tier
  int64_t host_bytes = 0;         ///< in RAM beside a GPU, lookup tables included
  int64_t buffer_bytes = 0;       ///< one staging buffer, in the compute tier
  int64_t bounce_bytes = 0;       ///< the RAM behind it, if that is a GPU
  int64_t load_buffer_bytes = 0;  ///< one of kLoadBuffers through which a GPU's resident share is loaded at the start
  int64_t num_streamed_layers = 0;
  int64_t streamed_bytes_per_step = 0;  ///< from disk
  int64_t staged_bytes_per_step = 0;    ///< through the staging buffers; on a GPU: host to device
  bool operator==(const WeightSums&) const = default;
  static constexpr int kLoadBuffers = 3;

  /// Of the policy's layout, which is not kept.
  static WeightSums of(const Model& model, const Policy& policy);
  /// What it takes of each tier.
  std::vector<MemoryItem> memory(const Policy& policy) const;
};

/// Rows in order: resident in the tier that computes, then (where that is a GPU) in RAM, then on disk; the latter two pass through the staging buffers. A mixture's experts take of the faster
/// tiers what its other weights leave, evenly or (Policy::hottest_first) expert after expert.
///
/// On a CPU the disk fills memory directly, so everything lies there as aligned supersets; in a GPU rows are packed, at multiples of kDeviceAlignment.
class WeightLayout : public WeightSums {
 public:
  /// A tensor beside a quantized matrix's codes: what of it belongs to the rows that lie there. One that belongs to all rows is in RAM or on disk, not both.
  struct Beside {
    AlignedExtent resident, host, streamed;
    int64_t resident_wanted = 0, host_wanted = 0, streamed_wanted = 0;     ///< bytes
    int64_t resident_at = 0, host_at = 0, streamed_at = 0, staged_at = 0;  ///< as Use has them
  };
  struct Use {
    int64_t resident_rows = 0, host_rows = 0, streamed_rows = 0;
    AlignedExtent resident, host, streamed;  ///< of the checkpoint's file
    int64_t resident_at = 0;                 ///< of the first resident row in the resident memory
    int64_t host_at = 0;                     ///< of the first row in RAM
    int64_t streamed_at = 0;                 ///< of the extent's first byte where the disk's bytes land
    int64_t staged_at = 0;                   ///< of the first host or streamed row in the staging buffer
    std::vector<Beside> beside;              ///< as CodeTensors has them; none of other weights
    bool lookup = false;                     ///< rows are looked up (RowLookup), never streamed
    int within = -1;                         ///< the layer's use whose bytes its rows lie in (Model::loaded_with()); -1: it has its own
  };
  struct Layer {
    std::vector<Use> uses;
    int64_t resident_bytes = 0;           ///< what is read of its resident rows, without what lies beside codes
    int64_t streamed_bytes = 0;           ///< what a pass over the layer reads from disk
    int64_t host_at = 0, host_bytes = 0;  ///< its part of the RAM beside a GPU, extents one after the other
    int64_t staged_bytes = 0;             ///< of the staging buffer; on a GPU also (but for some padding) what a pass copies to it
    int64_t ring_index = -1;              ///< which of the staged layers this is; -1: all of it is resident
  };
  /// Whose Layer::uses are kept. A mixture has thousands in its experts, which plans need not know one by one.
  enum class Kept { kAll, kNotOfExperts };

  WeightLayout(const Model& model, const Policy& policy, Kept kept = Kept::kAll);
  std::vector<Layer> layers;
};

}  // namespace flexgen
