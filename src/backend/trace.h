#pragma once
// Trace: what each lane did when, as a Chrome/Perfetto trace file (one track a lane). A disk that is full ends the trace, not the run. Thread-safe.

#include <chrono>
#include <cstdio>
#include <map>
#include <mutex>
#include <string>

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
  /// Opens `path` for writing; throws Error{io} if that fails.
  explicit Trace(const std::string& path, const Process& process = {1, "", 0});
  ~Trace();
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;

  void add(const std::string& lane, const char* name, int64_t step, int64_t layer, int64_t batch,
           double bytes, Clock::time_point start, Clock::time_point end);

 private:
  void write(const std::string& text);

  std::mutex mutex_;
  std::string path_;
  std::FILE* file_;
  bool failed_ = false;
  Process process_;
  Clock::time_point origin_ = Clock::now();
  std::map<std::string, int> tracks_;
};

}  // namespace flexgen
