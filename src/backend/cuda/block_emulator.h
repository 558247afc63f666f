#pragma once
// An emulated block of GPU threads: each is a fiber of the calling host thread, switched where the kernel synchronizes. For tests of kernels'
// logic without a GPU; sequential and slow. Thread-compatible: each host thread runs blocks of its own.

#include <cstdint>
#include <functional>

namespace flexgen::emulator {

/// threadIdx or blockIdx.
struct Index {
  int64_t x = 0, y = 0, z = 0;
};

/// In which order the threads of a block run between two barriers: a result that depends on it is a race.
enum class Order { kAscending, kDescending };
void set_order(Order order);

/// Runs `kernel` once a thread: blocks of `threads` (a multiple of 32), one block after another. Aborts if threads wait at different barriers.
void run_grid(Index grid, int threads, const std::function<void()>& kernel);

// Within a kernel:
int thread();
int num_threads();
Index block();
Index grid();
void sync_block();
/// All 32 lanes of the warp must call these together.
float shuffle(float value, int lane);
bool any_in_warp(bool value);
/// Hands the pointers of all lanes, lane 0 first, to `all`, which runs once.
void together(void* mine, void (*all)(void* const* lanes));

}  // namespace flexgen::emulator
