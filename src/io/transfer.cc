#include "io/transfer.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <thread>

#include "base/units.h"

namespace flexgen {
namespace {

/// So many fruitless calls in a row are a broken disk, not bad luck; without a bound we would hang.
constexpr int kMaxStalls = 100;

constexpr const char* kDescriptors = "/proc/self/fd/";

bool is_there(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

Error transfer_error(const Piece& piece, int error) {
  return file_error(piece.file->path(), fmt::format("{} {} bytes at offset {}", piece.write ? "write" : "read", piece.bytes, piece.offset), error);
}

/// Whether the file has nothing against the bytes that were just read.
bool checked(const Piece& piece, int64_t done, std::exception_ptr* error) {
  if (piece.write || done == 0) return true;
  *error = piece.file->check(piece.offset, {piece.data, static_cast<size_t>(done)});
  return *error == nullptr;
}

}  // namespace

std::string folder_of(const std::string& path) {
  std::error_code ignored;
  const auto absolute = std::filesystem::absolute(path, ignored);
  return ignored ? path : absolute.parent_path().string();
}

std::string opened_by_descriptor(int descriptor) { return kDescriptors + std::to_string(descriptor); }

std::string shown_name(const std::string& path) { return path.starts_with(kDescriptors) ? "standard input" : path; }

std::string file_advice(const std::string& path, int error) {
  switch (error) {
    case ENOSPC:
      return fmt::format("; the disk that holds {} is full: free some space there, or use another one (-o for outputs, --disk-dir for weights and spill files)",
                         folder_of(path));
    case EDQUOT: return fmt::format("; the disk quota for {} is used up: free some space there, or use another directory", folder_of(path));
    case EFBIG: return "; no file may be so large here: raise the limit (ulimit -f), or use a file system without one";
    case EIO: return "; the disk reports a failure (see dmesg): copy or fetch the file to another disk; for a spill file, use another --disk-dir";
    case EMFILE:
    case ENFILE: return "; too many files are open: raise the limit (ulimit -n), or close what holds them";
    case EACCES:
    case EPERM: return "; this user may not: check the permissions of it and of its directories (ls -ld), or use another path or user";
    case EROFS: return "; that file system is mounted to be read only: use another directory";
    case ENOENT: return fmt::format("; check the path{}", is_there(folder_of(path)) ? "" : fmt::format(": there is no directory {}", folder_of(path)));
    case EISDIR: return "; it is a directory, where a file must be: check the path";
    case ENOTDIR: return "; a part of the path that must be a directory is a file: check the path";
    case ELOOP: return "; its symbolic links lead to each other: mend them, or use another path";
    case ENAMETOOLONG: return "; use a shorter name";
    case ENXIO:
    case ENODEV: return "; it is no regular file: check the path";
    case ESTALE: return "; the file server has lost it: mount its file system again";
    case ETXTBSY: return "; it is a program that runs: use another path";
    case EAGAIN:
    case ENOMEM:
      return "; the kernel, or the memory limit of this container, has no memory left for the request itself: lower --cpu-memory, or end other programs";
    default: return "";
  }
}

Error file_error(const std::string& path, const std::string& what, int error) {
  return Error(ErrorKind::kIo, fmt::format("{}: cannot {}: {}{}", path, what, std::strerror(error), file_advice(path, error)));
}

int ask_before_transfer(const Piece& piece, int64_t* bytes) {
  int64_t allowed = piece.bytes;
  if (int error = piece.file->before_transfer(piece.write, piece.offset, &allowed)) return error;
  allowed = std::clamp<int64_t>(allowed, 0, piece.bytes);
  if (allowed > 0 && allowed < piece.bytes && piece.file->whole_sectors())
    allowed = std::min(piece.bytes, std::max(round_down(allowed, kDirectAlignment), kDirectAlignment));
  *bytes = allowed;
  return 0;
}

int64_t transfer_once(const Piece& piece) {
  int64_t bytes = 0;
  if (int error = ask_before_transfer(piece, &bytes)) return -error;
  if (bytes == 0) return 0;
  const int descriptor = piece.file->descriptor();
  const ssize_t n = piece.write ? pwrite(descriptor, piece.data, static_cast<size_t>(bytes), piece.offset)
                                : pread(descriptor, piece.data, static_cast<size_t>(bytes), piece.offset);
  return n < 0 ? -errno : n;
}

Outcome advance(Piece& piece, int64_t result, std::exception_ptr* error) {
  const bool passing = result == -EINTR || result == -EAGAIN || result == -ENOMEM;
  if (passing && ++piece.stalls < kMaxStalls) {
    if (result != -EINTR) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return Outcome::kAgain;
  }
  if (result < 0) {
    *error = std::make_exception_ptr(transfer_error(piece, static_cast<int>(-result)));
    return Outcome::kFailed;
  }
  if (result > 0) piece.file->after_transfer(piece.write, piece.offset, result);
  int64_t done = std::min(result, piece.bytes);
  if (done < piece.bytes && !piece.write) {
    int64_t size = 0;
    try {
      size = piece.file->size();
    } catch (...) {
      *error = std::current_exception();
      return Outcome::kFailed;
    }
    if (piece.offset + done >= size) {
      if (size >= piece.needed_end) return checked(piece, done, error) ? Outcome::kOver : Outcome::kFailed;
      *error = std::make_exception_ptr(Error(ErrorKind::kIo, fmt::format("{}: ends at byte {}, but byte {} is needed; the file is truncated or was changed "
                                                                         "during the run: fetch it again",
                                                                         piece.file->path(), size, piece.needed_end - 1)));
      return Outcome::kFailed;
    }
  }
  // A direct transfer can only go on at a sector: a sector that came in part is moved again.
  if (done < piece.bytes && piece.file->whole_sectors()) done = round_down(done, kDirectAlignment);
  if (!checked(piece, done, error)) return Outcome::kFailed;
  piece.data += done;
  piece.offset += done;
  piece.bytes -= done;
  if (piece.bytes == 0) return Outcome::kOver;
  piece.stalls = done > 0 ? 0 : piece.stalls + 1;
  if (piece.stalls < kMaxStalls) return Outcome::kAgain;
  *error = std::make_exception_ptr(transfer_error(piece, EIO));
  return Outcome::kFailed;
}

void transfer_all(Piece piece) {
  if (piece.bytes == 0) return;
  std::exception_ptr error;
  Outcome outcome;
  do {
    outcome = advance(piece, transfer_once(piece), &error);
  } while (outcome == Outcome::kAgain);
  if (outcome == Outcome::kFailed) std::rethrow_exception(error);
}

}  // namespace flexgen
