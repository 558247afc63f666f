#pragma once
// FileStamp: what the file system says of a file that changes when somebody writes to it. FileWatch: files that must stay as they are while they are used.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "io/file.h"

namespace flexgen {

struct FileStamp {
  uint64_t device = 0, inode = 0;
  int64_t size = 0, written_ns = 0;  ///< st_mtim
  int64_t changed_ns = 0;            ///< st_ctim: cannot be set back
  uint64_t mode = 0, owner = 0, links = 0;

  /// Throws Error{io} naming `path`.
  static FileStamp of(int descriptor, const std::string& path);
  /// Whether `later`, of the same open file, may have other bytes. Its status alone may have changed: permissions, owner, names.
  bool may_differ(const FileStamp& later) const;
};

/// Files as they were at some moment. Costs a system call a file and look. One thread.
class FileWatch {
 public:
  /// `stamps`: a file's each. `open`: the files themselves, which are looked at by their own descriptors; one that is null, or all if it is empty, is opened
  /// here. Throws Error{io} if one is another by now.
  FileWatch(std::vector<std::string> paths, std::vector<FileStamp> stamps, std::vector<std::shared_ptr<File>> open = {});
  ~FileWatch();
  FileWatch(const FileWatch&) = delete;
  FileWatch& operator=(const FileWatch&) = delete;

  /// Throws Error{io} if a file was written to, or cut. What was read from it before the call is old, then, or may be new.
  void check_bytes();
  /// Throws Error{io} if one of the first `count` paths names another file by now, or none. What is open stays what it was.
  void check_names(size_t count) const;

 private:
  void close_own();
  /// Whether the path still names the file.
  bool is_named(size_t file) const;

  std::vector<std::string> paths_;
  std::vector<FileStamp> stamps_;
  std::vector<std::shared_ptr<File>> open_;
  std::vector<int> descriptors_;  ///< of open_ where there is one, else our own
};

}  // namespace flexgen
