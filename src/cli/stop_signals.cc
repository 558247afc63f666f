#include "cli/stop_signals.h"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string_view>

namespace flexgen {
namespace {

// A signal handler can reach nothing but globals.
std::atomic<bool> stop_requested{false};
static_assert(std::atomic<bool>::is_always_lock_free);
std::string_view said_at_first;
constexpr int kNotAtOnce = -1;
std::atomic<int> code_at_once{kNotAtOnce};

void say(std::string_view text) {
  for (std::string_view part : {std::string_view("\n"), text, std::string_view("\n")})
    if (write(STDERR_FILENO, part.data(), part.size()) < 0) break;  // nobody reads it
}

[[noreturn]] void end_at_once(int code) {
  say("stopped by a signal before the first step");
  _exit(code);
}

struct Handled {
  int number;
  struct sigaction before;
};
std::array<Handled, 3> handled{{{SIGINT, {}}, {SIGTERM, {}}, {SIGHUP, {}}}};

void on_signal(int number) {
  if (const int code = code_at_once; code != kNotAtOnce) end_at_once(code);
  if (stop_requested.exchange(true)) {
    signal(number, SIG_DFL);
    raise(number);
    return;
  }
  const int before = errno;
  say(said_at_first);
  errno = before;
}

}  // namespace

StopSignals::StopSignals(std::string_view said) {
  said_at_first = said;
  stop_requested = false;
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (Handled& signal : handled) {
    sigaction(signal.number, &action, &signal.before);
    // Under nohup a job outlives its terminal.
    if (signal.number == SIGHUP && signal.before.sa_handler == SIG_IGN) sigaction(signal.number, &signal.before, nullptr);
  }
}

StopSignals::~StopSignals() {
  for (Handled& signal : handled) sigaction(signal.number, &signal.before, nullptr);
}

StopSignals::AtOnce::AtOnce(int exit_code) {
  code_at_once = exit_code;
  if (stop_requested) end_at_once(exit_code);
}

StopSignals::AtOnce::~AtOnce() { code_at_once = kNotAtOnce; }

const std::atomic<bool>& StopSignals::stop() const { return stop_requested; }

void StopSignals::request_stop() { stop_requested = true; }

}  // namespace flexgen
