#pragma once
// KeptInput: requests that come through standard input, kept in a file beside the output, as a job that may be continued reads its input again. One thread.

#include <atomic>
#include <optional>
#include <string>

#include "batch/job_files.h"
#include "io/new_file.h"

namespace flexgen {

class KeptInput {
 public:
  /// Where the requests for `output` are kept.
  static std::string path_for(const std::string& output) { return JobFiles(output).input; }

  /// Reads all of `descriptor`. Nothing is changed that is there: what came is beside it, without a name, until keep(). If the same came as is kept, or nothing (or it is a terminal) and there is
  /// a kept file, that is used. Ends early once `stop` is set, then stopped(). Throws Error{user} if there is nothing to read, or the file that is there
  /// says something else and no job has kept it, Error{io}.
  KeptInput(const std::string& output, int descriptor, const std::atomic<bool>& stop);
  /// The file with the requests, until keep().
  const std::string& path() const { return path_; }
  bool stopped() const { return stopped_; }
  /// From now on they are at path_for(output), in place of what was there.
  void keep();

 private:
  /// Whether requests came that are not kept yet.
  bool take(int from, const std::atomic<bool>& stop);
  void read_all(int from, const std::atomic<bool>& stop);
  bool same_as_kept() const;

  std::string kept_, path_;
  std::optional<NewFile> arrived_;  ///< what came, until it is kept
  bool stopped_ = false;
};

}  // namespace flexgen
