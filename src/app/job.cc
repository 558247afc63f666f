#include "app/job.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "app/output_watch.h"
#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include "io/checked_json.h"
#include "io/spilled_records.h"
#include "io/transfer.h"
#include "io/whole_file.h"

namespace flexgen {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kManifestVersion = 1;
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

/// A weight file that is the one a job began with and was written to since; empty if there is none. Another file of that name, a copy, is only told.
std::string written_since(const JobIdentity& begun, const JobIdentity& now) {
  for (const auto& [name, then] : begun.model_files) {
    const auto found = now.model_files.find(name);
    if (found == now.model_files.end() || found->second == then) continue;
    const auto& [device, inode, size, written] = found->second;
    if (device == then[0] && inode == then[1]) return name;
    if (size != then[2] || written != then[3])
      spdlog::warn("{} is another file than when this job began, last written at another time; going on, as its header and samples of its bytes are the same", name);
  }
  return "";
}

}  // namespace

namespace {

constexpr int64_t kMaxManifestBytes = 1 << 20;
constexpr int64_t kMaxCreated_s = 253'402'300'799;  // the end of the year 9999

/// Reads the fields of a manifest one by one; what is wrong with one is said by its name.
class ManifestFields {
 public:
  ManifestFields(const std::string& path, const std::string& text, const std::string& advice) : path_(path), advice_(advice) {
    try {
      json_ = parse_checked_json(text, 3, path, "it");
    } catch (const Error&) {
      damaged("it is not JSON, nested too deep or has a field twice");
    }
    if (!json_.is_object()) damaged("it is no JSON object");
  }
  std::string text(const char* name) {
    const auto& value = field(name);
    if (!value.is_string()) damaged(fmt::format("'{}' is {}, where a text must be", name, shown(value)));
    return value.get<std::string>();
  }
  int64_t integer(const char* name, int64_t least, int64_t most) {
    const auto& value = field(name);
    const double number = value.is_number() ? value.get<double>() : -1;
    if (!value.is_number() || !(number >= static_cast<double>(least)) || !(number <= static_cast<double>(most)) || std::floor(number) != number)
      damaged(fmt::format("'{}' is {}, where a whole number from {} to {} must be", name, shown(value), least, most));
    return static_cast<int64_t>(number);
  }
  std::map<std::string, std::string> texts(const char* name) {
    const auto& value = field(name);
    if (!value.is_object()) damaged(fmt::format("'{}' is {}, where an object must be", name, shown(value)));
    std::map<std::string, std::string> texts;
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) damaged(fmt::format("the option '{}' is {}, where a text must be", printable(key), shown(text)));
      texts[key] = text.get<std::string>();
    }
    return texts;
  }
  std::map<std::string, std::array<int64_t, 4>> stamps(const char* name) {
    try {
      return field(name).get<std::map<std::string, std::array<int64_t, 4>>>();
    } catch (const nlohmann::json::exception&) {
      damaged(fmt::format("'{}' is not what the job file says of weight files", name));
    }
  }
  bool has(const char* name) const { return json_.contains(name); }
  void finish() const {
    for (const auto& [key, value] : json_.items())
      if (!known_.contains(key)) damaged(fmt::format("it has a field '{}', which no job file of this format has", printable(key)));
  }
  [[noreturn]] void damaged(const std::string& why) const { fail_user("the job file {} is damaged: {}; {}", path_, why, advice_); }

 private:
  const nlohmann::json& field(const char* name) {
    known_.insert(name);
    const auto found = json_.find(name);
    if (found == json_.end()) damaged(fmt::format("'{}' is missing", name));
    return *found;
  }
  static std::string shown(const nlohmann::json& value) { return printable(value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace)); }

  std::string path_, advice_;
  nlohmann::json json_;
  std::set<std::string> known_;
};

}  // namespace

JobIdentity read_job_file(const std::string& path, const std::string& advice) {
  if (!file_is_there(path))
    fail_user("there is no job file {} that says what the answers beside it are from; {}", path, advice);
  const std::string text = read_whole_file(path, kMaxManifestBytes);
  ManifestFields fields(path, text, advice);
  if (const int64_t version = fields.integer("flexgen_job", 0, 1'000'000); version != kManifestVersion)
    fail_user("the job file {} has format {}, this flexgen knows {}; use the flexgen that wrote it, or {}", path, version, kManifestVersion, advice);
  JobIdentity identity;
  identity.input_sha256 = fields.text("input_sha256");
  identity.model_fingerprint = fields.text("model_fingerprint");
  identity.model_name = fields.text("model");
  identity.created_s = fields.integer("created", 0, kMaxCreated_s);
  identity.options = fields.texts("options");
  // A job file of an earlier flexgen has none of these.
  if (fields.has("model_files")) identity.model_files = fields.stamps("model_files");
  if (fields.has("model_folder")) identity.model_folder = fields.text("model_folder");
  if (fields.has("checksum") && fields.text("checksum") != content_checksum(text)) fields.damaged("what it says does not fit its checksum");
  fields.finish();
  return identity;
}

int64_t created_of(int64_t modified_s) { return std::clamp<int64_t>(modified_s, 0, kMaxCreated_s); }

Job::Job(std::string output, const std::string& input, OutputCalls calls, const std::atomic<bool>& stop)
    : output_(std::move(output)), manifest_(output_ + ".job"), calls_(std::move(calls)), done_(done_place(output_)) {
  if (same_file(output_, input) || same_file(manifest_, input))
    fail_user("the output {} (or its job file {}) is the input itself; give another output", output_, manifest_);
  open_and_lock();
  try {
    read_records(stop);
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
  if (created_ && !started_ && same_file(output_, fmt::format("/proc/self/fd/{}", descriptor_))) ::unlink(output_.c_str());
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
      fail_user("cannot write the output {}: {}{}", output_, std::strerror(errno), file_advice(output_, errno));
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

void Job::read_records(const std::atomic<bool>& stop) {
  RecordSorter<Done> found(done_place(output_));
  scan_ = scan_output(descriptor_, output_, stop, [&](const KeptRecord& record, int64_t line) {
    found.add({record.id, record.answer_tokens, record.content});
    if (!record.created) return;
    if (!first_created_) {
      first_created_ = record.created;
      first_model_ = record.model;
    }
    if (other_line_ == 0 && (record.created != first_created_ || record.model != first_model_)) other_line_ = line;
  });
  size_ = scan_.keep;
  // Whose the file is match() decides, by the manifest.
  Done last;
  found.drain([&](const Done& record) {
    if (done_.size() > 0 && record.id == last.id) {
      ++repeated_;
      if (record.content != last.content && !two_answers_) two_answers_ = record.id;
      return true;
    }
    done_.push_back(record);
    last = record;
    return true;
  });
}

std::optional<int64_t> Job::answer_tokens(const RecordId& id) const {
  const auto found = done_.find(Done{id});
  if (!found || found->answer_tokens < 0) return std::nullopt;
  return found->answer_tokens;
}

namespace {

std::string line_list(const OutputScan::Lines& lines, const char* between, const char* after) {
  std::string text;
  for (int64_t number : lines.numbers) text += fmt::format("{}{}{}", text.empty() ? "" : between, number, after);
  return text;
}

/// Where there are more than the first.
std::string such_lines(const OutputScan::Lines& lines) {
  if (lines.count < 2) return "";
  return fmt::format(" ({} such lines{}: {})", lines.count, lines.count > static_cast<int64_t>(lines.numbers.size()) ? ", the first" : "", line_list(lines, ", ", ""));
}

}  // namespace

void Job::refuse_other_lines() const {
  const OutputScan::Lines &foreign = scan_.foreign, &damaged = scan_.damaged;
  if (foreign.count > 0)
    fail_user("line {} of the output {} {}, so it is no record of this job{}; nothing was changed. Mend or remove it, give another output, or --overwrite to lose all that "
              "is in this one", foreign.numbers.front(), output_, foreign.reason, such_lines(foreign));
  if (damaged.count > 0)
    fail_user("line {} of the output {} {}{}; it is not taken for an answer, and nothing was changed. If nobody changed it on purpose, look after the disk and the memory; "
              "remove such lines (sed -i '{}' {}), and the same command answers them again", damaged.numbers.front(), output_, damaged.reason,
              such_lines(damaged), line_list(damaged, ";", "d"), output_);
  if (two_answers_) refuse_two_answers(*two_answers_);
}

void Job::refuse_two_answers(const RecordId& id) const {
  std::vector<int64_t> lines;
  scan_output(descriptor_, output_, false, [&](const KeptRecord& record, int64_t line) {
    if (record.id == id) lines.push_back(line);
  });
  fail_user("lines {} and {} of the output {} answer the same line of the input, and differ; nothing was changed. Remove the one that is wrong, give another output, or "
            "--overwrite to lose all that is in this one", lines.front(), lines.back(), output_);
}

void Job::refuse_contradictions(const JobIdentity& begun) const {
  if (other_line_ > 0)
    fail_user("line {} of the output {} has another 'created' or 'model' than the answers before it; remove it, or give another output, or --overwrite to lose what is in {}",
              other_line_, output_, output_);
  if (first_created_ && *first_created_ != begun.created_s)
    fail_user("the job file {} says created {}, the answers in {} say {}; one of them was changed: mend it, or give another output, or --overwrite to lose what is in {}",
              manifest_, begun.created_s, output_, *first_created_, output_);
  if (first_created_ && first_model_ != begun.model_name)
    fail_user("the job file {} says model '{}', the answers in {} say '{}'; one of them was changed: mend it, or give another output, or --overwrite to lose what is in {}",
              manifest_, begun.model_name, output_, first_model_, output_);
}

void Job::match(const JobIdentity& wanted, bool overwrite) {
  identity_ = wanted;
  auto start_over = [&] {
    identity_ = wanted;
    done_ = RecordTable<Done>(done_place(output_));
    size_ = 0;
    continued_ = false;
  };
  matched_ = true;
  if (scan_.size == 0) {
    for (const char* ending : {".gz", ".zst", ".xz", ".bz2", ".zip"})
      if (std::error_code none; std::filesystem::exists(output_ + ending, none) && std::filesystem::exists(manifest_, none))
        spdlog::warn("there is {0}{1}, but no {0}: the job begins anew; to go on with what is in there, stop and unpack it", output_, ending);
    return start_over();
  }
  try {
    JobIdentity found = read_job_file(manifest_, fmt::format("give another output, or --overwrite to lose what is in {}", output_));
    std::string difference;
    if (found.input_sha256 != wanted.input_sha256) difference = "another input (or this one was changed since)";
    else if (found.model_fingerprint != wanted.model_fingerprint)
      difference = found.model_folder.empty() || found.model_folder == wanted.model_folder ? "another model (or this one was changed since)"
                                                                                            : fmt::format("another model ({}; this one is {})", found.model_folder, wanted.model_folder);
    else
      for (const auto& [name, value] : wanted.options) {
        auto old = found.options.find(name);
        std::string before = old == found.options.end() ? "none" : old->second;
        if (value == kLeftToThePlan && old != found.options.end()) identity_.options[name] = before;
        else if (before != value) difference = fmt::format("another {} ({} instead of {})", name, before, value);
      }
    if (difference.empty() && found.options.size() != wanted.options.size()) difference = "other options";
    if (const std::string name = written_since(found, wanted); difference.empty() && !name.empty())
      difference = fmt::format("another model: its file {} was written to since", name);
    if (!difference.empty())
      fail_user("the output {} has answers from {}; give another output, or --overwrite to lose them", output_, difference);
    refuse_other_lines();
    refuse_contradictions(found);
    identity_.model_name = found.model_name;
    identity_.created_s = found.created_s;
    identity_.model_files = found.model_files;
    identity_.model_folder = found.model_folder;
    continued_ = true;
    if (repeated_ > 0) spdlog::warn("{} lines of {} repeat records that are there already; they stay as they are", repeated_, output_);
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

void Job::write_manifest(const std::string& path) const {
  Json json;
  json["flexgen_job"] = kManifestVersion;
  json["input_sha256"] = identity_.input_sha256;
  json["model_fingerprint"] = identity_.model_fingerprint;
  json["model"] = identity_.model_name;
  json["options"] = identity_.options;
  json["created"] = identity_.created_s;
  json["model_files"] = identity_.model_files;
  json["model_folder"] = identity_.model_folder;
  const auto to_text = [&] { return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"; };
  json["checksum"] = content_checksum(to_text());
  const std::string text = to_text();
  std::string temporary = path + ".tmp";
  int descriptor = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  int error = descriptor < 0 ? errno : write_all(descriptor, text);
  if (error == 0 && fsync(descriptor) != 0) error = errno;
  if (descriptor >= 0) ::close(descriptor);
  if (error == 0 && ::rename(temporary.c_str(), path.c_str()) != 0) error = errno;
  if (error != 0) {
    ::unlink(temporary.c_str());
    fail_io("cannot write the job file {}: {}{}; nothing was started", path, std::strerror(error), file_advice(path, error));
  }
  sync_directory_of(path);
}

void Job::start() {
  FLEXGEN_CHECK(matched_ && !started_);
  if (!continued_) {
    // The manifest goes first: were the process killed here, old answers must not look like those of the new job.
    if (::unlink(manifest_.c_str()) != 0 && errno != ENOENT)
      fail_io("cannot replace the job file {}: {}", manifest_, std::strerror(errno));
    sync_directory_of(manifest_);
  }
  if (look_at_output(output_, descriptor_, scan_.size).kind != OutputState::kAsLeft)
    fail_io("another program changed the output {} while this one began; it was left as it is; run the same command again", output_);
  if (size_ != scan_.size && ftruncate(descriptor_, size_) != 0) fail_write("cannot cut", errno);
  if (continued_ && scan_.needs_line_end) {
    if (int error = write_all(descriptor_, "\n")) fail_write("cannot write", error);
    ++size_;
  }
  if (fsync(descriptor_) != 0) fail_write("cannot write", errno);
  if (!continued_) write_manifest(manifest_);
  started_ = true;
  syncer_ = start_thread("bringing answers to the disk", [this] { sync_loop(); });
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
  if (!touched_.empty()) fail_io("{}", touched_);
  const OutputState state = look_at_output(output_, descriptor_, size_);
  if (state.kind != OutputState::kAsLeft) {
    // An open file that only lost its name is this job's own still: the answer goes along with the others.
    try {
      if (state.size == size_) size_ += write_record(record);
    } catch (const Error&) {
    }
    fail_touched(state);
  }
  size_ += write_record(record);
  {
    std::lock_guard lock(mutex_);
    dirty_ = true;
  }
  changed_.notify_all();
}

/// Its bytes. Nothing of it stays if that fails.
int64_t Job::write_record(RecordText& record) {
  piece_.resize(kPieceBytes);
  int64_t bytes = 0, tried = 0;
  const auto cut = [&] {
    // Only what is ours. If that fails too, the next start cuts the torn line off.
    struct stat info {};
    if (fstat(descriptor_, &info) != 0 || info.st_size <= size_ || info.st_size > size_ + tried) return;
    int failed = ftruncate(descriptor_, size_);
    static_cast<void>(failed);
  };
  char last = 0;
  try {
    while (const size_t count = record.read(piece_.data(), piece_.size())) {
      tried = bytes + static_cast<int64_t>(count);
      // One write() for a record of common size; a second one if the first was cut short, which tells why.
      if (int error = write_all(descriptor_, {piece_.data(), count})) fail_write("cannot write", error);
      bytes = tried;
      last = piece_[count - 1];
    }
  } catch (const std::exception&) {
    cut();
    throw;
  }
  FLEXGEN_CHECK(last == '\n');
  return bytes;
}

int Job::bring_to_disk() {
  std::lock_guard lock(sync_mutex_);
  if (calls_.sync(descriptor_) != 0 && sync_error_ == 0) sync_error_ = errno;
  return sync_error_;
}

void Job::sync() {
  if (int error = bring_to_disk()) fail_write("cannot write", error);
  if (!touched_.empty()) fail_io("{}", touched_);
  if (const OutputState state = look_at_output(output_, descriptor_, size_); state.kind != OutputState::kAsLeft) fail_touched(state);
  if (!file_is_there(manifest_)) {
    spdlog::warn("the job file {} was removed while the job ran; it is written again", manifest_);
    write_manifest(manifest_);
  }
}

void Job::fail_touched(const OutputState& state) {
  const auto fail = [&]<typename... Args>(fmt::format_string<Args...> format, Args&&... args) {
    touched_ = fmt::format("the output {} {}", output_, fmt::format(format, std::forward<Args>(args)...));
    fail_io("{}", touched_);
  };
  if (state.kind == OutputState::kShorter)
    fail("was cut from {} bytes to {} by another program while the job ran, so answers are lost; what is left of it was not touched. Run the same command again: it answers "
         "what is missing", size_, state.size);
  if (state.kind == OutputState::kLonger)
    fail("has {} bytes, of which this job wrote {}: another program writes to it too. Nothing of that was touched; take out what is not this job's, and run the same command "
         "again", state.size, size_);
  if (state.kind == OutputState::kMoved)
    fail("was moved to {} while the job ran; the answers so far are there. Move it back, and run the same command again", state.now_at);
  const std::string what = state.kind == OutputState::kReplaced ? "was replaced by another file (which was left alone)"
                           : state.reason.empty()               ? "was removed"
                                                                : fmt::format("can no longer be reached ({})", state.reason);
  std::string saved, problem;
  try {
    saved = rescue_output(output_, descriptor_);
    write_manifest(saved + ".job");
  } catch (const Error& error) {
    problem = error.what();
  }
  if (saved.empty()) fail("{} while the job ran, and its answers could not be saved elsewhere ({})", what, problem);
  touched_ = fmt::format("the output {} {} while the job ran; its answers were saved as {} (with {}.job). Move both back to {} and {}, and run the same command again", output_,
                         what, saved, saved, output_, manifest_);
  fail_io("{}", touched_);
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
