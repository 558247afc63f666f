#include "backend/driver_signs.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace flexgen {
namespace {

namespace fs = std::filesystem;

bool exists(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error);
}

bool gpu_on_bus(const std::string& root) {
  std::error_code error;
  for (fs::directory_iterator it(root + "/sys/bus/pci/devices", error), end; !error && it != end; it.increment(error)) {
    std::string vendor, kind;
    std::ifstream(it->path() / "vendor") >> vendor;
    std::ifstream(it->path() / "class") >> kind;
    if (vendor == "0x10de" && kind.starts_with("0x03")) return true;  // NVIDIA, display controller
  }
  return false;
}

std::string version_name(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

}  // namespace

DriverSigns read_driver_signs(const std::string& root) {
  DriverSigns signs;
  if (root.empty()) {
    void* library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    signs.library = library != nullptr;
    if (library) dlclose(library);
    if (const char* visible = std::getenv("CUDA_VISIBLE_DEVICES")) signs.visible_devices = std::string("=") + visible;
  }
  signs.module = exists(root + "/proc/driver/nvidia/version") || exists(root + "/sys/module/nvidia");
  signs.gpu = gpu_on_bus(root);
  signs.container = exists(root + "/.dockerenv") || exists(root + "/run/.containerenv") || exists(root + "/var/run/secrets/kubernetes.io");
  std::error_code error;
  for (fs::directory_iterator it(root + "/dev", error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    const bool numbered =
        name.size() > 6 && name.starts_with("nvidia") && std::all_of(name.begin() + 6, name.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (numbered || name == "nvidiactl") signs.files.push_back(it->path().string());
  }
  std::sort(signs.files.begin(), signs.files.end());
  for (const std::string& file : signs.files)
    if (access(file.c_str(), R_OK | W_OK) != 0) signs.forbidden.push_back(file);
  return signs;
}

std::string why_no_gpu(const DriverSigns& signs, bool no_device) {
  constexpr const char* kStartWithGpus = "start it with the NVIDIA container runtime (docker run --gpus all; in Kubernetes the resource nvidia.com/gpu)";
  if (!signs.library) {
    if (signs.module && signs.container)
      return fmt::format("the NVIDIA driver of this machine is not there inside this container (no libcuda.so.1): {}", kStartWithGpus);
    if (signs.module)
      return "the NVIDIA driver's library is missing (no libcuda.so.1), though its kernel module is loaded: install the rest of the driver, or add the library's folder to LD_LIBRARY_PATH";
    if (signs.gpu) return "there is an NVIDIA GPU, but no driver (no libcuda.so.1): install the NVIDIA driver";
    return fmt::format("there is no NVIDIA driver (no libcuda.so.1), and no NVIDIA GPU is seen{}: use --backend cpu",
                       signs.container ? fmt::format("; if this container's machine has one, {}", kStartWithGpus) : "");
  }
  if (!signs.forbidden.empty())
    return fmt::format("no permission to open {}: this user needs to read and write them (see their group, often video or render; in a container {})",
                       fmt::join(signs.forbidden, ", "), kStartWithGpus);
  if (!signs.module && signs.driver_version == 0)
    return "the NVIDIA driver's library is there, but its kernel module is not loaded: modprobe nvidia, or restart the machine if the driver or the kernel was updated";
  if (signs.files.empty() && signs.module)
    return signs.container ? fmt::format("this container has no /dev/nvidia* files: {}", kStartWithGpus)
                           : std::string("there are no /dev/nvidia* files, though the driver is loaded: run nvidia-smi or nvidia-modprobe once as root");
  if (signs.driver_version > 0 && signs.driver_version / 1000 < signs.built_for / 1000)
    return fmt::format("the NVIDIA driver is too old: it is for CUDA {}, and this program was built with CUDA {}: update it, or build with an older toolkit",
                       version_name(signs.driver_version), version_name(signs.built_for));
  if (no_device && !signs.visible_devices.empty())
    return fmt::format("CUDA_VISIBLE_DEVICES{} hides all GPUs, or names none that is there: unset it, or name one that nvidia-smi -L shows",
                       signs.visible_devices);
  return "";
}

}  // namespace flexgen
