#include "base/report.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>

#include "base/error.h"

namespace flexgen {
namespace {

constexpr int kPatience_ms = 1000;
std::atomic<bool> notes_are_shown{true};

/// One piece that a pipe takes whole or not at all. 0, or an errno; ETIMEDOUT: nothing was taken for so long.
int write_piece(int descriptor, std::string_view piece, int patience_ms) {
  while (!piece.empty()) {
    // A pipe or terminal that is full would hold up whoever writes to it.
    pollfd ready{descriptor, POLLOUT, 0};
    const int polled = poll(&ready, 1, patience_ms);
    if (polled < 0 && errno == EINTR) continue;
    if (polled == 0) return ETIMEDOUT;
    const ssize_t n = ::write(descriptor, piece.data(), piece.size());
    if (n < 0 && (errno == EINTR || (errno == EAGAIN && patience_ms > 0))) continue;
    if (n <= 0) return n < 0 ? errno : EIO;
    piece.remove_prefix(static_cast<size_t>(n));
  }
  return 0;
}

}  // namespace

void prepare_standard_streams() {
  for (int descriptor = 0; descriptor <= 2; ++descriptor) {
    if (fcntl(descriptor, F_GETFD) >= 0 || errno != EBADF) continue;
    const int flags = descriptor == STDERR_FILENO ? O_WRONLY : O_RDONLY;
    // The lowest free number is this one. Where there is no /dev/null, a directory holds its place.
    if (::open("/dev/null", flags) < 0 && ::open("/", O_RDONLY | O_DIRECTORY) < 0) {
    }
  }
  signal(SIGPIPE, SIG_IGN);
}

bool write_if_possible(int descriptor, std::string_view text) {
  static std::atomic<bool> stuck{false};  // it was waited for in vain
  while (!text.empty()) {
    const std::string_view piece = text.substr(0, PIPE_BUF);
    const int error = write_piece(descriptor, piece, stuck ? 0 : kPatience_ms);
    if (error == ETIMEDOUT) stuck = true;
    if (error != 0) return false;
    stuck = false;
    text.remove_prefix(piece.size());
  }
  return true;
}

bool can_redraw(int descriptor) {
  const char* term = std::getenv("TERM");
  return isatty(descriptor) == 1 && term && *term && std::strcmp(term, "dumb") != 0;
}

bool can_color(int descriptor) {
  const char* refused = std::getenv("NO_COLOR");
  return can_redraw(descriptor) && !(refused && *refused);
}

void show_notes(bool shown) { notes_are_shown = shown; }
bool shows_notes() { return notes_are_shown; }

void write_note(std::string_view text) { write_if_possible(STDERR_FILENO, text); }

void write_result(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(STDOUT_FILENO, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {
      pollfd ready{STDOUT_FILENO, POLLOUT, 0};
      poll(&ready, 1, -1);
      continue;
    }
    if (n <= 0)
      fail_io("cannot write the result to standard output: {}; give it a file or a program that takes all of it", std::strerror(n < 0 ? errno : EIO));
    text.remove_prefix(static_cast<size_t>(n));
  }
}

}  // namespace flexgen
