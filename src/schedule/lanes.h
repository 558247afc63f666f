#pragma once
// Lanes: the queues of one engine, one a resource.

#include <memory>
#include <string>
#include <vector>

#include "backend/lane.h"

namespace flexgen {

/// What a lane of an engine is for. The first kNumPlannedLanes are those that plans have a time for.
enum class LaneKind { kCompute, kDiskRead, kDiskLookup, kDiskWrite, kH2d, kD2h, kCpu, kH2dSmall, kNetworkSend, kNetworkReceive };
inline constexpr int kNumPlannedLanes = 7;

/// As reports, traces and plans call it.
constexpr const char* lane_name(LaneKind kind) {
  constexpr const char* kNames[] = {"compute", "disk read", "disk lookup", "disk write", "h2d", "d2h", "cpu", "h2d small", "network send", "network receive"};
  return kNames[static_cast<size_t>(kind)];
}

struct Lanes {
  std::unique_ptr<Lane> compute;                        ///< of the tier that computes
  std::unique_ptr<Lane> disk_read;                      ///< streamed weights and cache
  std::unique_ptr<Lane> disk_lookup;                    ///< single embedding rows: small reads that must not queue behind weights
  std::unique_ptr<Lane> disk_write;                     ///< cache and activations on their way out
  std::unique_ptr<Lane> network_send, network_receive;  ///< activations between pipeline stages; null if there is one stage
  // Where a GPU computes; else null.
  std::unique_ptr<Lane> h2d;        ///< RAM to GPU memory: weights, cache, activations
  std::unique_ptr<Lane> h2d_small;  ///< embedding rows, results of attention: small copies that must not queue behind those
  std::unique_ptr<Lane> d2h;        ///< GPU memory to RAM
  std::unique_ptr<Lane> cpu;        ///< the processor beside the GPU: attention that runs there, reading logits

  struct Entry {
    LaneKind kind;
    Lane* lane;
  };
  /// Those that are there.
  std::vector<Entry> all() const {
    std::vector<Entry> lanes;
    for (const Entry entry : {Entry{LaneKind::kCompute, compute.get()},
                              {LaneKind::kDiskRead, disk_read.get()},
                              {LaneKind::kDiskLookup, disk_lookup.get()},
                              {LaneKind::kDiskWrite, disk_write.get()},
                              {LaneKind::kH2d, h2d.get()},
                              {LaneKind::kH2dSmall, h2d_small.get()},
                              {LaneKind::kD2h, d2h.get()},
                              {LaneKind::kCpu, cpu.get()},
                              {LaneKind::kNetworkSend, network_send.get()},
                              {LaneKind::kNetworkReceive, network_receive.get()}})
      if (entry.lane) lanes.push_back(entry);
    return lanes;
  }
};

}  // namespace flexgen
