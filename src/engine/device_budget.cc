#include "engine/device_budget.h"

#include <algorithm>

#include "base/error.h"
#include "base/units.h"

namespace flexgen {

int64_t device_budget(int64_t asked, const DeviceRoom& room) {
  const int64_t free = room.free_bytes + room.kernel_bytes, most = free - room.margin_bytes;
  // Others may not have begun, or have taken their kernels' part already: each counts as if it had all of its own still to come.
  const int64_t part = (free - room.sharers * room.margin_bytes) / room.sharers;
  if (asked > 0 && asked > most)
    fail_user("--gpu-memory {}: of the {} of {}, {} are free{}; lower it to {}, or end what else uses the GPU", format_bytes(asked),
              format_bytes(room.total_bytes), room.name, format_bytes(free),
              room.margin_bytes > 0 ? fmt::format(", of which {} stay so, for code that is loaded while the job runs", format_bytes(room.margin_bytes)) : "",
              format_bytes(std::max<int64_t>(0, most)));
  const int64_t budget = asked > 0 ? asked : room.sharers > 1 ? part : room.margin_bytes > 0 ? std::min(most, free - free / 20) : most;
  if (budget <= room.kernel_bytes)
    fail_user("--gpu-memory {}: the kernels alone take {} of the {} free on {}; raise it, or end what else uses the GPU",
              format_bytes(std::max<int64_t>(0, budget)), format_bytes(room.kernel_bytes), format_bytes(free), room.name);
  return budget;
}

}  // namespace flexgen
