#include "io/sector_sums.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>

#include <xxhash.h>

#include "base/error.h"
#include "base/units.h"

namespace flexgen {
namespace {

constexpr int64_t kSectorBytes = kDirectAlignment;

uint32_t sum_of(const std::byte* data, int64_t bytes, int64_t sector, uint64_t seed) {
  const uint64_t place = seed + static_cast<uint64_t>(sector) * 0x9e3779b97f4a7c15u;
  return static_cast<uint32_t>(((XXH3_64bits(data, static_cast<size_t>(bytes)) ^ place) * 0xd6e8feb86659fd93u) >> 32);
}

/// The two words after the sums of all sectors.
uint64_t sum_of_sums(const uint32_t* sums, size_t count, uint64_t seed) { return XXH3_64bits(sums, count * sizeof *sums) ^ seed; }

class CheckedFile : public DescriptorFile {
 public:
  CheckedFile(std::shared_ptr<File> file, const SummedData& data)
      : file_(std::move(file)), data_(data), num_sectors_(ceil_div(data.bytes, kSectorBytes)), left_(num_sectors_),
        checked_(static_cast<size_t>(num_sectors_)) {}

  const std::string& path() const override { return file_->path(); }
  int64_t size() const override { return file_->size(); }
  void preallocate(int64_t bytes) override { file_->preallocate(bytes); }
  bool direct() const override { return file_->direct(); }
  int descriptor() const override { return file_->descriptor(); }
  int before_transfer(bool write, int64_t offset, int64_t* bytes) override { return file_->before_transfer(write, offset, bytes); }
  void after_transfer(bool write, int64_t offset, int64_t bytes) override { file_->after_transfer(write, offset, bytes); }
  bool whole_sectors() const override { return true; }

  std::exception_ptr check(int64_t offset, std::span<const std::byte> bytes) override {
    if (left_.load(std::memory_order_acquire) == 0) return nullptr;
    try {
      compare(offset, bytes);
    } catch (...) {
      return std::current_exception();
    }
    return nullptr;
  }

 private:
  void compare(int64_t offset, std::span<const std::byte> bytes) {
    const int64_t begin = offset - data_.start, end = begin + static_cast<int64_t>(bytes.size());
    int64_t sector = std::max<int64_t>(0, ceil_div(begin, kSectorBytes));
    if (begin < 0) sector = 0;
    std::vector<int64_t> passed;
    const std::shared_ptr<const std::vector<uint32_t>> sums = sums_for(sector, end, &passed);
    for (int64_t candidate : passed) {
      const int64_t at = candidate * kSectorBytes, size = std::min(kSectorBytes, data_.bytes - at);
      if (sum_of(bytes.data() + (at - begin), size, candidate, data_.seed) != (*sums)[static_cast<size_t>(candidate)]) fail(at, at + size);
    }
    std::lock_guard lock(mutex_);
    int64_t fresh = 0;
    for (int64_t candidate : passed) {
      auto checked = checked_[static_cast<size_t>(candidate)];
      fresh += checked ? 0 : 1;  // another thread may have been as fast
      checked = true;
    }
    if (left_.fetch_sub(fresh, std::memory_order_release) == fresh) sums_ = nullptr;
  }

  /// Those of the sectors from `sector` on that end before `end` and were not compared yet; the sums, if there is one.
  std::shared_ptr<const std::vector<uint32_t>> sums_for(int64_t sector, int64_t end, std::vector<int64_t>* wanted) {
    std::lock_guard lock(mutex_);
    for (; sector < num_sectors_ && std::min((sector + 1) * kSectorBytes, data_.bytes) <= end; ++sector)
      if (!checked_[static_cast<size_t>(sector)]) wanted->push_back(sector);
    if (!wanted->empty() && !sums_) sums_ = std::make_shared<const std::vector<uint32_t>>(read_sums());
    return sums_;
  }

  std::vector<uint32_t> read_sums() {
    std::vector<uint32_t> sums(static_cast<size_t>(SectorSummer::words(data_.bytes)));
    file_->read(data_.start + data_.bytes, std::as_writable_bytes(std::span(sums)));
    const auto count = static_cast<size_t>(num_sectors_);
    if ((static_cast<uint64_t>(sums[count + 1]) << 32 | sums[count]) != sum_of_sums(sums.data(), count, data_.seed))
      fail(data_.bytes, data_.bytes + static_cast<int64_t>(sums.size() * sizeof(uint32_t)));
    return sums;
  }

  /// Bytes [begin, end), counted from the start of the data.
  [[noreturn]] void fail(int64_t begin, int64_t end) const {
    struct stat ours {};
    struct stat named {};
    const bool removed = fstat(descriptor(), &ours) == 0 && stat(path().c_str(), &named) == 0 && ours.st_ino == named.st_ino && ours.st_dev == named.st_dev &&
                         ::unlink(path().c_str()) == 0;
    fail_io(
        "{}: the bytes from {} to {} are not those that were written when it was made: the file is damaged, or another program changed it. {}: the same command "
        "makes it anew from the checkpoint. Should that happen again, the disk or the memory of this machine is failing",
        path(), data_.start + begin, data_.start + end - 1, removed ? "It was removed" : "Remove it");
  }

  const std::shared_ptr<File> file_;
  const SummedData data_;
  const int64_t num_sectors_;
  std::atomic<int64_t> left_;  ///< sectors that were not compared yet
  std::mutex mutex_;
  std::vector<bool> checked_;
  std::shared_ptr<const std::vector<uint32_t>> sums_;  ///< read with the first sector, gone with the last
};

}  // namespace

uint64_t SectorSummer::seed_of(std::string_view head) { return XXH3_64bits(head.data(), head.size()); }

int64_t SectorSummer::words(int64_t data_bytes) { return ceil_div(data_bytes, kSectorBytes) + 2; }

int64_t SectorSummer::checking_bytes(int64_t data_bytes) {
  return words(data_bytes) * static_cast<int64_t>(sizeof(uint32_t)) + ceil_div(ceil_div(data_bytes, kSectorBytes), 8);
}

void SectorSummer::append(const std::byte* data, int64_t bytes) {
  while (bytes > 0) {
    if (rest_.empty() && bytes >= kSectorBytes) {
      sums_.push_back(sum_of(data, kSectorBytes, static_cast<int64_t>(sums_.size()), seed_));
      data += kSectorBytes;
      bytes -= kSectorBytes;
      continue;
    }
    const int64_t size = std::min(bytes, kSectorBytes - static_cast<int64_t>(rest_.size()));
    rest_.insert(rest_.end(), data, data + size);
    data += size;
    bytes -= size;
    if (static_cast<int64_t>(rest_.size()) < kSectorBytes) continue;
    sums_.push_back(sum_of(rest_.data(), kSectorBytes, static_cast<int64_t>(sums_.size()), seed_));
    rest_.clear();
  }
}

std::vector<uint32_t> SectorSummer::finish() {
  if (!rest_.empty()) sums_.push_back(sum_of(rest_.data(), static_cast<int64_t>(rest_.size()), static_cast<int64_t>(sums_.size()), seed_));
  rest_.clear();
  const uint64_t own = sum_of_sums(sums_.data(), sums_.size(), seed_);
  sums_.push_back(static_cast<uint32_t>(own));
  sums_.push_back(static_cast<uint32_t>(own >> 32));
  return std::move(sums_);
}

std::shared_ptr<File> check_sums(std::shared_ptr<File> file, const SummedData& data) {
  FLEXGEN_CHECK(data.start % kSectorBytes == 0, "data start at {}", data.start);
  return std::make_shared<CheckedFile>(std::move(file), data);
}

}  // namespace flexgen
