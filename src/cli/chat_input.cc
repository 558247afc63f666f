#include "cli/chat_input.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/report.h"
#include "base/units.h"
#include "batch/batch_line.h"

namespace flexgen {
namespace {

// A signal handler can reach nothing but globals.
std::atomic<bool> chat_interrupted{false};
struct sigaction sigint_before;
int interrupt_pipe[2] = {-1, -1};  // any thread may be the one that is interrupted: it wakes the one that waits for a line

void on_chat_interrupt(int) {
  chat_interrupted = true;
  const int before = errno;
  if (write(interrupt_pipe[1], "", 1) < 0) {
  }  // it is full: whoever waits is woken already
  errno = before;
}

}  // namespace

ChatInput::ChatInput() : is_terminal_(isatty(STDIN_FILENO) == 1) {
  chat_interrupted = false;
  if (!is_terminal_) return;
  if (pipe2(interrupt_pipe, O_CLOEXEC | O_NONBLOCK) != 0) fail_io("no pipe can be had: {}", std::strerror(errno));
  struct sigaction action {};
  action.sa_handler = on_chat_interrupt;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &sigint_before);
}

ChatInput::~ChatInput() {
  if (!is_terminal_) return;
  sigaction(SIGINT, &sigint_before, nullptr);
  for (int& end : interrupt_pipe) ::close(std::exchange(end, -1));
}

bool ChatInput::interrupted() const { return chat_interrupted; }

/// A line of what is there already.
std::optional<std::string> ChatInput::taken() {
  const size_t end = buffer_.find('\n');
  if (end == std::string::npos && !(ended_ && !buffer_.empty())) return std::nullopt;
  std::string line = buffer_.substr(0, end);
  buffer_.erase(0, end == std::string::npos ? end : end + 1);
  if (line.ends_with('\r')) line.pop_back();
  return line;
}

std::optional<std::string> ChatInput::line() {
  const auto ask = [&] {
    if (is_terminal_) write_note("> ");
  };
  chat_interrupted = false;
  ask();
  for (;;) {
    if (std::optional<std::string> line = taken()) return line;
    if (ended_) return std::nullopt;
    char piece[4096];
    std::array<pollfd, 2> ready{{{STDIN_FILENO, POLLIN, 0}, {interrupt_pipe[0], POLLIN, 0}}};
    if (::poll(ready.data(), ready.size(), -1) < 0 && errno != EINTR) fail_io("cannot wait for standard input: {}", std::strerror(errno));
    if (ready[1].revents & POLLIN) {
      while (::read(interrupt_pipe[0], piece, sizeof piece) > 0) {
      }
      if (!chat_interrupted.exchange(false)) continue;  // of an answer that was stopped
      buffer_.clear();
      write_note("\n(Ctrl-D or /exit ends)\n");
      ask();
      continue;
    }
    if (ready[0].revents == 0) continue;
    const ssize_t count = ::read(STDIN_FILENO, piece, sizeof piece);
    if (count < 0 && errno != EINTR) fail_io("cannot read from standard input: {}", std::strerror(errno));
    if (count == 0) ended_ = true;
    if (count > 0) buffer_.append(piece, static_cast<size_t>(count));
    if (buffer_.size() > static_cast<size_t>(kMaxTextBytes)) fail_user("a line of standard input is longer than {}", format_bytes(kMaxTextBytes));
  }
}

}  // namespace flexgen
