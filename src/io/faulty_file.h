#pragma once
// FaultyFile, FaultyFileSystem: a disk that fails on demand, for tests: errors, short transfers and full disks at
// programmed places, under blocking and asynchronous I/O alike. May be used from several threads.

#include <cerrno>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "io/file.h"
#include "io/file_system.h"

namespace flexgen {

/// What is made to fail.
enum class FileOperation { kOpen, kRead, kWrite, kPreallocate };

/// One rule: operations of this kind, on files whose path contains `path_part`, that touch [begin, end), except the
/// first `skip` of them, at most `times`.
struct Fault {
  static constexpr int64_t kForever = std::numeric_limits<int64_t>::max();

  FileOperation operation = FileOperation::kRead;
  /// An errno the operation fails with; 0: the transfer is shortened instead, to keep_bytes.
  int error = EIO;
  int64_t keep_bytes = 0;
  std::string path_part;
  int64_t begin = 0, end = kForever;
  int64_t skip = 0;
  int64_t times = kForever;
};

/// The rules, shared by the files of a test.
class FaultPlan {
 public:
  void add(const Fault& fault);
  void clear();
  /// An errno, or 0 with *bytes perhaps lowered. The first rule that matches acts.
  int decide(FileOperation operation, const std::string& path, int64_t offset, int64_t* bytes);
  int64_t operations() const;  ///< asked about so far
  int64_t injected() const;    ///< that failed or were shortened

 private:
  struct Rule {
    Fault fault;
    int64_t matched = 0;
  };
  mutable std::mutex mutex_;
  std::vector<Rule> rules_;
  int64_t operations_ = 0, injected_ = 0;
};

class FaultyFile : public DescriptorFile {
 public:
  FaultyFile(std::shared_ptr<File> file, std::shared_ptr<FaultPlan> plan);

  const std::string& path() const override { return file_->path(); }
  int64_t size() const override { return file_->size(); }
  void preallocate(int64_t bytes) override;
  bool direct() const override { return file_->direct(); }
  int descriptor() const override { return file_->descriptor(); }
  int before_transfer(bool write, int64_t offset, int64_t* bytes) override;
  void after_transfer(bool write, int64_t offset, int64_t bytes) override { file_->after_transfer(write, offset, bytes); }

 private:
  std::shared_ptr<File> file_;
  std::shared_ptr<FaultPlan> plan_;
};

class FaultyFileSystem : public FileSystem {
 public:
  explicit FaultyFileSystem(std::shared_ptr<FaultPlan> plan) : plan_(std::move(plan)) {}
  std::shared_ptr<File> open(const std::string& path, FileMode mode) override;

 private:
  std::shared_ptr<FaultPlan> plan_;
};

}  // namespace flexgen
