#pragma once
// Backends: what can compute, by the name that --backend gives. A backend is a line of the table in backends.cc: the device that it computes on, and the
// processor's kernels, which compute where there is no device, and beside one attend and quantize weights. Any thread.

#include <cstdint>
#include <memory>
#include <string_view>

#include "backend/device.h"
#include "backend/kernels.h"

namespace flexgen {

/// What computes, by the name that --backend takes. Its functions may be called from any thread.
struct Backend {
  std::string_view name;
  /// Null: the processor computes. `memory_bytes`: of the device, that were asked for; 0: none were. `ordinal`: which of the machine's.
  /// Throws Error{user} that says what is missing.
  std::unique_ptr<Device> (*make_device)(int num_threads, int64_t memory_bytes, int ordinal);
  /// The processor's. Throws Error{user} for a type that it does not compute in.
  std::unique_ptr<Kernels> (*make_processor_kernels)(const CpuKernelOptions& options);
  bool in_fp32_alone = false;        ///< whatever type is asked for
  int (*count_devices)() = nullptr;  ///< null: each process has a device of its own
};

/// Throws Error{user} that says which there are.
const Backend& find_backend(std::string_view name);

}  // namespace flexgen
