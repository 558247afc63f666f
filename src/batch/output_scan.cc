#include "batch/output_scan.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "base/byte_order_mark.h"
#include "base/error.h"

namespace flexgen {
namespace {

constexpr size_t kScanBytes = 1 << 20, kFrontBytes = 4096;

/// The bytes of a file up to `end`, one line after the other.
class FileLines : public ByteSource {
 public:
  /// Once `stop` is set it ends, wherever it is.
  FileLines(int descriptor, const std::string& path, int64_t end, const std::atomic<bool>& stop)
      : descriptor_(descriptor), path_(path), end_(end), stop_(stop),
        chunk_(static_cast<size_t>(std::min<int64_t>(static_cast<int64_t>(kScanBytes), std::max<int64_t>(end, 1))), '\0') {}

  /// Whether another line begins, which may be empty.
  bool begin_line() {
    line_over_ = ended_ = false;
    line_start_ = at();
    return available();
  }
  size_t read(char* data, size_t room) override {
    if (line_over_ || !available()) return 0;
    const char* from = chunk_.data() + next_;
    size_t count = std::min(room, filled_ - next_);
    if (const void* found = std::memchr(from, '\n', count)) {
      count = static_cast<size_t>(static_cast<const char*>(found) - from);
      line_over_ = ended_ = true;
      std::memcpy(data, from, count);
      next_ += count + 1;
      return count;
    }
    std::memcpy(data, from, count);
    next_ += count;
    return count;
  }
  void skip_rest() {
    while (!line_over_ && available()) {
      const char* from = chunk_.data() + next_;
      const void* found = std::memchr(from, '\n', filled_ - next_);
      next_ = found ? static_cast<size_t>(static_cast<const char*>(found) - chunk_.data()) + 1 : filled_;
      line_over_ = ended_ = found != nullptr;
    }
  }
  int64_t line_start() const { return line_start_; }
  int64_t at() const { return chunk_offset_ + static_cast<int64_t>(next_); }
  bool ended() const { return ended_; }  ///< by a line feed

  /// The bytes from `offset` on, at most `count`.
  std::string bytes(int64_t offset, int64_t count) {
    std::string text(static_cast<size_t>(std::max<int64_t>(0, std::min(count, end_ - offset))), '\0');
    text.resize(fill(text.data(), text.size(), offset));
    return text;
  }

 private:
  size_t fill(char* data, size_t count, int64_t offset) {
    for (;;) {
      const ssize_t n = pread(descriptor_, data, count, offset);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail_io("cannot read the output {}: {}; see dmesg, and copy the file to another disk", path_, std::strerror(errno));
      return static_cast<size_t>(n);
    }
  }
  bool available() {
    if (next_ < filled_) return true;
    chunk_offset_ += static_cast<int64_t>(filled_);
    next_ = filled_ = 0;
    if (stop_) return false;
    const int64_t left = std::min(end_ - chunk_offset_, static_cast<int64_t>(chunk_.size()));
    if (left > 0) filled_ = fill(chunk_.data(), static_cast<size_t>(left), chunk_offset_);
    return filled_ > 0;
  }

  int descriptor_;
  const std::string& path_;
  int64_t end_, chunk_offset_ = 0, line_start_ = 0;
  const std::atomic<bool>& stop_;
  std::string chunk_;
  size_t next_ = 0, filled_ = 0;
  bool line_over_ = false, ended_ = false;
};

/// Where the zeros begin that the file ends with.
int64_t end_without_zeros(int descriptor, const std::string& path, int64_t size, const std::atomic<bool>& stop) {
  FileLines file(descriptor, path, size, stop);
  for (int64_t end = size; end > 0 && !stop;) {
    const int64_t begin = std::max<int64_t>(0, end - static_cast<int64_t>(kScanBytes));
    const std::string chunk = file.bytes(begin, end - begin);
    if (static_cast<int64_t>(chunk.size()) < end - begin) return size;  // it shrinks while it is read
    const size_t last = chunk.find_last_not_of('\0');
    if (last != std::string::npos) return begin + static_cast<int64_t>(last) + 1;
    end = begin;
  }
  return 0;
}

/// Whether what is there of a line is what we would have written first.
bool begins_as_ours(std::string_view text) {
  static constexpr std::string_view kStart = R"({"id":"batch_req_)", kNext = R"(","custom_id":")";
  static constexpr size_t kDigits = 2 * std::tuple_size_v<RecordId>;
  for (size_t i = 0; i < std::min(text.size(), kStart.size() + kDigits + kNext.size()); ++i) {
    const char c = text[i];
    if (i < kStart.size()             ? c != kStart[i]
        : i < kStart.size() + kDigits ? !((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))
                                      : c != kNext[i - kStart.size() - kDigits])
      return false;
  }
  return true;
}

/// What somebody made of the file, if its first bytes tell.
std::string other_format(std::string_view start) {
  using namespace std::string_view_literals;
  if (start.starts_with("\x1f\x8b")) return "is compressed (gzip)";
  if (start.starts_with("\x28\xb5\x2f\xfd")) return "is compressed (zstd)";
  if (start.starts_with("BZh")) return "is compressed (bzip2)";
  if (start.starts_with("\xfd"
                        "7zXZ"))
    return "is compressed (xz)";
  if (start.starts_with("PK\x03\x04")) return "is a zip archive";
  if (start.starts_with("\xff\xfe") || start.starts_with("\xfe\xff") || start.starts_with("{\0"sv)) return "is in UTF-16, where UTF-8 is needed";
  if (start.starts_with("[")) return "begins a JSON array, where each line must be one object";
  return "";
}

}  // namespace

void OutputScan::Lines::add(int64_t number, const std::string& why) {
  if (count++ == 0) reason = why;
  if (numbers.size() < kNamed) numbers.push_back(number);
}

OutputScan scan_output(int descriptor, const std::string& path, const std::atomic<bool>& stop,
                       const std::function<void(const KeptRecord&, const RecordPlace&)>& take) {
  struct stat info {};
  if (fstat(descriptor, &info) != 0) fail_io("cannot read the output {}: {}", path, std::strerror(errno));
  OutputScan scan;
  scan.size = info.st_size;
  const int64_t end = end_without_zeros(descriptor, path, scan.size, stop);
  scan.keep = end;
  FileLines lines(descriptor, path, end, stop);
  bool last_ended = true;
  for (int64_t number = 1; lines.begin_line(); ++number) {
    const int64_t start = lines.line_start();
    FrontBytes source(lines, kFrontBytes);
    const bool is_whole = source.front().size() < kFrontBytes, marked = number == 1 && source.front().starts_with(kByteOrderMark);
    if (marked) source.skip(kByteOrderMark.size());
    const std::string first(source.front().substr(0, 64));
    const bool blank = is_whole && is_blank(source.front());
    const auto read = read_record(source);
    lines.skip_rest();
    last_ended = lines.ended();
    if (stop) break;  // what was read may end in the middle
    if (const auto* record = std::get_if<KeptRecord>(&read)) {
      RecordPlace place{number, start + (marked ? 3 : 0), 0, false};
      place.bytes = lines.at() - (last_ended ? 1 : 0) - place.offset;
      place.as_written = place.bytes >= kSealBytes && begins_as_ours(first) && is_seal(lines.bytes(place.offset + place.bytes - kSealBytes, kSealBytes));
      take(*record, place);
      continue;
    }
    if (blank) continue;
    const NoRecord& problem = std::get<NoRecord>(read);
    if (!last_ended && problem.kind == NoRecord::kTorn && begins_as_ours(first)) {
      scan.keep = start;
      last_ended = true;
      break;
    }
    std::string reason = number == 1 ? other_format(first) : "";
    (problem.kind == NoRecord::kDamaged ? scan.damaged : scan.foreign).add(number, reason.empty() ? problem.reason : reason);
  }
  scan.stopped = stop;
  scan.needs_line_end = !last_ended;
  return scan;
}

}  // namespace flexgen
