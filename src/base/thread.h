#pragma once
// Threads that start or say why not. Thread-safe.

#include <cstdint>
#include <functional>
#include <future>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

namespace flexgen {

/// Throws Error{io} for a thread that could not be started: what it was for, which limit was reached, what to do.
[[noreturn]] void fail_thread(std::string_view what, const std::system_error& error);

/// A thread that runs work(). `what` names what it is for, like "the progress display". Throws Error{io} if the system has no thread for us.
template <typename Work>
std::thread start_thread(std::string_view what, Work&& work) {
  try {
    return std::thread(std::forward<Work>(work));
  } catch (const std::system_error& error) {
    fail_thread(what, error);
  }
}

/// std::async in a thread of its own; fails as start_thread() does.
template <typename Work>
auto start_async(std::string_view what, Work&& work) {
  try {
    return std::async(std::launch::async, std::forward<Work>(work));
  } catch (const std::system_error& error) {
    fail_thread(what, error);
  }
}

/// Of the stack of each thread: what systems give a process by default.
inline constexpr int64_t kStackBytes = int64_t{8} << 20;

/// Threads that are started from now on have kStackBytes of stack at least, whatever `ulimit -s` says, which is where the C library takes their size from. Returns work(), which has as much:
/// it is called here, or, where the limit is lower, in a thread of its own, which alone hears signals then. For the first thread, before it starts others. Throws Error{io} as start_thread() does.
int with_enough_stack(const std::function<int()>& work);

}  // namespace flexgen
