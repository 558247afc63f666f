#include "app/job.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "base/error.h"
#include "io/spilled_records.h"

namespace flexgen {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kManifestVersion = 1;
constexpr int64_t kChunkBytes = 1 << 20;
constexpr size_t kPieceBytes = 256 << 10;  // of a record, in one write

void sync_directory_of(const std::string& path) {
  std::string directory = std::filesystem::absolute(path).parent_path().string();
  int descriptor = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;  // a file system that can't: nothing more to be done
  fsync(descriptor);
  ::close(descriptor);
}

SpillPlace done_place(const std::string& output) { return {spill_directory(output), "the list of finished lines"}; }

bool same_file(const std::string& a, const std::string& b) {
  struct stat first {}, second {};
  return stat(a.c_str(), &first) == 0 && stat(b.c_str(), &second) == 0 && first.st_dev == second.st_dev &&
         first.st_ino == second.st_ino;
}

}  // namespace

std::optional<RecordId> record_id_of(std::string_view line) {
  static constexpr std::string_view kStart = R"({"id":"batch_req_)";
  constexpr size_t kDigits = 2 * std::tuple_size_v<RecordId>;
  if (!line.starts_with(kStart) || line.size() < kStart.size() + kDigits + 1) return std::nullopt;
  RecordId id;
  for (size_t i = 0; i < kDigits; ++i) {
    char c = line[kStart.size() + i];
    int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) return std::nullopt;
    id[i / 2] = static_cast<uint8_t>(i % 2 ? id[i / 2] << 4 | digit : digit);
  }
  if (line[kStart.size() + kDigits] != '"' || line.back() != '}' || !Json::accept(line)) return std::nullopt;
  return id;
}

std::optional<int64_t> answer_tokens_of(std::string_view line) {
  // Texts have their quotes escaped, and nothing that comes after the answers has such a name but their usage: the last one is it.
  static constexpr std::string_view kName = R"("completion_tokens":)";
  const size_t at = line.rfind(kName);
  if (at == std::string_view::npos) return std::nullopt;
  int64_t tokens = 0;
  const char* begin = line.data() + at + kName.size();
  const auto [end, error] = std::from_chars(begin, line.data() + line.size(), tokens);
  if (error != std::errc() || end == begin || tokens < 0) return std::nullopt;
  return tokens;
}

JobIdentity read_job_file(const std::string& path, const std::string& advice) {
  std::ifstream file(path, std::ios::binary);
  if (!file)
    fail_user("there is no job file {} that says what the answers beside it are from; {}", path, advice);
  std::stringstream text;
  text << file.rdbuf();
  try {
    Json json = Json::parse(text.str());
    int version = json.at("flexgen_job").get<int>();
    if (version != kManifestVersion)
      fail_user("the job file {} has format {}, this flexgen knows {}; use the flexgen that wrote it, or {}", path, version, kManifestVersion, advice);
    JobIdentity identity;
    json.at("input_sha256").get_to(identity.input_sha256);
    json.at("model_fingerprint").get_to(identity.model_fingerprint);
    json.at("model").get_to(identity.model_name);
    json.at("created").get_to(identity.created_s);
    json.at("options").get_to(identity.options);
    return identity;
  } catch (const Json::exception&) {
    fail_user("the job file {} is damaged; {}", path, advice);
  }
}

Job::Job(std::string output, const std::string& input, OutputCalls calls)
    : output_(std::move(output)), manifest_(output_ + ".job"), calls_(std::move(calls)), done_(done_place(output_)) {
  if (same_file(output_, input) || same_file(manifest_, input))
    fail_user("the output {} (or its job file {}) is the input itself; give another output", output_, manifest_);
  open_and_lock();
  try {
    read_records();
  } catch (...) {
    ::close(descriptor_);
    throw;
  }
}

Job::~Job() {
  if (syncer_.joinable()) {
    {
      std::lock_guard lock(mutex_);
      closing_ = true;
    }
    changed_.notify_all();
    syncer_.join();
    bring_to_disk();
  }
  if (created_ && !started_) ::unlink(output_.c_str());
  ::close(descriptor_);
}

void Job::open_and_lock() {
  for (;;) {
    descriptor_ = ::open(output_.c_str(), O_RDWR | O_APPEND | O_CLOEXEC | O_NONBLOCK);
    if (descriptor_ < 0 && errno == ENOENT) {
      descriptor_ = ::open(output_.c_str(), O_RDWR | O_APPEND | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
      if (descriptor_ < 0 && errno == EEXIST) continue;
      created_ = descriptor_ >= 0;
    }
    if (descriptor_ < 0)
      fail_user("cannot write the output {}: {}; give a path in a directory that you may write to", output_, std::strerror(errno));
    struct stat info {}, named {};
    if (fstat(descriptor_, &info) != 0 || !S_ISREG(info.st_mode)) {
      ::close(descriptor_);
      fail_user("the output {} is not a regular file; a job that may be continued needs one", output_);
    }
    if (flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
      int error = errno;
      ::close(descriptor_);
      if (error == EWOULDBLOCK)
        fail_user("another flexgen process is writing {}; wait for it, stop it, or give another output", output_);
      fail_io("cannot lock the output {}: {}; give one on a file system with file locks", output_, std::strerror(error));
    }
    // Its last owner may have removed it between our open() and our lock.
    if (stat(output_.c_str(), &named) == 0 && named.st_ino == info.st_ino && named.st_dev == info.st_dev) return;
    ::close(descriptor_);
    created_ = false;
  }
}

void Job::read_records() {
  std::string chunk(static_cast<size_t>(kChunkBytes), '\0'), line;
  int64_t offset = 0, number = 0, bad_line = 0;
  RecordSorter<Done> found(done_place(output_));
  auto take_line = [&](std::string_view text, int64_t end) {
    ++number;
    std::optional<RecordId> id = record_id_of(text);
    if (!id) {
      if (bad_line == 0) bad_line = number;
      return;
    }
    if (bad_line != 0 && foreign_line_ == 0) foreign_line_ = bad_line;
    found.add({*id, answer_tokens_of(text).value_or(-1)});
    size_ = end;
  };
  for (;;) {
    ssize_t n = pread(descriptor_, chunk.data(), chunk.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_io("cannot read the output {}: {}", output_, std::strerror(errno));
    if (n == 0) break;
    std::string_view rest(chunk.data(), static_cast<size_t>(n));
    for (size_t end; (end = rest.find('\n')) != std::string_view::npos; rest.remove_prefix(end + 1)) {
      line += rest.substr(0, end);
      take_line(line, offset + (rest.data() - chunk.data()) + static_cast<int64_t>(end) + 1);
      line.clear();
    }
    line += rest;
    offset += n;
  }
  // Without records the whole file may be somebody else's: match() decides that by the manifest.
  RecordId last{};
  found.drain([&](const Done& record) {
    if (done_.size() == 0 || record.id != last) done_.push_back(record);
    last = record.id;
    return true;
  });
}

std::optional<int64_t> Job::answer_tokens(const RecordId& id) const {
  const auto found = done_.find(Done{id});
  if (!found || found->answer_tokens < 0) return std::nullopt;
  return found->answer_tokens;
}

void Job::match(const JobIdentity& wanted, bool overwrite) {
  identity_ = wanted;
  struct stat info {};
  if (fstat(descriptor_, &info) != 0) fail_io("{}: {}", output_, std::strerror(errno));
  auto start_over = [&] {
    identity_ = wanted;
    done_ = RecordTable<Done>(done_place(output_));
    size_ = 0;
    continued_ = false;
  };
  matched_ = true;
  if (info.st_size == 0) return start_over();
  try {
    JobIdentity found = read_job_file(manifest_, fmt::format("give another output, or --overwrite to lose what is in {}", output_));
    std::string difference;
    if (found.input_sha256 != wanted.input_sha256) difference = "another input (or this one was changed since)";
    else if (found.model_fingerprint != wanted.model_fingerprint) difference = "another model (or this one was changed since)";
    else
      for (const auto& [name, value] : wanted.options) {
        auto old = found.options.find(name);
        std::string before = old == found.options.end() ? "none" : old->second;
        if (value == kLeftToThePlan && old != found.options.end()) identity_.options[name] = before;
        else if (before != value) difference = fmt::format("another {} ({} instead of {})", name, before, value);
      }
    if (difference.empty() && found.options.size() != wanted.options.size()) difference = "other options";
    if (!difference.empty())
      fail_user("the output {} has answers from {}; give another output, or --overwrite to lose them", output_, difference);
    if (foreign_line_ > 0)
      fail_user("line {} of the output {} is not a record that flexgen wrote, and records follow it; remove that line, or give "
                "--overwrite to start over", foreign_line_, output_);
    identity_.model_name = found.model_name;
    identity_.created_s = found.created_s;
    continued_ = true;
  } catch (const Error& error) {
    if (!overwrite || error.kind() != ErrorKind::kUser) throw;
    start_over();
  }
}

void Job::settle(const std::map<std::string, std::string>& options) {
  FLEXGEN_CHECK(matched_ && !started_);
  identity_.options = options;
}

int Job::write_all(int descriptor, std::string_view data) const {
  while (!data.empty()) {
    ssize_t n = calls_.write(descriptor, data.data(), data.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? errno : EIO;
    data.remove_prefix(static_cast<size_t>(n));
  }
  return 0;
}

void Job::write_manifest() const {
  Json json;
  json["flexgen_job"] = kManifestVersion;
  json["input_sha256"] = identity_.input_sha256;
  json["model_fingerprint"] = identity_.model_fingerprint;
  json["model"] = identity_.model_name;
  json["options"] = identity_.options;
  json["created"] = identity_.created_s;
  std::string text = json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  std::string temporary = manifest_ + ".tmp";
  int descriptor = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  int error = descriptor < 0 ? errno : write_all(descriptor, text);
  if (error == 0 && fsync(descriptor) != 0) error = errno;
  if (descriptor >= 0) ::close(descriptor);
  if (error == 0 && ::rename(temporary.c_str(), manifest_.c_str()) != 0) error = errno;
  if (error != 0) {
    ::unlink(temporary.c_str());
    fail_io("cannot write the job file {}: {}; nothing was started", manifest_, std::strerror(error));
  }
  sync_directory_of(manifest_);
}

void Job::start() {
  FLEXGEN_CHECK(matched_ && !started_);
  if (!continued_) {
    // The manifest goes first: were the process killed here, old answers must not look like those of the new job.
    if (::unlink(manifest_.c_str()) != 0 && errno != ENOENT)
      fail_io("cannot replace the job file {}: {}", manifest_, std::strerror(errno));
    sync_directory_of(manifest_);
  }
  if (ftruncate(descriptor_, size_) != 0) fail_write("cannot cut", errno);
  if (fsync(descriptor_) != 0) fail_write("cannot write", errno);
  if (!continued_) write_manifest();
  started_ = true;
  syncer_ = std::thread([this] { sync_loop(); });
}

void Job::fail_write(const char* what, int error) const {
  const std::string remedy = error == ENOSPC || error == EDQUOT || error == EFBIG
                                 ? std::string("make room")
                                 : fmt::format("mend the disk (see dmesg), or copy the output and {} to another and name that as the output",
                                               manifest_);
  fail_io("{} the output {}: {}; finished answers are kept: {}, and run the same command again", what, output_, std::strerror(error),
          remedy);
}

void Job::append(std::string_view record) {
  WholeRecord text{std::string(record)};
  append(text);
}

void Job::append(RecordText& record) {
  FLEXGEN_CHECK(started_);
  if (int error = sync_error_) fail_write("cannot write", error);
  piece_.resize(kPieceBytes);
  const auto cut = [&] {
    int failed = ftruncate(descriptor_, size_);  // if that fails, the next start cuts the torn line off
    static_cast<void>(failed);
  };
  int64_t bytes = 0;
  char last = 0;
  try {
    while (const size_t count = record.read(piece_.data(), piece_.size())) {
      // One write() for a record of common size; a second one if the first was cut short, which tells why.
      if (int error = write_all(descriptor_, {piece_.data(), count})) {
        cut();
        fail_write("cannot write", error);
      }
      bytes += static_cast<int64_t>(count);
      last = piece_[count - 1];
    }
  } catch (const std::exception&) {
    cut();
    throw;
  }
  FLEXGEN_CHECK(last == '\n');
  size_ += bytes;
  {
    std::lock_guard lock(mutex_);
    dirty_ = true;
  }
  changed_.notify_all();
}

int Job::bring_to_disk() {
  std::lock_guard lock(sync_mutex_);
  if (calls_.sync(descriptor_) != 0 && sync_error_ == 0) sync_error_ = errno;
  return sync_error_;
}

void Job::sync() {
  if (int error = bring_to_disk()) fail_write("cannot write", error);
}

void Job::sync_loop() {
  std::unique_lock lock(mutex_);
  while (!closing_) {
    changed_.wait(lock, [&] { return dirty_ || closing_; });
    if (closing_) return;
    dirty_ = false;
    lock.unlock();
    bring_to_disk();
    lock.lock();
    changed_.wait_for(lock, std::chrono::seconds(1), [&] { return closing_; });
  }
}

}  // namespace flexgen
