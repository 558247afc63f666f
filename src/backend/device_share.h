#pragma once
// Which of a machine's devices is whose, where several processes of a job compute on them. Pure arithmetic; any thread.

namespace flexgen {

/// This process among those of its job that see the same devices.
struct DeviceSeat {
  int number = 0, of = 1;
};

/// The device that a process takes.
struct DeviceShare {
  int ordinal = 0;
  int sharers = 1;  ///< processes of the job that have this device, this one included
};

/// Devices are dealt out in turn. With none, or of a seat that cannot be, the first.
constexpr DeviceShare share_of_devices(const DeviceSeat& seat, int num_devices) {
  if (num_devices <= 0 || seat.number < 0 || seat.number >= seat.of) return {};
  const int ordinal = seat.number % num_devices;
  return {ordinal, (seat.of - ordinal + num_devices - 1) / num_devices};
}

}  // namespace flexgen
