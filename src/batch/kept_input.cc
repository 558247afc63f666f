#include "batch/kept_input.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
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

KeptInput::KeptInput(const std::string& output, int descriptor, const std::atomic<bool>& stop) : kept_(path_for(output)), arrived_(kept_ + ".tmp"), path_(kept_) {
  const bool kept = file_is_there(kept_);
  if (isatty(descriptor)) {
    if (kept) {
      spdlog::info("standard input is a terminal: going on with the requests in {}", kept_);
      return;
    }
    spdlog::info("reading requests from the terminal, up to Ctrl-D");
  }
  descriptor_ = ::open(arrived_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor_ < 0) fail_user("cannot keep standard input as {}: {}{}", arrived_, std::strerror(errno), file_advice(arrived_, errno));
  if (flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    ::close(std::exchange(descriptor_, -1));
    fail_user("another flexgen process is reading requests for {}; wait for it, stop it, or give another output", output);
  }
  try {
    if (take(descriptor, stop)) path_ = arrived_;
    else give_up();
  } catch (...) {
    give_up();
    throw;
  }
}

bool KeptInput::take(int from, const std::atomic<bool>& stop) {
  const bool kept = file_is_there(kept_);
  read_all(from, stop);
  if (stopped_) return false;
  struct stat info {};
  if (fstat(descriptor_, &info) != 0) fail_io("cannot look at {}: {}", arrived_, std::strerror(errno));
  if (info.st_size > 0) {
    if (!kept) return true;
    if (same_as_kept()) return false;
    const std::string manifest = kept_.substr(0, kept_.size() - path_for("").size()) + ".job";
    if (!file_is_there(manifest))
      fail_user("{} holds other requests than those that came, and there is no job ({}) that kept it; move it away, or give another output", kept_, manifest);
    return true;
  }
  if (!kept) fail_user("standard input is empty, and there are no requests in {}; pipe them into flexgen, or name their file after --input", kept_);
  spdlog::info("standard input is empty: going on with the requests in {}", kept_);
  return false;
}

KeptInput::~KeptInput() { give_up(); }

void KeptInput::give_up() {
  if (descriptor_ < 0) return;
  ::unlink(arrived_.c_str());
  ::close(std::exchange(descriptor_, -1));
}

void KeptInput::read_all(int from, const std::atomic<bool>& stop) {
  const auto fail = [&](int error) { fail_io("cannot keep standard input as {}: {}{}", arrived_, std::strerror(error), file_advice(arrived_, error)); };
  if (ftruncate(descriptor_, 0) != 0) fail(errno);
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
    if (const int error = write_all(descriptor_, {piece.data(), static_cast<size_t>(got)})) fail(error);
  }
  // A file's time goes into the answers (Job): -i - <FILE gives those of -i FILE.
  struct stat info {};
  if (fstat(from, &info) == 0 && S_ISREG(info.st_mode)) {
    const timespec times[2]{info.st_atim, info.st_mtim};
    if (futimens(descriptor_, times) != 0) spdlog::debug("{} keeps its own time: {}", arrived_, std::strerror(errno));
  }
  if (fsync(descriptor_) != 0) fail(errno);
}

bool KeptInput::same_as_kept() const {
  const int kept = ::open(kept_.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat old {}, now {};
  bool same = kept >= 0 && fstat(kept, &old) == 0 && fstat(descriptor_, &now) == 0 && old.st_size == now.st_size;
  std::vector<char> a(kFilePieceBytes), b(kFilePieceBytes);
  for (int64_t at = 0; same && at < now.st_size; at += static_cast<int64_t>(kFilePieceBytes)) {
    const auto bytes = static_cast<size_t>(std::min<int64_t>(static_cast<int64_t>(kFilePieceBytes), now.st_size - at));
    FilePart first(kept, kept_, at, static_cast<int64_t>(bytes)), second(descriptor_, arrived_, at, static_cast<int64_t>(bytes));
    read_fully(first, a.data(), bytes);
    read_fully(second, b.data(), bytes);
    same = std::memcmp(a.data(), b.data(), bytes) == 0;
  }
  if (kept >= 0) ::close(kept);
  return same;
}

void KeptInput::keep() {
  if (descriptor_ < 0) return;
  if (::rename(arrived_.c_str(), kept_.c_str()) != 0) fail_io("cannot keep standard input as {}: {}", kept_, std::strerror(errno));
  sync_directory_of(kept_);
  path_ = kept_;
  ::close(std::exchange(descriptor_, -1));
}

}  // namespace flexgen
