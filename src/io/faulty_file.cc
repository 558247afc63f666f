#include "io/faulty_file.h"

#include <algorithm>

#include "base/units.h"
#include "io/transfer.h"

namespace flexgen {

void FaultPlan::add(const Fault& fault) {
  std::lock_guard lock(mutex_);
  rules_.push_back({fault});
}

void FaultPlan::clear() {
  std::lock_guard lock(mutex_);
  rules_.clear();
}

int FaultPlan::decide(FileOperation operation, const std::string& path, int64_t offset, int64_t* bytes) {
  std::lock_guard lock(mutex_);
  ++operations_;
  for (Rule& rule : rules_) {
    const Fault& fault = rule.fault;
    if (fault.operation != operation || path.find(fault.path_part) == std::string::npos) continue;
    if (offset >= fault.end || offset + *bytes <= fault.begin) continue;
    const int64_t index = rule.matched++;
    if (index < fault.skip || index - fault.skip >= fault.times) continue;
    ++injected_;
    if (fault.error != 0) return fault.error;
    *bytes = std::min(*bytes, fault.keep_bytes);
    return 0;
  }
  return 0;
}

int64_t FaultPlan::operations() const {
  std::lock_guard lock(mutex_);
  return operations_;
}

int64_t FaultPlan::injected() const {
  std::lock_guard lock(mutex_);
  return injected_;
}

FaultyFile::FaultyFile(std::shared_ptr<File> file, std::shared_ptr<FaultPlan> plan) : file_(std::move(file)), plan_(std::move(plan)) {}

void FaultyFile::preallocate(int64_t bytes) {
  int64_t allowed = bytes;
  if (int error = plan_->decide(FileOperation::kPreallocate, path(), 0, &allowed)) throw file_error(path(), "reserve " + format_bytes(bytes), error);
  file_->preallocate(bytes);
}

int FaultyFile::before_transfer(bool write, int64_t offset, int64_t* bytes) {
  if (int error = plan_->decide(write ? FileOperation::kWrite : FileOperation::kRead, path(), offset, bytes)) return error;
  return file_->before_transfer(write, offset, bytes);
}

std::shared_ptr<File> FaultyFileSystem::open(const std::string& path, FileMode mode) {
  int64_t bytes = 1;
  if (int error = plan_->decide(FileOperation::kOpen, path, 0, &bytes)) throw file_error(path, "open it", error);
  return std::make_shared<FaultyFile>(FileSystem::open(path, mode), plan_);
}

}  // namespace flexgen
