#include "backend/cuda/cuda_call.h"

namespace flexgen {
namespace {

const char* advice(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation: return "lower --gpu-memory, or see with nvidia-smi who else uses the GPU";
    case cudaErrorInsufficientDriver:
      return "the NVIDIA driver is older than the CUDA runtime this program was built with: update it, or build with an older toolkit";
    case cudaErrorNoDevice: return "no GPU is visible: check nvidia-smi and CUDA_VISIBLE_DEVICES";
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction: return "this build has no code for this GPU: build again with -DFLEXGEN_CUDA_ARCHITECTURES=native";
    case cudaErrorUnsupportedPtxVersion:
      return "the driver is too old to translate this build's kernels for this GPU: update it, or build with -DFLEXGEN_CUDA_ARCHITECTURES=native";
    case cudaErrorDevicesUnavailable:
      return "another process holds the GPU (exclusive mode), or its compute mode is prohibited: wait for it, use another GPU, or see nvidia-smi -q -d COMPUTE";
    case cudaErrorSystemDriverMismatch:
      return "the driver's library and its kernel module are of two versions: restart the machine after an update of the driver";
    case cudaErrorSystemNotReady: return "the GPUs are not ready: is nvidia-fabricmanager running? (machines with NVSwitch need it)";
    case cudaErrorCompatNotSupportedOnDevice:
      return "the CUDA compatibility package does not work with this GPU: update the driver itself, or take the package away";
    case cudaErrorOperatingSystem:
    case cudaErrorInitializationError:
    case cudaErrorUnknown:
      return "the driver could not be started: see whether nvidia-smi works, and dmesg (after an update of the driver restart the machine)";
    case cudaErrorECCUncorrectable:
    case cudaErrorHardwareStackError: return "the GPU reports a hardware fault: see dmesg, and run the job again to go on";
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorLaunchFailure: return "a kernel failed; finished answers are kept. Please report it, with the output of compute-sanitizer if you can";
    default: return "finished answers are kept; run the same command again to go on";
  }
}

}  // namespace

void check_cuda(cudaError_t status, const std::string& what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // so that nobody takes it for an error of what comes next
  throw Error(ErrorKind::kDevice, fmt::format("GPU: {}: {} ({}); {}", what, cudaGetErrorString(status), cudaGetErrorName(status), advice(status)));
}

}  // namespace flexgen
