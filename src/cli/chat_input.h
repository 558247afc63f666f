#pragma once
// ChatInput: what is said in a conversation, line by line from standard input; and Ctrl-C. One at a time in a process, one thread.

#include <atomic>
#include <optional>
#include <string>

namespace flexgen {

class ChatInput {
 public:
  /// If standard input is a terminal, SIGINT sets interrupted() from now on instead of ending the process.
  ChatInput();
  ~ChatInput();  ///< the handler of before is back
  ChatInput(const ChatInput&) = delete;
  ChatInput& operator=(const ChatInput&) = delete;

  /// The next line without its end; nothing at the end of the input. On a terminal a prompt is shown, and a SIGINT begins the line anew.
  /// Throws Error{user} for a line that is too long, Error{io} if it cannot be read.
  std::optional<std::string> line();
  /// Whether a SIGINT has come since the last line().
  bool interrupted() const;
  bool is_terminal() const { return is_terminal_; }

 private:
  std::optional<std::string> taken();
  bool is_terminal_, ended_ = false;
  std::string buffer_;
};

}  // namespace flexgen
