#pragma once
// Transfer: one piece of a file on its way, system call by system call: what blocking calls and both disk engines
// agree on (hooks, short transfers, the end of the file, error texts). A piece belongs to one thread at a time.

#include <cstddef>
#include <cstdint>
#include <exception>

#include "base/error.h"
#include "io/file.h"

namespace flexgen {

/// What is left of a piece.
struct Piece {
  File* file = nullptr;
  bool write = false;
  std::byte* data = nullptr;
  int64_t offset = 0, bytes = 0;
  int64_t needed_end = 0;  ///< a read is over at the end of a file that has at least this many bytes
  int stalls = 0;          ///< system calls in a row that moved nothing
};

/// What is to be done with a piece after a system call: nothing, the next call, tell the error.
enum class Outcome { kOver, kAgain, kFailed };

/// Asks the file's hook how many bytes the next system call may move. An errno, or 0 with *bytes set (a multiple of
/// kDirectAlignment if it was shortened and the file is direct; 0: the hook lets nothing through now).
int ask_before_transfer(const Piece& piece, int64_t* bytes);

/// The hook and one pread or pwrite: bytes moved, or -errno.
int64_t transfer_once(const Piece& piece);

/// Takes the result of a system call (bytes moved, or -errno) into account: over, to be issued again for what is
/// left, or failed with *error set to an Error{io}.
Outcome advance(Piece& piece, int64_t result, std::exception_ptr* error);

/// transfer_once() until it is over. Throws the error.
void transfer_all(Piece piece);

/// Error{io} "PATH: cannot WHAT: reason; what to do", for an errno.
Error file_error(const std::string& path, const std::string& what, int error);

/// "; what to do" about an errno that opening, reading or writing `path` gave; empty where there is nothing to say.
std::string file_advice(const std::string& path, int error);

/// The folder of `path`, for advice.
std::string folder_of(const std::string& path);
/// By which an open file can be opened again, whether it has a name or not.
std::string opened_by_descriptor(int descriptor);
/// How messages name it: what is read by its descriptor came through standard input.
std::string shown_name(const std::string& path);

}  // namespace flexgen
