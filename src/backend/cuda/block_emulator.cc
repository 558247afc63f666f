#include "backend/cuda/block_emulator.h"

#include <setjmp.h>
#include <ucontext.h>

#include <deque>
#include <memory>

#include "base/error.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace flexgen::emulator {
namespace {

constexpr int kLanes = 32;
constexpr size_t kStackBytes = 128 << 10;

enum class State { kReady, kAtBlockBarrier, kAtWarpBarrier, kEnded };

/// One thread of the block, with a stack of its own.
struct Fiber {
  std::unique_ptr<char[]> stack;
  ucontext_t context;
  jmp_buf at;
  bool started = false;
  State state = State::kEnded;
  void* exchanged = nullptr;
};

/// The block that runs in this host thread. Entering a fiber the first time takes makecontext(); all later switches, into the next blocks too, are jumps, which
/// save no signal mask and so make no system call.
struct Block {
  std::deque<Fiber> fibers;  ///< a started fiber must not move
  int count = 0;             ///< threads of the block
  int current = 0;
  bool entering = false;  ///< the current thread was never in the kernel yet
  Index block, grid;
  Order order = Order::kAscending;
  const std::function<void()>* kernel = nullptr;
  ucontext_t scheduler_context;
  jmp_buf scheduler;
#if defined(__SANITIZE_ADDRESS__)
  void* scheduler_fake = nullptr;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
#endif

  Fiber& fiber() { return fibers[static_cast<size_t>(current)]; }
};

thread_local Block here;

void yield();

void enter() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &here.scheduler_stack, &here.scheduler_stack_bytes);
#endif
  while (true) {
    (*here.kernel)();
    here.fiber().state = State::kEnded;
    yield();
  }
}

/// Gives an unstarted fiber its stack and its entry.
void prepare(Fiber& fiber) {
  getcontext(&fiber.context);
  fiber.context.uc_stack = {.ss_sp = fiber.stack.get(), .ss_flags = 0, .ss_size = kStackBytes};
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, enter, 0);
}

void resume(int index) {
  here.current = index;
  here.entering = !here.fiber().started;
  if (here.entering) prepare(here.fiber());
  here.fiber().started = true;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&here.scheduler_fake, here.fiber().stack.get(), kStackBytes);
  swapcontext(&here.scheduler_context, &here.fiber().context);
  __sanitizer_finish_switch_fiber(here.scheduler_fake, nullptr, nullptr);
#else
  if (_setjmp(here.scheduler) != 0) return;
  if (here.entering) setcontext(&here.fiber().context);
  _longjmp(here.fiber().at, 1);
#endif
}

/// Back to the scheduler until it resumes this fiber.
void yield() {
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  Fiber& fiber = here.fiber();
  __sanitizer_start_switch_fiber(&fake, here.scheduler_stack, here.scheduler_stack_bytes);
  swapcontext(&fiber.context, &here.scheduler_context);
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
  if (_setjmp(here.fiber().at) == 0) _longjmp(here.scheduler, 1);
#endif
}

/// Lets threads that wait at a barrier go on if all that must be there are.
void release() {
  bool all = true, none_ended = true;
  for (int i = 0; i < here.count; ++i) {
    all &= here.fibers[static_cast<size_t>(i)].state == State::kAtBlockBarrier;
    none_ended &= here.fibers[static_cast<size_t>(i)].state != State::kEnded;
  }
  if (!all) return;
  FLEXGEN_CHECK(none_ended);
  for (int i = 0; i < here.count; ++i) here.fibers[static_cast<size_t>(i)].state = State::kReady;
}

void run_block() {
  for (int i = 0; i < here.count; ++i) here.fibers[static_cast<size_t>(i)].state = State::kReady;
  while (true) {
    bool moved = false;
    int ended = 0;
    for (int i = 0; i < here.count; ++i) {
      const int index = here.order == Order::kAscending ? i : here.count - 1 - i;
      if (here.fibers[static_cast<size_t>(index)].state == State::kReady) {
        resume(index);
        moved = true;
      }
      ended += here.fibers[static_cast<size_t>(index)].state == State::kEnded;
    }
    if (ended == here.count) return;
    release();
    for (int i = 0; i < here.count && !moved; ++i) moved = here.fibers[static_cast<size_t>(i)].state == State::kReady;
    FLEXGEN_CHECK(moved, "threads of a block wait at different barriers, or one ended before a barrier that others wait at");
  }
}

}  // namespace

void set_order(Order order) { here.order = order; }

void run_grid(Index grid, int threads, const std::function<void()>& kernel) {
  FLEXGEN_CHECK(threads > 0 && threads <= 1024 && threads % kLanes == 0, "{} threads", threads);
  while (static_cast<int>(here.fibers.size()) < threads) here.fibers.emplace_back().stack = std::make_unique_for_overwrite<char[]>(kStackBytes);
  here.count = threads;
  here.grid = grid;
  here.kernel = &kernel;
  for (here.block.z = 0; here.block.z < grid.z; ++here.block.z)
    for (here.block.y = 0; here.block.y < grid.y; ++here.block.y)
      for (here.block.x = 0; here.block.x < grid.x; ++here.block.x) run_block();
}

int thread() { return here.current; }
int num_threads() { return here.count; }
Index block() { return here.block; }
Index grid() { return here.grid; }

void sync_block() {
  here.fiber().state = State::kAtBlockBarrier;
  yield();
}

void together(void* mine, void (*all)(void* const* lanes)) {
  const int first = here.current / kLanes * kLanes;
  auto warp = here.fibers.begin() + first;
  here.fiber().exchanged = mine;
  here.fiber().state = State::kAtWarpBarrier;
  for (int i = 0; i < kLanes; ++i)
    if (warp[i].state != State::kAtWarpBarrier) return yield();
  // The last to arrive does the work for all.
  void* lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    lanes[i] = warp[i].exchanged;
    warp[i].state = State::kReady;
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
