#include "backend/backends.h"

#include "backend/cuda_status.h"
#include "base/error.h"
#include "base/units.h"

namespace flexgen {
namespace {

/// What the emulated device has where nothing was asked for.
constexpr int64_t kEmulatedBytes = kGiB;

std::unique_ptr<Device> cuda_device(int, int64_t, int ordinal) { return make_cuda_device(ordinal); }

int count_cuda_devices() { return static_cast<int>(cuda_status().devices.size()); }

template <EmulatedKernels kernels>
std::unique_ptr<Device> emulated_device(int num_threads, int64_t memory_bytes, int) {
  return make_emulated_device(kernels, kernels == EmulatedKernels::kCpu ? num_threads : 1, memory_bytes > 0 ? memory_bytes : kEmulatedBytes);
}

std::unique_ptr<Kernels> reference_kernels(const CpuKernelOptions& options) { return make_reference_kernels(options.int8_products); }

/// The emulated ones are for tests.
constexpr Backend kBackends[]{
    {"cpu", nullptr, make_cpu_kernels},
    {"reference", nullptr, reference_kernels, true},
    {"cuda", cuda_device, make_cpu_kernels, false, count_cuda_devices},
    {"emulated-gpu", emulated_device<EmulatedKernels::kCpu>, make_cpu_kernels},
    {"emulated-gpu-reference", emulated_device<EmulatedKernels::kReference>, reference_kernels},
    {"emulated-gpu-cuda", emulated_device<EmulatedKernels::kCuda>, make_cpu_kernels},
};

}  // namespace

const Backend& find_backend(std::string_view name) {
  for (const Backend& backend : kBackends)
    if (backend.name == name) return backend;
  fail_user("--backend {}: there are cpu, reference and cuda", name);
}

}  // namespace flexgen
