#include "backend/cuda/block_emulator.h"

#include <ucontext.h>

#include <array>
#include <deque>
#include <memory>

#include "base/error.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace flexgen::emulator {
namespace {

constexpr int kLanes = 32;
constexpr int kMostThreads = 1024;
constexpr size_t kStackBytes = 128 << 10;

enum class State { kReady, kAtBlockBarrier, kAtWarpBarrier, kEnded };

/// Where something that was switched away from goes on, as __builtin_setjmp() fills it.
using Place = void* [5];

/// ThreadSanitizer's own list of the calls that led to here, of one fiber; nothing without it.
class Calls {
 public:
#if defined(__SANITIZE_THREAD__)
  Calls() : fiber_(__tsan_create_fiber(0)) {}
  explicit Calls(void* running) : fiber_(running), is_ours_(false) {}
  ~Calls() {
    if (is_ours_) __tsan_destroy_fiber(fiber_);
  }
  /// Called right before the jump there.
  void switch_to() const { __tsan_switch_to_fiber(fiber_, 0); }
  static Calls of_this_thread() { return Calls(__tsan_get_current_fiber()); }
  Calls(const Calls&) = delete;
  Calls& operator=(const Calls&) = delete;

 private:
  void* fiber_;
  bool is_ours_ = true;
#else
  void switch_to() const {}
  static Calls of_this_thread() { return {}; }
#endif
};

/// One thread of the block, with a stack of its own.
struct Fiber {
  std::unique_ptr<char[]> stack;
  ucontext_t context;
  Place at;
  bool started = false;
  State state = State::kEnded;
  void* exchanged = nullptr;
  Calls calls;
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
#endif
};

/// The block that runs in this host thread. Entering a fiber the first time takes makecontext(); all later switches, into the next blocks too, are jumps, which
/// save no signal mask and so make no system call.
struct Block {
  std::deque<Fiber> fibers;  ///< a started fiber must not move
  int count = 0;             ///< threads of the block
  int current = 0;
  std::array<int, kMostThreads / kLanes> arrived{};  ///< per warp: lanes at its barrier
  Index block, grid;
  Order order = Order::kAscending;
  const std::function<void()>* kernel = nullptr;
  Place scheduler;
  Calls scheduler_calls = Calls::of_this_thread();
#if defined(__SANITIZE_ADDRESS__)
  void* scheduler_fake = nullptr;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
#endif

  Fiber& fiber(int index) { return fibers[static_cast<size_t>(index)]; }
  Fiber& fiber() { return fiber(current); }
};

thread_local Block here;  // each look at it asks whether it was made yet: a function looks once

/// Not seen through, so that the compiler does not take it for a function that never returns: before a call of one, AddressSanitizer clears its marks of the
/// whole stack, which here is none that ends. It never returns, so it is in no list of calls.
__attribute__((noipa, no_sanitize("address", "thread"))) void jump(Place& place) { __builtin_longjmp(place, 1); }

/// Back to the scheduler until it resumes this fiber.
void yield(Block& block) {
  Fiber& fiber = block.fiber();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&fiber.fake, block.scheduler_stack, block.scheduler_stack_bytes);
#endif
  if (__builtin_setjmp(fiber.at) == 0) {
    block.scheduler_calls.switch_to();
    jump(block.scheduler);
  }
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber.fake, nullptr, nullptr);
#endif
}

void enter() {
  Block& block = here;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &block.scheduler_stack, &block.scheduler_stack_bytes);
#endif
  while (true) {
    (*block.kernel)();
    block.fiber().state = State::kEnded;
    yield(block);
  }
}

/// Gives a fiber that never ran its entry.
void prepare(Fiber& fiber) {
  fiber.started = true;
  getcontext(&fiber.context);
  fiber.context.uc_stack = {.ss_sp = fiber.stack.get(), .ss_flags = 0, .ss_size = kStackBytes};
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, enter, 0);
}

/// Runs a fiber until it yields.
void resume(Block& block, int index) {
  block.current = index;
  Fiber& fiber = block.fiber();
  const bool is_new = !fiber.started;
  if (is_new) prepare(fiber);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&block.scheduler_fake, fiber.stack.get(), kStackBytes);
#endif
  if (__builtin_setjmp(block.scheduler) == 0) {
    // Neither comes back. Called from a frame below this one they would leave AddressSanitizer's marks of it behind.
    fiber.calls.switch_to();
    if (is_new) setcontext(&fiber.context);
    jump(fiber.at);
  }
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(block.scheduler_fake, nullptr, nullptr);
#endif
}

/// Lets threads that wait at a barrier go on if all that must be there are.
void release(Block& block) {
  bool all = true, none_ended = true;
  for (int i = 0; i < block.count; ++i) {
    all &= block.fiber(i).state == State::kAtBlockBarrier;
    none_ended &= block.fiber(i).state != State::kEnded;
  }
  if (!all) return;
  FLEXGEN_CHECK(none_ended);
  for (int i = 0; i < block.count; ++i) block.fiber(i).state = State::kReady;
}

void run_block(Block& block) {
  for (int i = 0; i < block.count; ++i) block.fiber(i).state = State::kReady;
  block.arrived.fill(0);
  while (true) {
    bool moved = false;
    int ended = 0;
    for (int i = 0; i < block.count; ++i) {
      const int index = block.order == Order::kAscending ? i : block.count - 1 - i;
      const Fiber& fiber = block.fiber(index);
      if (fiber.state == State::kReady) {
        resume(block, index);
        moved = true;
      }
      ended += fiber.state == State::kEnded;
    }
    if (ended == block.count) return;
    release(block);
    for (int i = 0; i < block.count && !moved; ++i) moved = block.fiber(i).state == State::kReady;
    FLEXGEN_CHECK(moved, "threads of a block wait at different barriers, or one ended before a barrier that others wait at");
  }
}

}  // namespace

void set_order(Order order) { here.order = order; }

void run_grid(Index grid, int threads, const std::function<void()>& kernel) {
  FLEXGEN_CHECK(threads > 0 && threads <= kMostThreads && threads % kLanes == 0, "{} threads", threads);
  Block& block = here;
  while (static_cast<int>(block.fibers.size()) < threads) block.fibers.emplace_back().stack = std::make_unique_for_overwrite<char[]>(kStackBytes);
  block.count = threads;
  block.grid = grid;
  block.kernel = &kernel;
  for (block.block.z = 0; block.block.z < grid.z; ++block.block.z)
    for (block.block.y = 0; block.block.y < grid.y; ++block.block.y)
      for (block.block.x = 0; block.block.x < grid.x; ++block.block.x) run_block(block);
}

int thread() { return here.current; }
int num_threads() { return here.count; }
Index block() { return here.block; }
Index grid() { return here.grid; }

void sync_block() {
  Block& block = here;
  block.fiber().state = State::kAtBlockBarrier;
  yield(block);
}

void together(void* mine, void (*all)(void* const* lanes)) {
  Block& block = here;
  const int warp = block.current / kLanes;
  Fiber& fiber = block.fiber();
  fiber.exchanged = mine;
  fiber.state = State::kAtWarpBarrier;
  if (++block.arrived[static_cast<size_t>(warp)] < kLanes) return yield(block);
  // The last to arrive does the work for all.
  block.arrived[static_cast<size_t>(warp)] = 0;
  void* lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    Fiber& lane = block.fiber(warp * kLanes + i);
    lanes[i] = lane.exchanged;
    lane.state = State::kReady;
  }
  all(lanes);
}

float shuffle(float value, int lane) {
  struct Mine {
    float value;
    int from;
    float result;
  } mine{value, lane, 0};
  together(&mine, [](void* const* lanes) {
    for (int i = 0; i < kLanes; ++i) {
      auto* to = static_cast<Mine*>(lanes[i]);
      to->result = static_cast<const Mine*>(lanes[to->from])->value;
    }
  });
  return mine.result;
}

bool any_in_warp(bool value) {
  bool mine = value;
  together(&mine, [](void* const* lanes) {
    bool any = false;
    for (int i = 0; i < kLanes; ++i) any |= *static_cast<const bool*>(lanes[i]);
    for (int i = 0; i < kLanes; ++i) *static_cast<bool*>(lanes[i]) = any;
  });
  return mine;
}

}  // namespace flexgen::emulator
