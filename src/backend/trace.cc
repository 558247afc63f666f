#include "backend/trace.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include <fmt/format.h>

#include "base/error.h"
#include "base/log.h"

namespace flexgen {
namespace {

/// Ids of tracks, in groups of a lane: more than operations ever overlap in one.
constexpr int kTracksPerLane = 10000;

/// Empty, and locked where the file system can; a pipe or a device as it is.
std::FILE* open_to_write(const std::string& path) {
  const auto fail = [&](int error) { fail_io("cannot write the trace to {}: {}; give --trace a writable path", path, std::strerror(error)); };
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor < 0) fail(errno);
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(::fdopen(descriptor, "w"), &std::fclose);
  struct stat info {};
  if (!file || ::fstat(descriptor, &info) != 0) fail(errno);
  if (!S_ISREG(info.st_mode)) return file.release();
  if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
    fail_user("another flexgen process is writing the trace {}; wait for it, stop it, or give another --trace", path);
  if (::ftruncate(descriptor, 0) != 0) fail(errno);
  return file.release();
}

}  // namespace

Trace::Trace(const std::string& path, const Process& process) : path_(path), file_(open_to_write(path)), process_(process) {
  write("[\n" + fmt::format(R"({{"ph":"M","pid":{},"name":"process_name","args":{{"name":"{}"}}}})", process.number, process.name));
}

Trace::~Trace() {
  write("\n]\n");
  if (std::fclose(file_) != 0 && !failed_) spdlog::warn("the trace {} cannot be written whole: {}", path_, std::strerror(errno));
}

void Trace::write(const std::string& text) {
  if (failed_ || std::fwrite(text.data(), 1, text.size(), file_) == text.size()) return;
  failed_ = true;
  spdlog::warn("the trace {} cannot be written: {}; the run goes on without it", path_, std::strerror(errno));
}

void Trace::add(const std::string& lane, const char* name, int64_t step, int64_t layer, int64_t batch, double bytes, Clock::time_point start,
                Clock::time_point end) {
  auto nanoseconds = [&](Clock::time_point t) {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(t - origin_).count() + static_cast<int64_t>(1e9 * process_.start_s);
  };
  std::lock_guard lock(mutex_);
  const int64_t start_ns = std::max<int64_t>(0, nanoseconds(start)), end_ns = std::max(start_ns, nanoseconds(end));
  const int track = free_track(lane, start_ns, end_ns);
  // In microseconds, to the nanosecond: slices that meet must not overlap by a rounding.
  write(fmt::format(
      ",\n"
      R"({{"ph":"X","pid":{},"tid":{},"name":"{}","ts":{}.{:03},"dur":{}.{:03},)"
      R"("args":{{"step":{},"layer":{},"batch":{},"bytes":{:.0f}}}}})",
      process_.number, track, name, start_ns / 1000, start_ns % 1000, (end_ns - start_ns) / 1000, (end_ns - start_ns) % 1000, step, layer, batch, bytes));
}

int Trace::free_track(const std::string& lane, int64_t start_ns, int64_t end_ns) {
  Tracks& tracks = lanes_.try_emplace(lane, Tracks{static_cast<int>(lanes_.size()) + 1, {}}).first->second;
  size_t best = tracks.ends_ns.size();
  for (size_t i = 0; i < tracks.ends_ns.size(); ++i)
    if (tracks.ends_ns[i] <= start_ns && (best == tracks.ends_ns.size() || tracks.ends_ns[i] > tracks.ends_ns[best])) best = i;
  const int track = tracks.number * kTracksPerLane + static_cast<int>(best);
  if (best == tracks.ends_ns.size()) {
    tracks.ends_ns.push_back(end_ns);
    write(
        fmt::format(",\n"
                    R"({{"ph":"M","pid":{0},"tid":{1},"name":"thread_name","args":{{"name":"{2}"}}}})"
                    ",\n"
                    R"({{"ph":"M","pid":{0},"tid":{1},"name":"thread_sort_index","args":{{"sort_index":{1}}}}})",
                    process_.number, track, best == 0 ? lane : fmt::format("{} {}", lane, best + 1)));
  }
  tracks.ends_ns[best] = end_ns;
  return track;
}

}  // namespace flexgen
