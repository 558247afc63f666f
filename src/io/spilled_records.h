#pragma once
// SpilledRecords, RecordSorter, RecordTable: arrays of plain records of any length in bounded memory. What fits into one window stays in memory; the rest is in an unlinked
// temporary file and is read by windows. Sorting is an external merge sort. One thread each.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <queue>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/error.h"
#include "io/temporary_file.h"

namespace flexgen {

/// Where records go that do not fit into memory: as TemporaryFile's constructor has it.
struct SpillPlace {
  std::string directory, purpose;
};

template <typename T>
class SpilledRecords {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  static constexpr int64_t kDefaultWindow = std::max<int64_t>(16, (64 << 10) / static_cast<int64_t>(sizeof(T)));

  explicit SpilledRecords(SpillPlace place = {}, int64_t window = kDefaultWindow) : place_(std::move(place)), window_size_(window) {}

  int64_t size() const { return size_; }

  void push_back(const T& record) {
    show(size_);
    window_.push_back(record);
    dirty_ = true;
    ++size_;
  }

  /// By value: the next call may read another window.
  T operator[](int64_t index) {
    show(index);
    return window_[static_cast<size_t>(index - first_)];
  }

  void set(int64_t index, const T& record) {
    show(index);
    window_[static_cast<size_t>(index - first_)] = record;
    dirty_ = true;
  }

  /// Without moving the window.
  void read(int64_t first, std::span<T> records) {
    const auto count = static_cast<int64_t>(records.size());
    if (first >= first_ && first + count <= first_ + static_cast<int64_t>(window_.size())) {
      std::copy_n(window_.begin() + (first - first_), count, records.begin());
      return;
    }
    flush();
    file_->read(first * kBytes, std::as_writable_bytes(records));
  }

 private:
  static constexpr auto kBytes = static_cast<int64_t>(sizeof(T));

  /// Brings the window to where `index` is or will be.
  void show(int64_t index) {
    const int64_t first = index / window_size_ * window_size_;
    if (first == first_) return;
    flush();
    window_.resize(static_cast<size_t>(std::min(window_size_, size_ - first)));
    file_->read(first * kBytes, std::as_writable_bytes(std::span(window_)));
    first_ = first;
  }
  void flush() {
    if (!dirty_) return;
    if (!file_) file_.emplace(place_.directory, place_.purpose);
    file_->write(first_ * kBytes, std::as_bytes(std::span(window_)));
    dirty_ = false;
  }

  SpillPlace place_;
  int64_t window_size_, size_ = 0, first_ = 0;
  std::vector<T> window_;  ///< records from first_ on, a multiple of window_size_
  bool dirty_ = false;     ///< the window has what the file has not
  std::optional<TemporaryFile> file_;
};

/// Sorts records by operator<.
template <typename T>
class RecordSorter {
 public:
  static constexpr int64_t kDefaultRun = (4 << 20) / static_cast<int64_t>(sizeof(T));  ///< sorted in memory at a time

  explicit RecordSorter(SpillPlace place = {}, int64_t run = kDefaultRun) : place_(std::move(place)), run_size_(run) {}

  void add(const T& record) {
    if (static_cast<int64_t>(run_.size()) == run_size_) spill();
    run_.push_back(record);
  }

  /// Gives all records in order, once, until `take` returns false. The sorter is empty then.
  void drain(const std::function<bool(const T&)>& take) {
    std::sort(run_.begin(), run_.end());
    if (num_runs_ == 0) {
      for (const T& record : run_)
        if (!take(record)) break;
      run_ = {};
      return;
    }
    spill();
    run_ = {};
    merge(take);
    num_runs_ = num_records_ = 0;
    file_.reset();
  }

 private:
  static constexpr auto kBytes = static_cast<int64_t>(sizeof(T));
  struct Run {
    int64_t next = 0, end = 0;  ///< records in the file
    std::vector<T> window;
    size_t at = 0;
  };

  void spill() {
    std::sort(run_.begin(), run_.end());
    if (!file_) file_.emplace(place_.directory, place_.purpose);
    file_->write(num_records_ * kBytes, std::as_bytes(std::span(run_)));
    num_records_ += static_cast<int64_t>(run_.size());
    ++num_runs_;
    run_.clear();
  }

  void merge(const std::function<bool(const T&)>& take) {
    // All windows together take as much as a run did; a run has at least a page.
    const int64_t window = std::max({int64_t{1}, (4 << 10) / kBytes, run_size_ / num_runs_});
    std::vector<Run> runs(static_cast<size_t>(num_runs_));
    const auto more = [&](Run& run) {
      if (++run.at < run.window.size()) return true;
      run.window.resize(static_cast<size_t>(std::min(window, run.end - run.next)));
      if (run.window.empty()) return false;
      file_->read(run.next * kBytes, std::as_writable_bytes(std::span(run.window)));
      run.next += static_cast<int64_t>(run.window.size());
      run.at = 0;
      return true;
    };
    const auto later = [&](size_t a, size_t b) { return runs[b].window[runs[b].at] < runs[a].window[runs[a].at]; };
    std::priority_queue<size_t, std::vector<size_t>, decltype(later)> queue(later);
    for (size_t i = 0; i < runs.size(); ++i) {
      runs[i].next = static_cast<int64_t>(i) * run_size_;
      runs[i].end = std::min(runs[i].next + run_size_, num_records_);
      if (more(runs[i])) queue.push(i);
    }
    while (!queue.empty()) {
      const size_t first = queue.top();
      if (!take(runs[first].window[runs[first].at])) return;
      queue.pop();
      if (more(runs[first])) queue.push(first);
    }
  }

  SpillPlace place_;
  int64_t run_size_, num_runs_ = 0, num_records_ = 0;  ///< of the file
  std::vector<T> run_;
  std::optional<TemporaryFile> file_;
};

/// Records in order of operator<, to be looked up: some of them are kept in memory, so that a look-up reads what lies between two of these.
template <typename T>
class RecordTable {
 public:
  static constexpr size_t kMaxFences = 32768;

  explicit RecordTable(SpillPlace place = {}, size_t max_fences = kMaxFences) : records_(std::move(place)), max_fences_(max_fences) {}

  int64_t size() const { return records_.size(); }
  /// No smaller than the one before.
  void push_back(const T& record) {
    if (records_.size() % stride_ == 0) fences_.push_back(record);
    if (fences_.size() > max_fences_) {
      for (size_t i = 0; 2 * i < fences_.size(); ++i) fences_[i] = fences_[2 * i];
      fences_.resize((fences_.size() + 1) / 2);
      stride_ *= 2;
    }
    records_.push_back(record);
  }
  /// The first record that is equal to `key`: neither is smaller.
  std::optional<T> find(const T& key) {
    const auto after = std::upper_bound(fences_.begin(), fences_.end(), key);
    // Equal ones may begin in the stretch before a fence that is equal.
    auto stretch = std::lower_bound(fences_.begin(), after, key) - fences_.begin();
    if (stretch > 0) --stretch;
    const int64_t first = stretch * stride_;
    stretch_.resize(static_cast<size_t>(std::min(size(), (after - fences_.begin()) * stride_) - first));
    if (stretch_.empty()) return std::nullopt;
    records_.read(first, std::span(stretch_));
    const auto found = std::lower_bound(stretch_.begin(), stretch_.end(), key);
    if (found == stretch_.end() || key < *found) return std::nullopt;
    return *found;
  }

 private:
  SpilledRecords<T> records_;
  size_t max_fences_;
  std::vector<T> fences_;  ///< every stride_-th record
  int64_t stride_ = 16;
  std::vector<T> stretch_;
};

}  // namespace flexgen
