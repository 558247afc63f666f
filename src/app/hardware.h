#pragma once
// The profile a command plans with: given by --hardware, kept from an earlier measurement, or measured quickly now. One thread.

#include <string>

#include "app/measure_hardware.h"
#include "app/options.h"
#include "io/directory_lock.h"
#include "plan/hardware_profile.h"

namespace flexgen {

/// Held while this machine is measured for the profile at `path`: what two processes measure at once is neither's speed, and the second finds the first one's profile.
DirectoryLock lock_to_measure(const std::string& path);
/// Written whole or not at all. Throws Error{io}.
void save_profile(const HardwareProfile& profile, const std::string& path);
/// Throws Error{user} if the file cannot be read or is no profile.
HardwareProfile load_profile(const std::string& path);

/// By flags.hardware: a file, "generic" (assumed speeds), or empty: this machine's kept profile; what it lacks of `wanted.types` is measured quickly,
/// said, and kept. The disk is no faster than flags.disk_bytes_per_s allows.
HardwareProfile profile_for(const EngineFlags& flags, const MeasureOptions& wanted, FileSystem& files);

/// Gives the engine the profile to plan with, before its prepare(): flags.hardware, or this machine's. Without one the reference backend and the
/// first rule take assumed speeds: nothing is measured for them.
void set_hardware(Engine& engine, const EngineFlags& flags);

/// As lines for a person.
std::string profile_table(const HardwareProfile& profile);

}  // namespace flexgen
