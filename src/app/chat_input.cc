#include "app/chat_input.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "app/batch_line.h"
#include "base/error.h"
#include "base/report.h"
#include "base/units.h"

namespace flexgen {
namespace {

// A signal handler can reach nothing but globals.
std::atomic<bool> chat_interrupted{false};
struct sigaction sigint_before;

void on_chat_interrupt(int) { chat_interrupted = true; }

}  // namespace

ChatInput::ChatInput() : is_terminal_(isatty(STDIN_FILENO) == 1) {
  chat_interrupted = false;
  if (!is_terminal_) return;
  struct sigaction action {};
  action.sa_handler = on_chat_interrupt;  // without SA_RESTART: it ends a read that waits
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &sigint_before);
}

ChatInput::~ChatInput() {
  if (is_terminal_) sigaction(SIGINT, &sigint_before, nullptr);
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
    const ssize_t count = ::read(STDIN_FILENO, piece, sizeof piece);
    if (count < 0 && errno != EINTR) fail_io("cannot read from standard input: {}", std::strerror(errno));
    if (chat_interrupted.exchange(false)) {
      buffer_.clear();
      write_note("\n(Ctrl-D or /exit ends)\n");
      ask();
    }
    if (count == 0) ended_ = true;
    if (count > 0) buffer_.append(piece, static_cast<size_t>(count));
    if (buffer_.size() > static_cast<size_t>(kMaxTextBytes)) fail_user("a line of standard input is longer than {}", format_bytes(kMaxTextBytes));
  }
}

}  // namespace flexgen
