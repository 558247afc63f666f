#pragma once
// What a process says when memory, threads or the like run out where nobody can catch it. Thread-safe.

#include <exception>
#include <string>

namespace flexgen {

/// The sentence for an error that has left everything behind: of an Error its own; of a failed allocation or a system call which resource ran out, its limit and what to do.
std::string sentence_of(const std::exception& error);
/// Writes it on stderr behind the program's name, whatever else is shown.
void write_sentence_of(const std::exception& error);

/// From now on an exception that leaves a thread ends the process with its sentence and exit status 1; our own bugs still abort.
void end_with_a_sentence();

/// Under a limit of address space (ulimit -v) all threads share one arena of malloc from now on: one for each would take 64 MiB of it a thread. Before threads start.
void save_address_space();

}  // namespace flexgen
