#pragma once
// What the command line tells: notes on stderr, which may get lost but never stop a job; and results on stdout, which must not get lost.
// Thread-safe.

#include <fmt/format.h>

#include <string>
#include <string_view>

namespace flexgen {

/// First of all in main: opens those of the descriptors 0 to 2 that are closed, so that no file of ours gets their numbers and with them the warnings; and
/// lets a write to a pipe that nobody reads, or beyond the limit on a file's size (ulimit -f), fail instead of ending the process. A closed stdout gets a file that cannot be written: results must not vanish.
void prepare_standard_streams();

/// Writes all of `text`, or what a terminal or pipe takes: what nobody reads (a full disk, a closed pipe, a terminal that is gone) is dropped, and one that
/// takes nothing is waited for a second at most, once. Returns whether it was written.
bool write_if_possible(int descriptor, std::string_view text);
/// Whether a line on it may be drawn over: it is a terminal, and TERM says that it can.
bool can_redraw(int descriptor);
/// Whether colours may be used: it can_redraw(), and NO_COLOR is not set.
bool can_color(int descriptor);

/// Columns of the terminal that it is; 0 if it is none, or does not say.
int terminal_width(int descriptor);
/// `text` with lines of `width` columns at most, if words allow: a line that is longer is broken between words, and goes on two columns further right than it
/// began. 0: as it is.
std::string folded(std::string_view text, int width);

/// A line without its end that the next one is drawn over, and that makes room for notes; empty: none. On one descriptor at a time.
void draw_over(int descriptor, std::string_view text);
/// On stderr, whatever --quiet says: an error.
void write_note(std::string_view text);
/// Throws Error{io}.
void write_result(std::string_view text);

/// Whether print_note() and progress show anything (not with --quiet); they do from the start.
void show_notes(bool shown);
bool shows_notes();

/// On stderr, unless notes are not shown; folded to the terminal, if it is one.
template <typename... Args>
void print_note(fmt::format_string<Args...> format, Args&&... args) {
  if (shows_notes()) write_note(folded(fmt::format(format, std::forward<Args>(args)...), terminal_width(2)));
}
/// On stdout, folded as notes are. Throws Error{io} if that cannot be written.
template <typename... Args>
void print_result(fmt::format_string<Args...> format, Args&&... args) {
  write_result(folded(fmt::format(format, std::forward<Args>(args)...), terminal_width(1)));
}

}  // namespace flexgen
