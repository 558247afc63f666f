#include "memory/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "backend/cpu/worker_team.h"
#include "base/cores.h"
#include "base/error.h"
#include "base/units.h"

namespace flexgen {
namespace {

constexpr int64_t kPage = 4096;

void touch_stretch(std::byte* memory, int64_t bytes, int64_t all_bytes) {
  if (madvise(memory, static_cast<size_t>(bytes), MADV_POPULATE_WRITE) == 0) return;
  if (errno == ENOMEM || errno == EFAULT || errno == EHWPOISON)
    fail_user("cannot take {} of memory: {}; lower --cpu-memory", format_bytes(all_bytes), std::strerror(errno));
  std::memset(memory, 0, static_cast<size_t>(bytes));  // kernels before 5.14
}

/// The kernel clears pages in the thread that touches them, at a few GiB/s: all cores share the work. Where there are no threads to be had for that, fewer do.
void touch(std::byte* memory, int64_t bytes) {
  constexpr int64_t kStretch = 32 * kMiB;
  const int64_t stretches = ceil_div(bytes, kStretch);
  std::unique_ptr<WorkerTeam> team;
  for (auto threads = static_cast<int>(std::min<int64_t>(usable_cores(), ceil_div(stretches, 4))); !team; threads = std::max(1, threads / 2)) {
    try {
      team = std::make_unique<WorkerTeam>(threads);
    } catch (const Error&) {
      if (threads == 1) throw;
    }
  }
  team->run(team->size(), stretches, [&](int64_t i, int) { touch_stretch(memory + i * kStretch, std::min(kStretch, bytes - i * kStretch), bytes); });
}

}  // namespace

Arena::Arena(int64_t bytes, Use use) : capacity_(round_up(bytes, kPage)) {
  if (capacity_ == 0) return;
  void* memory = mmap(nullptr, static_cast<size_t>(capacity_), use == Use::kMemory ? PROT_READ | PROT_WRITE : PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) fail_user("cannot take {} of memory: {}; lower --cpu-memory", format_bytes(bytes), std::strerror(errno));
  base_ = static_cast<std::byte*>(memory);
  if (use == Use::kAddressesOnly) return;
  madvise(memory, static_cast<size_t>(capacity_), MADV_HUGEPAGE);
  try {
    touch(base_, capacity_);
  } catch (...) {
    munmap(memory, static_cast<size_t>(capacity_));
    throw;
  }
}

Arena::Arena(std::span<std::byte> memory) : base_(memory.data()), own_(false), capacity_(round_down(static_cast<int64_t>(memory.size()), kPage)) {}

Arena::~Arena() {
  if (base_ && own_) munmap(base_, static_cast<size_t>(capacity_));
}

int64_t Arena::footprint(int64_t bytes) { return round_up(bytes, kPage); }

std::span<std::byte> Arena::allocate(int64_t bytes) {
  int64_t size = footprint(bytes);
  FLEXGEN_CHECK(used_ + size <= capacity_, "arena of {} bytes has {} used, {} more wanted", capacity_, used_, size);
  std::byte* at = base_ + used_;
  used_ += size;
  return {at, static_cast<size_t>(bytes)};
}

}  // namespace flexgen
