#pragma once
// Measuring a HardwareProfile: every lane as the engine uses it, and the profile kept in a file a machine. One thread calls; nothing else
// should run meanwhile.

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "backend/kernels.h"
#include "io/file_system.h"
#include "plan/hardware_profile.h"
#include "plan/visit_cost.h"

namespace flexgen {

/// Which arithmetic is measured.
struct MeasuredTypes {
  std::vector<std::pair<DType, DType>> matmul;  ///< (compute, weights)
  std::vector<DType> caches;
  std::vector<int64_t> widths;  ///< hidden sizes, each with each of matmul

  /// What runs in this precision use, unless it is there already.
  void add(const Precision& precision);
};

/// The hidden size of the block that is measured for models of this one: heads of 128 divide it.
int64_t measured_width(double hidden_size);

/// What is measured, and with what.
struct MeasureOptions {
  MeasuredTypes types;
  int threads = 0;
  bool quick = false;  ///< fewer sizes, shorter
  std::vector<std::string>
      read_files;         ///< what disk reads are measured on; empty: a file of 1 GiB (256 MiB if quick, no more than a quarter of what is free) written for it
  std::string directory;  ///< where that file and the writes go; empty, or no room there: writes are not measured, a speed is assumed
  std::function<void(const std::string&)> progress = {};  ///< what is measured now; may be empty
};

/// All types that a run on this machine may choose.
MeasuredTypes all_types();

/// A profile whose measuring missed more of the processors than this, because of other programs, is in doubt.
inline constexpr double kOthersMatter = 0.1;

/// 10 to 60 s, 3 to 15 s if quick; on a busy machine more, as each speed is measured until two rounds agree, within bounds.
/// The profile says if they never did, or if other programs took much of the processors. Throws Error{io} for a disk that fails.
HardwareProfile measure_hardware(const MeasureOptions& options, FileSystem& files);

/// Where this machine's profile is kept: hardware-NAME.json in cache_directory(), after its processor and cores. Empty: nowhere.
std::string profile_path(int threads);

/// "AMD EPYC, 2 cores".
std::string machine_name(int threads);

/// The types that `types` names and `profile` lacks in one of its widths; a width near to it will do.
MeasuredTypes missing_types(const HardwareProfile& profile, const MeasuredTypes& types);

/// The rates of `more` added to `profile`, and what speaks against them.
void add_rates(HardwareProfile& profile, const HardwareProfile& more);

}  // namespace flexgen
