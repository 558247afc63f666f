#include "batch/kept_input.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "batch/rewritten_file.h"
#include "io/transfer.h"
#include "io/whole_file.h"
#include "io/write_all.h"

namespace flexgen {
namespace {

constexpr size_t kFilePieceBytes = 1 << 20;

}  // namespace

KeptInput::KeptInput(const std::string& output, int descriptor, const std::atomic<bool>& stop) : kept_(path_for(output)), path_(kept_) {
  const bool kept = file_is_there(kept_);
  if (isatty(descriptor)) {
    if (kept) {
      spdlog::info("standard input is a terminal: going on with the requests in {}", kept_);
      return;
    }
    spdlog::info("reading requests from the terminal, up to Ctrl-D");
  }
  arrived_.emplace(kept_);
  if (take(descriptor, stop)) path_ = arrived_->opened_by();
  else arrived_.reset();
}

bool KeptInput::take(int from, const std::atomic<bool>& stop) {
  read_all(from, stop);
  if (stopped_) return false;
  const bool kept = file_is_there(kept_);
  struct stat info {};
  if (fstat(arrived_->descriptor(), &info) != 0) fail_io("cannot look at standard input as it is kept: {}", std::strerror(errno));
  if (info.st_size > 0) {
    if (!kept) return true;
    if (same_as_kept()) return false;
    const std::string manifest = JobFiles(kept_.substr(0, kept_.size() - path_for("").size())).manifest;
    if (!file_is_there(manifest))
      fail_user("{} holds other requests than those that came, and there is no job ({}) that kept it; move it away, or give another output", kept_, manifest);
    return true;
  }
  if (!kept) fail_user("standard input is empty, and there are no requests in {}; pipe them into flexgen, or name their file after --input", kept_);
  spdlog::info("standard input is empty: going on with the requests in {}", kept_);
  return false;
}

void KeptInput::read_all(int from, const std::atomic<bool>& stop) {
  const auto fail = [&](int error) { fail_io("cannot keep standard input as {}: {}{}", kept_, std::strerror(error), file_advice(kept_, error)); };
  const int descriptor = arrived_->descriptor();
  std::vector<char> piece(kFilePieceBytes);
  for (;;) {
    // A read would go on after a signal; this does not.
    pollfd wait{from, POLLIN, 0};
    while (!stop && ::poll(&wait, 1, -1) < 0 && errno == EINTR) {
    }
    if ((stopped_ = stop)) return;
    const ssize_t got = ::read(from, piece.data(), piece.size());
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0) fail_io("cannot read standard input: {}", std::strerror(errno));
    if (got == 0) break;
    if (const int error = write_all(descriptor, {piece.data(), static_cast<size_t>(got)})) fail(error);
  }
  // A file's time goes into the answers (Job): -i - <FILE gives those of -i FILE.
  struct stat info {};
  if (fstat(from, &info) == 0 && S_ISREG(info.st_mode)) {
    const timespec times[2]{info.st_atim, info.st_mtim};
    if (futimens(descriptor, times) != 0) spdlog::debug("{} keeps its own time: {}", kept_, std::strerror(errno));
  }
  if (fsync(descriptor) != 0) fail(errno);
}

bool KeptInput::same_as_kept() const {
  const int kept = ::open(kept_.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat old {};
  struct stat now {};
  bool same = kept >= 0 && fstat(kept, &old) == 0 && fstat(arrived_->descriptor(), &now) == 0 && old.st_size == now.st_size;
  std::vector<char> a(kFilePieceBytes), b(kFilePieceBytes);
  for (int64_t at = 0; same && at < now.st_size; at += static_cast<int64_t>(kFilePieceBytes)) {
    const auto bytes = static_cast<size_t>(std::min<int64_t>(static_cast<int64_t>(kFilePieceBytes), now.st_size - at));
    FilePart first(kept, kept_, at, static_cast<int64_t>(bytes)), second(arrived_->descriptor(), "standard input", at, static_cast<int64_t>(bytes));
    read_fully(first, a.data(), bytes);
    read_fully(second, b.data(), bytes);
    same = std::memcmp(a.data(), b.data(), bytes) == 0;
  }
  if (kept >= 0) ::close(kept);
  return same;
}

void KeptInput::keep() {
  if (!arrived_) return;
  if (const int error = arrived_->replace()) fail_io("cannot keep standard input as {}: {}{}", kept_, std::strerror(error), file_advice(kept_, error));
  path_ = kept_;
  arrived_.reset();
}

}  // namespace flexgen
