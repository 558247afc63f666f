#include "batch/job.h"

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
#include <tuple>
#include <utility>

#include "backend/kernels.h"
#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include "batch/job_files.h"
#include "batch/output_watch.h"
#include "io/checked_json.h"
#include "io/same_file.h"
#include "io/spilled_records.h"
#include "io/transfer.h"
#include "io/whole_file.h"

namespace flexgen {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr int kManifestVersion = 1;

SpillPlace done_place(const std::string& output) { return {spill_directory(output), "the list of finished lines"}; }

/// What answers depend on and is another in `now` than in a job that `begun`; empty if nothing is.
std::string what_changed(const JobIdentity& begun, const JobIdentity& now) {
  if (begun.model_fingerprint != now.model_fingerprint)
    return begun.model_folder.empty() || begun.model_folder == now.model_folder
               ? "another model (or this one was changed since)"
               : fmt::format("another model ({}; this one is {})", begun.model_folder, now.model_folder);
  JobOptions before = begun.options, after = now.options;
  for (const auto& [name, value] : now.options)
    if (value == kLeftToThePlan) before.erase(name), after.erase(name);
  if (!before.contains(kMaxModelLen)) after.erase(kMaxModelLen);
  if (const std::optional<OtherOption> other = other_option(before, after))
    return fmt::format("another {} ({} instead of {})", other->name, other->one, other->other);
  const std::optional<OtherOption> other = other_arithmetic(begun, now);
  if (!other) return "";
  return fmt::format("a {} that rounds otherwise ({}; this one: {}): a machine like that one goes on with it, with the same flexgen{}{}", other->name,
                     other->one, other->other, other->name == "GPU" ? " and cuBLASLt" : "", how_to_round_as(other->one, other->other));
}

/// A weight file that is the one a job began with and was written to since; empty if there is none. Another file of that name, a copy, is only told.
std::string written_since(const JobIdentity& begun, const JobIdentity& now) {
  for (const auto& [name, then] : begun.model_files) {
    const auto found = now.model_files.find(name);
    if (found == now.model_files.end() || found->second == then) continue;
    const auto& [device, inode, size, written] = found->second;
    if (device == then[0] && inode == then[1]) return name;
    if (size != then[2] || written != then[3])
      spdlog::warn("{} is another file than when this job began, last written at another time; going on, as its header and samples of its bytes are the same",
                   name);
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
      if (!text.is_string()) damaged(fmt::format("'{}' in '{}' is {}, where a text must be", printable(key), name, shown(text)));
      texts[key] = text.get<std::string>();
    }
    return texts;
  }
  std::map<std::string, std::array<int64_t, 4>> stamps(const char* name) {
    const auto& files = field(name);
    if (!files.is_object()) damaged(fmt::format("'{}' is {}, where an object must be", name, shown(files)));
    std::map<std::string, std::array<int64_t, 4>> stamps;
    for (const auto& [file, stamp] : files.items()) {
      std::array<int64_t, 4>& numbers = stamps[file];
      const auto is_whole = [](const nlohmann::json& number) {
        return number.is_number_integer() && (!number.is_number_unsigned() || number.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX));
      };
      if (!stamp.is_array() || stamp.size() != numbers.size() || !std::all_of(stamp.begin(), stamp.end(), is_whole) || stamp[2].get<int64_t>() < 0)
        damaged(fmt::format("'{}' says {} of '{}', where four whole numbers must be (device, inode, size, time)", name, shown(stamp), printable(file)));
      std::transform(stamp.begin(), stamp.end(), numbers.begin(), [](const nlohmann::json& number) { return number.get<int64_t>(); });
    }
    return stamps;
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
  if (!file_is_there(path)) fail_user("there is no job file {} that says what the answers beside it are from; {}", path, advice);
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
  if (fields.has("arithmetic")) identity.arithmetic = fields.texts("arithmetic");
  if (fields.has("checksum") && fields.text("checksum") != content_checksum(text)) fields.damaged("what it says does not fit its checksum");
  fields.finish();
  return identity;
}

std::optional<OtherOption> other_option(const JobOptions& one, const JobOptions& other) {
  JobOptions all = one;
  all.insert(other.begin(), other.end());
  const auto said = [](const JobOptions& options, const std::string& name) {
    const auto found = options.find(name);
    return found == options.end() ? std::nullopt : std::optional(found->second);
  };
  const auto shown = [](const std::optional<std::string>& value) { return value ? printable(*value) : "the default"; };
  for (const auto& [name, any] : all)
    if (const auto first = said(one, name), second = said(other, name); first != second) return OtherOption{printable(name), shown(first), shown(second)};
  return std::nullopt;
}

std::optional<OtherOption> other_arithmetic(const JobIdentity& one, const JobIdentity& other) {
  const auto attends_beside = [](const JobIdentity& of) {
    const auto found = of.options.find(kAttentionOn);
    return found != of.options.end() && found->second == "cpu";
  };
  for (const auto& [name, value] : one.arithmetic) {
    const auto found = other.arithmetic.find(name);
    if (found == other.arithmetic.end() || found->second == value) continue;
    // Beside a GPU the processor does no more than attend, and sum up what logprobs are shares of: their last digits are not looked at.
    if (name != "GPU" && one.arithmetic.contains("GPU") && !attends_beside(one)) continue;
    return OtherOption{printable(name), printable(value), printable(found->second)};
  }
  return std::nullopt;
}

int64_t created_of(int64_t modified_s) { return std::clamp<int64_t>(modified_s, 0, kMaxCreated_s); }

namespace {

/// Records that were taken out of an output, beside it: what is there stays, and nothing comes twice. The file is written when the first comes.
class RemovedRecords {
 public:
  RemovedRecords(std::string path, WriteCall write) : path_(std::move(path)), write_(std::move(write)), known_(done_place(path_)) {}
  void add(const KeptRecord& record, int from, const RecordPlace& place, const std::string& from_path) {
    if (!file_) open();
    ++count_;
    if (!known_.find({record.id, record.content})) file_->add_line(from, place.offset, place.bytes, from_path);
  }
  /// How many there were.
  int64_t keep() {
    if (file_) {
      file_->finish();
      file_->replace();
    }
    return count_;
  }

 private:
  struct Known {
    RecordId id{};
    uint64_t content = 0;
    bool operator<(const Known& other) const { return std::tie(id, content) < std::tie(other.id, other.content); }
  };
  void open() {
    file_.emplace(path_, write_);
    const int old = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    if (old < 0) return;
    RecordSorter<Known> found(done_place(path_));
    const OutputScan scan = scan_output(old, path_, false, [&](const KeptRecord& record, const RecordPlace&) { found.add({record.id, record.content}); });
    found.drain([&](const Known& known) {
      known_.push_back(known);
      return true;
    });
    FilePart all(old, path_, 0, scan.size);
    file_->add(all);
    if (scan.needs_line_end) file_->add("\n");
    ::close(old);
  }

  std::string path_;
  WriteCall write_;
  RecordTable<Known> known_;
  std::optional<RewrittenFile> file_;
  int64_t count_ = 0;
};

/// A record that is as flexgen writes it, with another custom_id.
class RenamedRecord : public RecordText {
 public:
  RenamedRecord(int descriptor, const std::string& path, const RecordPlace& place, const std::string& custom_id)
      : front_(front(descriptor, path, place, custom_id)), middle_(descriptor, path, place.offset + skipped_, place.bytes - skipped_ - kSealBytes) {}
  size_t read(char* data, size_t room) override {
    if (at_ < front_.size()) {
      const size_t count = front_.copy(data, room, at_);
      at_ += count;
      return count;
    }
    if (const size_t count = middle_.read(data, room)) return count;
    const size_t count = kEnd.copy(data, room, end_at_);
    end_at_ += count;
    return count;
  }
  void rewind() override {
    middle_.rewind();
    at_ = end_at_ = 0;
  }

 private:
  static constexpr std::string_view kEnd = "}\n";
  /// Up to the custom_id's end.
  std::string front(int descriptor, const std::string& path, const RecordPlace& place, const std::string& custom_id) {
    std::string text(static_cast<size_t>(std::min<int64_t>(place.bytes, 4096)), '\0');
    FilePart part(descriptor, path, place.offset, static_cast<int64_t>(text.size()));
    text.resize(read_fully(part, text.data(), text.size()));
    static constexpr std::string_view kName = R"("custom_id":")";
    const size_t begin = text.find(kName) + kName.size();
    size_t end = begin;
    while (end < text.size() && text[end] != '"') end += text[end] == '\\' ? 2 : 1;
    FLEXGEN_CHECK(end < text.size());
    skipped_ = static_cast<int64_t>(end);
    return text.substr(0, begin) + custom_id;
  }

  int64_t skipped_ = 0;
  std::string front_;
  FilePart middle_;
  size_t at_ = 0, end_at_ = 0;
};

}  // namespace

Job::Job(std::string output, const std::string& input, OutputCalls calls, const std::atomic<bool>& stop, const std::string& error_output)
    : output_(std::move(output)), manifest_(JobFiles(output_).manifest), calls_(std::move(calls)), done_(done_place(output_)) {
  if (is_same_file(output_, input) || is_same_file(manifest_, input))
    fail_user("the output {} (or its job file {}) is the input itself; give another output", output_, manifest_);
  open_and_lock();
  try {
    if (!error_output.empty()) open_error_output(error_output, input);
    read_records(stop);
  } catch (...) {
    ::close(descriptor_);
    if (errors_.descriptor >= 0) ::close(errors_.descriptor);
    if (created_) ::unlink(output_.c_str());
    throw;
  }
}

void Job::open_error_output(const std::string& path, const std::string& input) {
  errors_.path = path;
  for (const std::string& other : {output_, manifest_, input})
    if (is_same_file(other, path)) fail_user("the error output {} is {} as well; give another", path, other);
  errors_.descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (errors_.descriptor < 0 && errno != ENOENT) fail_io("cannot read the error output {}: {}{}", path, std::strerror(errno), file_advice(path, errno));
  struct stat info {};
  if (errors_.descriptor >= 0 && (fstat(errors_.descriptor, &info) != 0 || !S_ISREG(info.st_mode)))
    fail_user("the error output {} is not a regular file; give one", path);
  const std::string folder = folder_of(path);
  if (access(folder.c_str(), W_OK | X_OK) != 0) fail_io("cannot write the error output {}: {}{}", path, std::strerror(errno), file_advice(path, errno));
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
  if (errors_.descriptor >= 0) ::close(errors_.descriptor);
  if (created_ && !started_ && is_same_file(output_, opened_by_descriptor(descriptor_))) ::unlink(output_.c_str());
  ::close(descriptor_);
}

void Job::open_and_lock() {
  for (;;) {
    descriptor_ = ::open(output_.c_str(), O_RDWR | O_APPEND | O_CLOEXEC | O_NONBLOCK);
    if (descriptor_ < 0 && errno == ENOENT) {
      descriptor_ = ::open(output_.c_str(), O_RDWR | O_APPEND | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
      if (descriptor_ < 0 && errno == EEXIST) {
        // Something is there by that name: another process was first, or it is a link to a file that is not there yet, which is then made.
        struct stat named {};
        if (lstat(output_.c_str(), &named) != 0 || !S_ISLNK(named.st_mode)) continue;
        descriptor_ = ::open(output_.c_str(), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644);
      } else {
        created_ = descriptor_ >= 0;
      }
    }
    if (descriptor_ < 0) fail_io("cannot write the output {}: {}{}", output_, std::strerror(errno), file_advice(output_, errno));
    struct stat info {};
    struct stat named {};
    if (fstat(descriptor_, &info) != 0 || !S_ISREG(info.st_mode)) {
      ::close(descriptor_);
      fail_user("the output {} is not a regular file; a job that may be continued needs one", output_);
    }
    if (flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
      int error = errno;
      ::close(descriptor_);
      if (error == EWOULDBLOCK) fail_user("another flexgen process is writing {}; wait for it, stop it, or give another output", output_);
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
  const auto add = [&](const KeptRecord& record, const RecordPlace& place, bool apart) {
    found.add({record.id, record.name, record.answer_tokens, record.content, record.has_checksum, place.as_written, apart, record.error_line});
  };
  scan_ = scan_output(descriptor_, output_, stop, [&](const KeptRecord& record, const RecordPlace& place) {
    const int64_t line = place.number;
    add(record, place, false);
    if (!record.created) return;
    if (!first_created_) {
      first_created_ = record.created;
      first_model_ = record.model;
    }
    if (other_line_ == 0 && (record.created != first_created_ || record.model != first_model_)) other_line_ = line;
  });
  if (errors_.descriptor >= 0)
    errors_.scan = scan_output(errors_.descriptor, errors_.path, stop, [&](const KeptRecord& record, const RecordPlace& place) {
      if (record.answer_tokens >= 0 && errors_.answer_at == 0) errors_.answer_at = place.number;
      add(record, place, true);
    });
  scan_.stopped = scan_.stopped || stop;
  size_ = scan_.keep;
  // Whose the file is match() decides, by the manifest.
  std::optional<Done> last;
  std::optional<uint64_t> in_output, in_errors;  // of the last line: KeptRecord::content
  const auto take = [&] {
    if (!last) return;
    done_.push_back(*last);
    num_answers_ += last->answer_tokens >= 0;
  };
  found.drain([&](const Done& record) {
    std::optional<uint64_t>& content = record.apart ? in_errors : in_output;
    if (!last || record.id != last->id) {
      take();
      last = record;
      in_output = in_errors = std::nullopt;
      content = record.content;
      return true;
    }
    repeated_ += record.apart == last->apart;  // a kill while errors are split off leaves them in both files
    if (content && record.content != *content && !two_answers_) two_answers_ = record.id;
    content = record.content;
    errors_.stale = errors_.stale || (in_output && in_errors && *in_output != *in_errors);
    const bool apart = last->apart || record.apart;
    if (!record.apart) last = record;
    last->apart = apart;
    return true;
  });
  take();
}

std::optional<DoneLine> Job::done(const RecordId& id) const {
  const auto found = done_.find(Done{id});
  if (!found) return std::nullopt;
  return DoneLine{found->answer_tokens < 0 ? std::nullopt : std::optional(found->answer_tokens), found->name, found->has_checksum, found->as_written,
                  found->apart ? found->error_line : 0};
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
  return fmt::format(" ({} such lines{}: {})", lines.count, lines.count > static_cast<int64_t>(lines.numbers.size()) ? ", the first" : "",
                     line_list(lines, ", ", ""));
}

}  // namespace

void Job::refuse_other_lines() const {
  const auto refuse = [](const OutputScan& scan, const char* what, const std::string& path) {
    if (scan.foreign.count > 0)
      fail_user(
          "line {} of the {} {} {}, so it is no record of this job{}; nothing was changed. Mend or remove it, give another output, or --overwrite to lose all that "
          "is in this one",
          scan.foreign.numbers.front(), what, path, scan.foreign.reason, such_lines(scan.foreign));
    if (scan.damaged.count > 0)
      fail_user(
          "line {} of the {} {} {}{}; it is not taken for an answer, and nothing was changed. If nobody changed it on purpose, look after the disk and the memory; "
          "remove such lines (sed -i '{}' {}), and the same command answers them again",
          scan.damaged.numbers.front(), what, path, scan.damaged.reason, such_lines(scan.damaged), line_list(scan.damaged, ";", "d"), path);
  };
  refuse(scan_, "output", output_);
  refuse(errors_.scan, "error output", errors_.path);
  if (errors_.answer_at > 0)
    fail_user("line {} of the error output {} is an answer, so it is none of this job's error files; give another", errors_.answer_at, errors_.path);
  if (two_answers_) refuse_two_answers(*two_answers_);
}

void Job::refuse_two_answers(const RecordId& id) const {
  std::vector<int64_t> lines;
  scan_output(descriptor_, output_, false, [&](const KeptRecord& record, const RecordPlace& place) {
    if (record.id == id) lines.push_back(place.number);
  });
  if (lines.size() < 2)
    fail_user(
        "the output {} and the error output {} have records of the same line that differ; nothing was changed. Remove the one that is wrong, or give another error output",
        output_, errors_.path);
  fail_user(
      "lines {} and {} of the output {} answer the same line of the input, and differ; nothing was changed. Remove the one that is wrong, give another output, or "
      "--overwrite to lose all that is in this one",
      lines.front(), lines.back(), output_);
}

void Job::refuse_name(const RecordId& id, int64_t line) const {
  int64_t number = 0;
  scan_output(descriptor_, output_, false, [&](const KeptRecord& record, const RecordPlace& place) {
    if (record.id == id && number == 0) number = place.number;
  });
  fail_user(
      "line {} of the output {} has the id of line {} of the input but another custom_id, so it was changed; nothing was changed now. Mend or remove it, give another output, or --overwrite "
      "to lose all that is in this one",
      number, output_, line);
}

void Job::refuse_contradictions(const JobIdentity& begun) const {
  if (other_line_ > 0)
    fail_user(
        "line {} of the output {} has another 'created' or 'model' than the answers before it; remove it, or give another output, or --overwrite to lose what is in {}",
        other_line_, output_, output_);
  if (first_created_ && *first_created_ != begun.created_s)
    fail_user(
        "the job file {} says created {}, the answers in {} say {}; one of them was changed: mend it, or give another output, or --overwrite to lose what is in {}",
        manifest_, begun.created_s, output_, *first_created_, output_);
  if (first_created_ && first_model_ != begun.model_name)
    fail_user(
        "the job file {} says model '{}', the answers in {} say '{}'; one of them was changed: mend it, or give another output, or --overwrite to lose what is in {}",
        manifest_, begun.model_name, output_, first_model_, output_);
}

void Job::match(const JobIdentity& wanted, bool overwrite) {
  identity_ = wanted;
  auto start_over = [&] {
    identity_ = wanted;
    forget_records();
  };
  matched_ = true;
  if (scan_.size == 0 && errors_.scan.size == 0) {
    for (const char* ending : {".gz", ".zst", ".xz", ".bz2", ".zip"})
      if (std::error_code none; std::filesystem::exists(output_ + ending, none) && std::filesystem::exists(manifest_, none))
        spdlog::warn("there is {0}{1}, but no {0}: the job begins anew; to go on with what is in there, stop and unpack it", output_, ending);
    if (!overwrite) refuse_other_manifest();
    return start_over();
  }
  try {
    if (scan_.size == 0 && !file_is_there(manifest_))
      fail_user("the error output {} is not empty, and there is no job {} that it could be of; give another error output, or --overwrite to lose what is in it",
                errors_.path, output_);
    JobIdentity found = read_job_file(manifest_, fmt::format("give another output, or --overwrite to lose what is in {}", output_));
    std::string difference = what_changed(found, wanted);
    for (const auto& [name, value] : wanted.options)
      if (value == kLeftToThePlan && found.options.contains(name)) identity_.options[name] = found.options.at(name);
    if (const std::string name = written_since(found, wanted); difference.empty() && !name.empty())
      difference = fmt::format("another model: its file {} was written to since", name);
    if (!difference.empty()) fail_user("the output {} has answers from {}; give another output, or --overwrite to lose them", output_, difference);
    refuse_other_lines();
    refuse_contradictions(found);
    if (found.model_name != identity_.model_name)
      spdlog::warn("answers go on to name the model '{}', as when this job began, and not '{}'", printable(found.model_name), printable(identity_.model_name));
    identity_.model_name = found.model_name;
    identity_.created_s = found.created_s;
    identity_.model_files = found.model_files;
    identity_.model_folder = found.model_folder;
    identity_.arithmetic = found.arithmetic;
    continued_ = true;
    edited_ = found.input_sha256 != wanted.input_sha256;
    if (!edited_ && errors_.stale) go_on_as_edited();
    if (repeated_ > 0) spdlog::warn("{} lines of {} repeat records that are there already; they stay as they are", repeated_, output_);
  } catch (const Error& error) {
    if (!overwrite || error.kind() != ErrorKind::kUser) throw;
    start_over();
  }
}

void Job::refuse_other_manifest() const {
  const std::string text = read_file_if_there(manifest_, kMaxManifestBytes);
  // What a power cut left of one of ours is zeros.
  if (text.find_first_not_of('\0') == std::string::npos || text.find("\"flexgen_job\"") != std::string::npos) return;
  fail_user(
      "{} is there, where this job's own file would be, and is none of flexgen's; nothing was changed. Move it away, give another output, or --overwrite to lose it",
      manifest_);
}

void Job::forget_records() {
  done_ = RecordTable<Done>(done_place(output_));
  num_answers_ = 0;
  size_ = 0;
  continued_ = edited_ = errors_alone_ = false;
}

void Job::go_on_as_edited() {
  spdlog::warn(
      "the error output {} has records that are not of the input as it is now (it was changed while --error-output was left out, or they are another job's): those of its lines are written again, others moved to {}",
      errors_.path, JobFiles(errors_.path).removed);
  edited_ = errors_alone_ = true;
}

bool Job::take_stale_errors(const std::function<bool(const RecordId&)>& is_line) {
  if (errors_.descriptor < 0 || edited_) return false;
  bool all_lines = true;
  scan_output(descriptor_, output_, false, [&](const KeptRecord& record, const RecordPlace&) { all_lines = all_lines && is_line(record.id); });
  if (all_lines) go_on_as_edited();
  return all_lines;
}

void Job::refuse_other_input(bool overwrite) {
  if (!overwrite)
    fail_user(
        "the output {} has answers from another input: none of its {} records answers a line of this one; give another output, or --overwrite to lose them",
        output_, num_done());
  forget_records();
}

void Job::check_as_left() const {
  if (look_at_output(output_, descriptor_, scan_.size).kind != OutputState::kAsLeft)
    fail_io("another program changed the output {} while this one began; it was left as it is; run the same command again", output_);
}

void Job::use_output(RewrittenFile& file) {
  std::lock_guard lock(sync_mutex_);
  ::close(descriptor_);
  size_ = file.size();
  descriptor_ = file.release();
}

int64_t Job::rewrite(const std::function<RecordFate(const KeptRecord&)>& fate) {
  FLEXGEN_CHECK(matched_ && !started_ && edited_);
  check_as_left();
  RewrittenFile next(output_, calls_.write);
  RemovedRecords removed(JobFiles(output_).removed, calls_.write), removed_errors(JobFiles(errors_.path).removed, calls_.write);
  scan_output(descriptor_, output_, false, [&](const KeptRecord& record, const RecordPlace& place) {
    const RecordFate what = fate(record);
    if (what.kind == RecordFate::kRemoved) {
      removed.add(record, descriptor_, place, output_);
    } else if (what.kind == RecordFate::kStays && what.custom_id.empty()) {
      next.add_line(descriptor_, place.offset, place.bytes, output_);
    } else if (what.kind == RecordFate::kStays) {
      RenamedRecord renamed(descriptor_, output_, place, what.custom_id);
      SealedRecord sealed(renamed);
      next.add(sealed);
    }
  });
  if (errors_.descriptor >= 0)
    scan_output(errors_.descriptor, errors_.path, false, [&](const KeptRecord& record, const RecordPlace& place) {
      if (const auto kind = fate(record).kind; kind == RecordFate::kRemoved || kind == RecordFate::kForgotten)
        removed_errors.add(record, errors_.descriptor, place, errors_.path);
    });
  next.finish();
  const int64_t count = removed.keep();
  removed_errors.keep();
  next.replace();
  use_output(next);
  scan_.size = scan_.keep = size_;
  scan_.needs_line_end = false;
  return count;
}

void Job::settle(const std::map<std::string, std::string>& options) {
  FLEXGEN_CHECK(matched_ && !started_);
  identity_.options = options;
}

void Job::write_manifest(const std::string& path) const {
  OrderedJson json;
  json["flexgen_job"] = kManifestVersion;
  json["input_sha256"] = identity_.input_sha256;
  json["model_fingerprint"] = identity_.model_fingerprint;
  json["model"] = identity_.model_name;
  json["options"] = identity_.options;
  json["created"] = identity_.created_s;
  json["model_files"] = identity_.model_files;
  json["model_folder"] = identity_.model_folder;
  if (!identity_.arithmetic.empty()) json["arithmetic"] = identity_.arithmetic;
  const auto to_text = [&] { return json.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n"; };
  json["checksum"] = content_checksum(to_text());
  const std::string text = to_text();
  if (const int error = NewFile(path).replace_with(text, calls_.write))
    fail_io("cannot write the job file {}: {}{}; nothing was started", path, std::strerror(error), file_advice(path, error));
}

void Job::start() {
  FLEXGEN_CHECK(matched_ && !started_);
  if (!continued_) {
    // The manifest goes first: were the process killed here, old answers must not look like those of the new job.
    if (::unlink(manifest_.c_str()) != 0 && errno != ENOENT) fail_io("cannot replace the job file {}: {}", manifest_, std::strerror(errno));
    sync_directory_of(manifest_);
  }
  check_as_left();
  // Errors of lines that may be others now are written again, to the output first.
  if ((!continued_ || edited_) && errors_.descriptor >= 0) {
    if (::unlink(errors_.path.c_str()) != 0 && errno != ENOENT) fail_io("cannot replace the error output {}: {}", errors_.path, std::strerror(errno));
    ::close(std::exchange(errors_.descriptor, -1));
    sync_directory_of(errors_.path);
  }
  if (size_ != scan_.size && ftruncate(descriptor_, size_) != 0) fail_write("cannot cut", errno);
  if (continued_ && scan_.needs_line_end) {
    if (int error = write_all(descriptor_, "\n", calls_.write)) fail_write("cannot write", error);
    ++size_;
  }
  if (fsync(descriptor_) != 0) fail_write("cannot write", errno);
  if (!continued_ || edited_) write_manifest(manifest_);
  started_ = true;
  syncer_ = start_thread("bringing answers to the disk", [this] { sync_loop(); });
}

void Job::fail_write(const char* what, int error) const {
  const std::string remedy = error == EFBIG ? "raise the limit on the size of files (ulimit -f)"
                             : error == ENOSPC || error == EDQUOT
                                 ? "make room"
                                 : fmt::format("mend the disk (see dmesg), or copy the output and {} to another and name that as the output", manifest_);
  fail_io("{} the output {}: {}; finished answers are kept: {}, and run the same command again", what, output_, std::strerror(error), remedy);
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
  piece_.resize(kRecordPieceBytes);
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
      if (int error = write_all(descriptor_, {piece_.data(), count}, calls_.write)) fail_write("cannot write", error);
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
    fail(
        "was cut from {} bytes to {} by another program while the job ran, so answers are lost; what is left of it was not touched. Run the same command again: it answers "
        "what is missing",
        size_, state.size);
  if (state.kind == OutputState::kLonger)
    fail(
        "has {} bytes, of which this job wrote {}: another program writes to it too. Nothing of that was touched; take out what is not this job's, and run the same command "
        "again",
        state.size, size_);
  if (state.kind == OutputState::kMoved)
    fail("was moved to {} while the job ran; the answers so far are there. Move it back, and run the same command again", state.now_at);
  const std::string what = state.kind == OutputState::kReplaced ? "was replaced by another file (which was left alone)"
                           : state.reason.empty()               ? "was removed"
                                                                : fmt::format("can no longer be reached ({})", state.reason);
  std::string saved, problem;
  try {
    saved = rescue_output(output_, descriptor_);
    write_manifest(JobFiles(saved).manifest);
  } catch (const Error& error) {
    problem = error.what();
  }
  if (saved.empty()) fail("{} while the job ran, and its answers could not be saved elsewhere ({})", what, problem);
  touched_ =
      fmt::format("the output {} {} while the job ran; its answers were saved as {} (with {}.job). Move both back to {} and {}, and run the same command again",
                  output_, what, saved, saved, output_, manifest_);
  fail_io("{}", touched_);
}

bool Job::arrange(bool in_order, const std::function<int64_t(const RecordId&)>& line_of, const std::atomic<bool>& stop) {
  FLEXGEN_CHECK(started_);
  const bool split = !errors_.path.empty();
  if (!in_order && !split) return true;
  struct Place {
    int64_t rank = 0;    ///< in the order that is wanted
    bool apart = false;  ///< it lies in the error output
    bool error = false;
    int64_t offset = 0, bytes = 0;
    bool operator<(const Place& other) const { return rank < other.rank; }
  };
  RecordSorter<Place> places({spill_directory(output_), "the order of the answers"});
  int64_t number = 0;
  bool as_wanted = true;
  const auto look = [&](int descriptor, const std::string& path, bool apart) {
    int64_t last = -1;
    scan_output(descriptor, path, stop, [&](const KeptRecord& record, const RecordPlace& where) {
      const bool error = record.answer_tokens < 0;
      if (!apart && split && error) {
        as_wanted = false;
        if (const auto found = done_.find(Done{record.id}); errors_.descriptor >= 0 && found && found->apart) return;  // a kill left it in both
      }
      const int64_t rank = in_order ? line_of(record.id) : number++;
      if (in_order && rank <= last) as_wanted = false;
      last = rank;
      places.add({rank, apart, error, where.offset, where.bytes});
    });
  };
  if (errors_.descriptor >= 0) look(errors_.descriptor, errors_.path, true);
  look(descriptor_, output_, false);
  if (stop) return false;
  std::optional<RewrittenFile> next, apart;
  if (split && (!as_wanted || errors_.descriptor < 0)) apart.emplace(errors_.path, calls_.write);
  if (!as_wanted) {
    next.emplace(output_, calls_.write);
    int64_t last = -1;
    places.drain([&](const Place& place) {
      if (place.rank == last) return !stop;  // the same record again
      last = place.rank;
      (split && place.error ? *apart : *next)
          .add_line(place.apart ? errors_.descriptor : descriptor_, place.offset, place.bytes, place.apart ? errors_.path : output_);
      return !stop;
    });
    if (stop) return false;
  }
  if (apart) {
    apart->finish();
    if (next) next->finish();
    std::error_code none;
    const bool as_left = errors_.descriptor < 0 ? !std::filesystem::exists(errors_.path, none)
                                                : look_at_output(errors_.path, errors_.descriptor, errors_.scan.size).kind == OutputState::kAsLeft;
    if (!as_left)
      fail_io(
          "another program changed the error output {} while the job ran, so it was left alone; the errors are in {}. Move it away, and run the same command again",
          errors_.path, output_);
    apart->replace();
  } else if (next) {
    next->finish();
  }
  if (next) {
    next->replace();
    use_output(*next);
  }
  return true;
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
