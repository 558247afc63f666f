#pragma once
// Progress: how far a run is, for a person: a bar on a terminal, else a line now and then, and a table at the end. The
// texts are pure functions; ProgressDisplay has a thread that draws them.

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "engine/engine.h"

namespace flexgen {

/// What a lane did between two snapshots.
struct LaneLoad {
  std::string name;
  double busy = 0;  ///< share of the time
  double bytes_per_s = 0;
};
/// The busiest lane between `before` and `now`: what the run waits for. Empty name if nothing ran.
LaneLoad bottleneck(const Progress& before, const Progress& now);

/// Seconds left, from the share of tokens, weighted by what those of prompts and of answers take, or of sequences that is done, whichever is more; negative if unknown.
double seconds_left(const Progress& progress);

/// "[#####-----] 42%  107/256  812 prompt + 104 generated tok/s  ETA 2m 10s  disk read 97%", at most `width` columns: what is left out for want of room goes by its worth,
/// the time left last. Counts what earlier runs of the job have done.
std::string progress_bar(const Progress& before, const Progress& now, int width);
/// "107 of 256 sequences done; 812 prompt and 104 generated tokens/s; 2m 10s left; bottleneck disk read (97% busy, 1.71 GB/s)"
std::string progress_line(const Progress& before, const Progress& now);
/// The table at the end: several lines, each ended.
std::string report_table(const RunReport& report);

class ProgressDisplay {
 public:
  using Poll = std::function<Progress()>;
  /// Draws to stderr until destroyed: a bar if that is a terminal that can draw over a line, else a line with the time every `line_interval_s`; nothing with --quiet. What cannot be written is dropped.
  explicit ProgressDisplay(Poll poll, double line_interval_s = 10);
  ProgressDisplay(Poll poll, double line_interval_s, int descriptor, bool terminal);  ///< descriptor -1: draws nothing
  ~ProgressDisplay();
  ProgressDisplay(const ProgressDisplay&) = delete;
  ProgressDisplay& operator=(const ProgressDisplay&) = delete;

 private:
  void loop();

  Poll poll_;
  double line_interval_s_;
  int descriptor_;
  bool terminal_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool closing_ = false;
  std::thread thread_;
};

}  // namespace flexgen
