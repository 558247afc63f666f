#pragma once
// The profile a command plans with: given by --hardware, kept from an earlier measurement, or measured quickly now. One thread.

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "engine/engine.h"
#include "io/directory_lock.h"
#include "measure/measure_hardware.h"
#include "plan/hardware_profile.h"
#include "setup/engine_flags.h"

namespace flexgen {

/// Held while this machine is measured for the profile at `path`: what two processes measure at once is neither's speed, and the second finds the first one's profile.
std::unique_ptr<DirectoryLock> lock_to_measure(const std::string& path);
/// Written whole or not at all. Throws Error{io}.
void save_profile(const HardwareProfile& profile, const std::string& path);
/// Throws Error{user} if the file cannot be read or is no profile; the message begins with `flag` and the path.
HardwareProfile load_profile(const std::string& path, const char* flag = "--hardware ");
/// A profile that flexgen keeps for itself: nothing if there is none, or, with a warning, if it cannot be used.
std::optional<HardwareProfile> kept_profile(const std::string& path);

/// measure_hardware(), or what stands for it in a test.
using Measure = std::function<HardwareProfile(const MeasureOptions&)>;
/// This machine's profile, kept at `path` (empty: nowhere). What it lacks of `wanted.types` is measured quickly, said, and added; one that is missing, damaged or in
/// doubt is measured anew, and one of another number of threads lends the disk's part. A place that cannot be written is warned of and done without.
HardwareProfile own_profile(const MeasureOptions& wanted, const std::string& path, const Measure& measure_with);

/// A profile that was measured after this process had written so many bytes of weights: in doubt if they are many.
void doubt_if_written(int64_t bytes, HardwareProfile* profile);

/// After a run that was planned with this machine's own profile: if a lane that mattered was more than twice as fast as the profile says, marks it, says
/// so, and the next run measures anew; unless that was done already and confirmed the profile.
void doubt_if_faster(const Engine& engine, const EngineFlags& flags, const RunReport& report);
void doubt_if_faster(const RunReport& report, const std::string& path);

/// By flags.hardware: a file, "generic" (assumed speeds), or empty: own_profile(). The disk is no faster than flags.disk_bytes_per_s allows.
HardwareProfile profile_for(const EngineFlags& flags, const MeasureOptions& wanted, FileSystem& files);

/// Gives the engine the profile to plan with, before its prepare(): flags.hardware, or this machine's. Without one the reference backend and the
/// first rule take assumed speeds: nothing is measured for them.
void set_hardware(Engine& engine, const EngineFlags& flags);

/// As lines for a person.
std::string profile_table(const HardwareProfile& profile);

}  // namespace flexgen
