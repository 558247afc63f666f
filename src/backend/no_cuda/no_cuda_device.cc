// What a build without a CUDA toolkit has in the place of backend/cuda.

#include "backend/device.h"
#include "base/error.h"

namespace flexgen {

std::unique_ptr<Device> make_cuda_device(int) {
  fail_user("--backend cuda: this build has no GPU support, as no CUDA toolkit was found when it was made; install one and build again, or leave --backend out");
}

}  // namespace flexgen
