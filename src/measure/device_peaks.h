#pragma once
// DevicePeaks: what a GPU and the bus to it give, measured through the device's own lanes and kernels before the engine takes its memory. One thread.

#include "backend/device.h"
#include "model/model.h"

namespace flexgen {

struct DevicePeaks {
  double matmul_flops_per_s = 0;  ///< matrices of the model's shapes in 16 bits, or in its own type if that is faster, at the best of some numbers of rows
  double memory_bytes_per_s = 0;  ///< read and written by large copies within the device
  double h2d_bytes_per_s = 0, d2h_bytes_per_s = 0;  ///< large copies of pinned RAM, one direction at a time
  double visit_flops_per_s = 0;                     ///< the model's own matrices, unpacked if they are quantized
};

/// Takes a second or two, up to 128 MiB of RAM, and of the device's memory up to `room` beside what the kernels have: what a budget leaves to a plan. Large copies and products want
/// some hundreds of MiB; with less room they are smaller.
DevicePeaks measure_device_peaks(Device& device, const Model& model, Kernels& kernels, int64_t room);

}  // namespace flexgen
