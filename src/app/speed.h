#pragma once
// Speed: what this machine's resources do at best, measured: the disk, the memory, the matmul. Each call keeps its
// resource busy for about a second; nothing else should run. One thread calls it.

#include <cstdint>
#include <string>
#include <vector>

#include "backend/kernels.h"

namespace flexgen {

struct DiskSpeed {
  double read_bytes_per_s = 0, write_bytes_per_s = 0;
  std::string engine;    ///< "io_uring" or "threads"
  bool direct = false;   ///< O_DIRECT in force
};

/// Reads the files front to back with the engine's own block size and depth, again and again until `seconds` have passed.
DiskSpeed measure_read(const std::vector<std::string>& files, double seconds);
/// Writes a file of `bytes` in `directory`, reads it back, removes it. Throws Error{io} if there is no room.
DiskSpeed measure_disk(const std::string& directory, int64_t bytes);

/// Bytes that all cores together read from RAM in a second.
double measure_memory_read(int threads, double seconds);

/// FLOP/s of Kernels::linear on `rows` rows of a [cols, cols] weight of `dtype`.
double measure_linear(Kernels& kernels, DType dtype, int64_t rows, int64_t cols, double seconds);

}  // namespace flexgen
