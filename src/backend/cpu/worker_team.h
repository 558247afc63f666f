#pragma once
// parallel_for: runs independent units of work on the calling thread and its OpenMP team. Every
// host thread that calls has a team of its own.

#include <omp.h>

#include <cstdint>

namespace flexgen {

/// How many of `num_threads` work of so many multiplications and additions deserves: one if waking the others and waiting for them,
/// which takes microseconds on a quiet machine and milliseconds on a busy one, could cost more than they save.
inline int team_for(int num_threads, double flops) {
  constexpr double kAloneFlops = 4e6;  // about 20 microseconds of one core
  return flops < kAloneFlops ? 1 : num_threads;
}

/// Calls work(unit, worker) for each unit in [0, num_units), worker in [0, num_threads), in no set
/// order. `work` must not throw. One unit or one thread runs in place.
template <typename Work>
void parallel_for(int num_threads, int64_t num_units, const Work& work) {
#if defined(__SANITIZE_THREAD__)
  num_threads = 1;  // ThreadSanitizer does not see the barriers of OpenMP's library, and would take all that teams do for races
#endif
  if (num_units <= 1 || num_threads <= 1) {
    for (int64_t unit = 0; unit < num_units; ++unit) work(unit, 0);
    return;
  }
#pragma omp parallel for num_threads(num_threads) schedule(dynamic)
  for (int64_t unit = 0; unit < num_units; ++unit) work(unit, omp_get_thread_num());
}

}  // namespace flexgen
