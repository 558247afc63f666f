#pragma once
// NewFile: a new text for a file, which has no name until it takes that file's place. So it overwrites nothing that somebody else put beside it, and a process that is killed leaves nothing behind. One thread.

#include <string>
#include <string_view>

#include "io/write_all.h"

namespace flexgen {

/// Creates and opens (O_EXCL, with `flags`, mode 0644) a file beside `path` that was not there: PATH.PID-N.tmp. Its descriptor, or -1 with errno.
int create_beside(const std::string& path, int flags, std::string* name);

class NewFile {
 public:
  /// Open to read and to append, in the folder of `path`. A link's target is meant, not the link. Throws Error{io}. `may_be_nameless` false: as on a file system without nameless files, where it has the
  /// name of create_beside(), which a kill may leave behind.
  explicit NewFile(const std::string& path, bool may_be_nameless = true);
  /// What has not taken its place is gone.
  ~NewFile();
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  int descriptor() const { return descriptor_; }
  /// What it will be.
  const std::string& path() const { return path_; }
  /// By which it can be opened meanwhile.
  std::string opened_by() const;
  /// Takes the place of what is there, whole or not at all, and brings the folder to the disk. 0, or an errno. What is in the file is the caller's to sync before.
  int replace();
  /// Writes all of it, syncs it, and replace(). 0, or an errno.
  int replace_with(std::string_view text, const WriteCall& write = ::write);
  /// The descriptor, the caller's from now on.
  int release();

 private:
  std::string path_, name_;  ///< name_: empty as long as it has none
  int descriptor_ = -1;
};

/// Writes a whole file in that way, and syncs it. `is_private`: for this user alone. Throws Error{io}.
void replace_whole_file(const std::string& path, const std::string& text, bool is_private = false);

/// Brings the entries of a path's folder to the disk, where its file system can.
void sync_directory_of(const std::string& path);

}  // namespace flexgen
