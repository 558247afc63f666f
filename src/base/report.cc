#include "base/report.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <mutex>

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
  signal(SIGXFSZ, SIG_IGN);
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

int terminal_width(int descriptor) {
  winsize size{};
  return ioctl(descriptor, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

std::string folded(std::string_view text, int width) {
  constexpr size_t kLeastWidth = 20, kStep = 2;  // narrower ones are no terminals to read on
  if (width < static_cast<int>(kLeastWidth)) return std::string(text);
  const auto columns_of = [](std::string_view part) {
    return static_cast<size_t>(std::count_if(part.begin(), part.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
  };
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    const size_t indent = std::min(line.find_first_not_of(' '), line.size()) + kStep;
    size_t column = 0;
    while (column + columns_of(line) > static_cast<size_t>(width)) {
      // The last blank within the width, else the first one after it.
      size_t cut = std::string_view::npos, columns = column;
      for (size_t i = 0; i < line.size() && (columns <= static_cast<size_t>(width) || cut == std::string_view::npos); ++i) {
        if (line[i] == ' ' && line.find_first_not_of(' ') < i) cut = i;
        if ((static_cast<unsigned char>(line[i]) & 0xc0) != 0x80) ++columns;
      }
      if (cut == std::string_view::npos) break;
      out += line.substr(0, line.find_last_not_of(' ', cut) + 1);
      out += "\n" + std::string(indent, ' ');
      line.remove_prefix(std::min(line.find_first_not_of(' ', cut), line.size()));
      column = indent;
    }
    out += line;
    if (end < text.size()) out += '\n';
    at = end + 1;
  }
  return out;
}

void show_notes(bool shown) { notes_are_shown = shown; }
bool shows_notes() { return notes_are_shown; }

namespace {

/// The line that draw_over() has drawn last, and where.
struct Drawn {
  std::mutex mutex;
  int descriptor = -1;
  size_t columns = 0;
};
Drawn& drawn() {
  static Drawn it;
  return it;
}

}  // namespace

void draw_over(int descriptor, std::string_view text) {
  Drawn& before = drawn();
  std::lock_guard lock(before.mutex);
  const size_t columns = before.descriptor == descriptor ? before.columns : 0;
  if (columns == 0 && text.empty()) return;
  // Spaces instead of an escape code, so that any terminal and any log can take it.
  const std::string blank(columns > text.size() ? columns - text.size() : 0, ' ');
  write_if_possible(descriptor, fmt::format("\r{}{}{}", text, blank, text.empty() ? "\r" : ""));
  before.descriptor = descriptor;
  before.columns = text.size();
}

void write_note(std::string_view text) {
  draw_over(STDERR_FILENO, "");
  write_if_possible(STDERR_FILENO, text);
}

void write_result(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(STDOUT_FILENO, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {
      pollfd ready{STDOUT_FILENO, POLLOUT, 0};
      poll(&ready, 1, -1);
      continue;
    }
    if (n <= 0) fail_io("cannot write the result to standard output: {}; give it a file or a program that takes all of it", std::strerror(n < 0 ? errno : EIO));
    text.remove_prefix(static_cast<size_t>(n));
  }
}

}  // namespace flexgen
