#pragma once
// Trace: what each lane did when, as a Chrome/Perfetto trace file. Operations of a lane that overlap, such as reads in a disk's queue, are on tracks of their own
// ("disk read", "disk read 2", ...): viewers take slices of one track for calls within calls and drop those that only overlap. A disk that is full ends the trace, not the run.
// Thread-safe.

#include <chrono>
#include <cstdio>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace flexgen {

class Trace {
 public:
  using Clock = std::chrono::steady_clock;
  /// One of several processes whose traces are joined: its number and name in the whole, and how late after the others' common start it begins.
  struct Process {
    int number;
    std::string name;
    double start_s;
  };
  /// Opens `path` for writing, and locks it; throws Error{user} if another process writes its trace there, Error{io} if it cannot be opened.
  explicit Trace(const std::string& path, const Process& process = {1, "flexgen", 0});
  ~Trace();
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;

  void add(const std::string& lane, const char* name, int64_t step, int64_t layer, int64_t batch, double bytes, Clock::time_point start, Clock::time_point end);

 private:
  /// A lane's number, and for each of its tracks the end of the last slice there, in nanoseconds from the file's beginning.
  struct Tracks {
    int number;
    std::vector<int64_t> ends_ns;
  };
  /// The id of a track of `lane` that is free from `start_ns` on; a new one if there is none.
  int free_track(const std::string& lane, int64_t start_ns, int64_t end_ns);
  void write(const std::string& text);

  std::mutex mutex_;
  std::string path_;
  std::FILE* file_;
  bool failed_ = false;
  Process process_;
  Clock::time_point origin_ = Clock::now();
  std::map<std::string, Tracks> lanes_;
};

}  // namespace flexgen
