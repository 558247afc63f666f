#pragma once
// What a run may take of a device's memory. Pure.

#include <cstdint>
#include <string>

namespace flexgen {

/// A device as a budget sees it, once its kernels have taken their own.
struct DeviceRoom {
  std::string name;
  int64_t total_bytes = 0, free_bytes = 0;
  int64_t kernel_bytes = 0;  ///< taken by the kernels: part of a budget
  int64_t margin_bytes = 0;  ///< left free, as the driver and libraries load code while a job runs
  int sharers = 1;           ///< processes of the job that have this device: each leaves the margin, for its own code and what the driver keeps for it
};

/// The budget: `asked`, or where that is 0 what is free less the margin, or a twentieth if there is a margin and that is more; of several sharers each its part.
/// Throws Error{user} with the figures if the device has not that much, or the
/// kernels' own is all of it.
int64_t device_budget(int64_t asked, const DeviceRoom& room);

}  // namespace flexgen
