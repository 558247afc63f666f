#pragma once
// PartialFile: a large file while it is made, beside where it will be, under a name that no other process has, on this machine or another that shares the folder. One thread.

#include <memory>
#include <string>

#include "io/file_system.h"

namespace flexgen {

class PartialFile {
 public:
  /// A new file PATH.HOST-PID-N.partial, open as FileMode::kWriteDirect, and locked (flock) as long as this lives. Throws Error{io}.
  PartialFile(const std::string& path, FileSystem& files);
  /// What has not got its name is gone.
  ~PartialFile();
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;

  /// What it will be.
  const std::string& path() const { return path_; }
  const std::shared_ptr<File>& file() const { return file_; }

  /// Gives it its name, whatever has that now. Throws Error{io}.
  void replace();
  /// Gives it its name unless a file has that: false then. Throws Error{io}.
  bool take_free_name();

 private:
  /// Whether it is locked, and still the file of its name.
  bool is_own() const;

  std::string path_, name_;  ///< name_: empty once it has its own
  std::shared_ptr<File> file_;
};

/// Removes what killed processes have left in a folder, *.partial: no process holds its lock, and it is of this machine, or nobody wrote to it for an hour (locks may hold within a
/// machine alone). What cannot be removed stays.
void remove_abandoned_partials(const std::string& folder);

}  // namespace flexgen
