#pragma once
// Why no GPU can be used, told by what the operating system shows of NVIDIA's driver: CUDA itself calls a driver that is absent "too old". Any thread.

#include <functional>
#include <string>
#include <vector>

namespace flexgen {

/// What was seen of the driver and its devices. Pure data.
struct DriverSigns {
  bool library = false;  ///< libcuda.so.1 can be loaded
  bool module = false;   ///< the kernel has the driver; seen from inside a container too
  bool gpu = false;      ///< an NVIDIA GPU is on the bus
  bool container = false;
  std::vector<std::string> files;         ///< /dev/nvidiactl, /dev/nvidia0 and so on
  std::vector<std::string> forbidden;     ///< those of them that this user may not open
  std::string visible_devices;            ///< CUDA_VISIBLE_DEVICES as "=0,1"; empty: not set
  int driver_version = 0, built_for = 0;  ///< CUDA versions as CUDA counts, 12040: of the driver (0: it did not say) and of this program
};

/// `root` stands before /proc, /sys, /dev and the marks of containers: for tests. The versions are left at 0.
DriverSigns read_driver_signs(const std::string& root = "");

/// What is missing, and what to do; empty if these signs do not explain it. `no_device`: CUDA works and sees no GPU.
std::string why_no_gpu(const DriverSigns& signs, bool no_device);

}  // namespace flexgen
