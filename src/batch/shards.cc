#include "batch/shards.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/chrono.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <map>
#include <set>
#include <span>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "batch/job.h"
#include "batch/job_files.h"
#include "batch/line_index.h"
#include "batch/rewritten_file.h"
#include "batch/shard_lines.h"
#include "io/checked_json.h"
#include "io/spilled_records.h"
#include "io/transfer.h"
#include "io/whole_file.h"

namespace flexgen {
namespace {

namespace fs = std::filesystem;

std::optional<int64_t> number(std::string_view text) {
  int64_t value = 0;
  auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || rest != text.data() + text.size()) return std::nullopt;
  return value;
}

/// Each takes some bytes of memory, as the lines are dealt to all of them.
constexpr int64_t kMostShards = 1 << 20;

/// Stem and extension: "answers" and ".jsonl".
std::pair<std::string, std::string> split_name(const std::string& output) {
  const std::string extension = fs::path(output).extension().string();
  return {output.substr(0, output.size() - extension.size()), extension};
}

/// How many shards of `output` the names beside it say there are; of several numbers each.
std::set<int64_t> counts_beside(const std::string& output) {
  const auto [stem, extension] = split_name(output);
  fs::path directory = fs::path(output).parent_path();
  if (directory.empty()) directory = ".";
  const std::string prefix = fs::path(stem).filename().string() + ".";
  std::set<int64_t> found;
  std::error_code failed;
  for (const auto& entry : fs::directory_iterator(directory, failed)) {
    std::string name = entry.path().filename().string();
    if (!name.starts_with(prefix) || !name.ends_with(extension) || name.size() <= prefix.size() + extension.size()) continue;
    name = name.substr(prefix.size(), name.size() - prefix.size() - extension.size());
    const size_t at = name.find("-of-");
    if (at == std::string::npos) continue;
    const auto index = number(std::string_view(name).substr(0, at)), count = number(std::string_view(name).substr(at + 4));
    if (index && count && *index >= 0 && *index < *count && *count <= kMostShards) found.insert(*count);
  }
  if (failed) fail_io("{}: this directory cannot be searched for shards: {}{}", directory.string(), failed.message(), file_advice(output, failed.value()));
  return found;
}

std::vector<std::string> all_shards(const std::string& output, int64_t count) {
  std::vector<std::string> parts;
  for (int64_t i = 0; i < count; ++i) parts.push_back(shard_output(output, {i, count}));
  return parts;
}

/// The outputs of all shards beside `output`; the number of shards is what the names say.
std::vector<std::string> find_parts(const std::string& output) {
  const std::set<int64_t> found = counts_beside(output);
  if (found.empty()) fail_user("there are no shards of {} (files like {}) beside it; name them after the options", output, shard_output(output, {0, 4}));
  if (found.size() > 1)
    fail_user("there are shards of {} that say {} and others that say {} are all; name those that belong together after the options", output, *found.begin(),
              *found.rbegin());
  return all_shards(output, *found.begin());
}

/// Options without the shard, and the shard.
std::pair<JobOptions, std::string> apart(const JobIdentity& identity) {
  auto options = identity.options;
  std::string shard;
  if (auto found = options.find("shard"); found != options.end()) {
    shard = found->second;
    options.erase(found);
  }
  return {options, shard};
}

/// What of two shards says that they are of different jobs; empty if nothing does.
std::string difference_of(const JobIdentity& one, const JobIdentity& other) {
  const auto model = [](const JobIdentity& of) {
    return printable(of.model_folder.empty() ? of.model_fingerprint : fmt::format("{} in {}", of.model_fingerprint, of.model_folder));
  };
  if (one.model_fingerprint != other.model_fingerprint) return fmt::format("the model's fingerprint is {} and {}", model(one), model(other));
  auto [options, shard] = apart(one);
  auto [others, other_shard] = apart(other);
  if (shard.empty() || other_shard.empty()) options.erase(kDealing), others.erase(kDealing);  // one is a job of its own
  const std::optional<OtherOption> option = other_option(options, others);
  return option ? fmt::format("the {} is {} and {}", option->name, option->one, option->other) : "";
}

/// Tells, once each, what of the shards of one job is not the same, though their answers may be joined.
class ShardDifferences {
 public:
  void look(const JobIdentity& first, const std::string& first_part, const JobIdentity& other, const std::string& part) {
    const auto day = [](const JobIdentity& of) { return fmt::format("{:%Y-%m-%d}", fmt::gmtime(static_cast<std::time_t>(of.created_s))); };
    if (const std::string then = day(first), now = day(other); then != now && !std::exchange(told_day_, true))
      spdlog::warn(
          "the inputs of the shards {} and {} were last changed on different days ({} and {}, UTC): a chat template that tells the date told each its own. Copy inputs with their "
          "time (cp -p, rsync -t)",
          first_part, part, then, now);
    if (first.model_name != other.model_name && !std::exchange(told_name_, true))
      spdlog::warn("the answers of the shards {} and {} name different models: '{}' and '{}'", first_part, part, printable(first.model_name),
                   printable(other.model_name));
    if (const auto arithmetic = other_arithmetic(first, other); arithmetic && !std::exchange(told_arithmetic_, true))
      spdlog::warn("the shards {} and {} were answered on a {} each that round differently ({}; {}): on the other's some answers would be others", first_part,
                   part, arithmetic->name, arithmetic->one, arithmetic->other);
  }

 private:
  bool told_day_ = false, told_name_ = false, told_arithmetic_ = false;
};

/// Closes what it holds.
class OpenedFile {
 public:
  OpenedFile() = default;
  ~OpenedFile() { reset(-1); }
  OpenedFile(OpenedFile&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  OpenedFile& operator=(OpenedFile&&) = delete;
  void reset(int descriptor) {
    if (descriptor_ >= 0) ::close(descriptor_);
    descriptor_ = descriptor;
  }
  int get() const { return descriptor_; }

 private:
  int descriptor_ = -1;
};

/// A shard's output, which no other process writes while this lives: both passes read what was opened and locked once. Throws Error{user}.
class ShardFile {
 public:
  explicit ShardFile(std::string path) : path_(std::move(path)) {
    struct stat info {
    }, named{};
    do {
      file_.reset(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
      if (const int error = errno; file_.get() < 0)
        fail_user("cannot read the shard {}: {}{}", path_, std::strerror(error),
                  error == ENOENT ? "; run it, or name the shards after the options" : file_advice(path_, error));
      if (fstat(file_.get(), &info) != 0 || !S_ISREG(info.st_mode)) fail_user("the shard {} is not a regular file; name the shards after the options", path_);
      // A job locks its output for itself alone (Job). Where there are no locks, there is no job either.
      if (flock(file_.get(), LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        fail_user("another flexgen process is writing the shard {}; wait for it, or stop it, then merge", path_);
      // Its last owner may have put another one in its place between our open() and our lock.
    } while (stat(path_.c_str(), &named) != 0 || named.st_ino != info.st_ino || named.st_dev != info.st_dev);
  }
  const std::string& path() const { return path_; }
  int descriptor() const { return file_.get(); }

 private:
  std::string path_;
  OpenedFile file_;
};

/// A file that a merge replaces, locked while it lives. Throws Error{user} where another process writes it, or it has what would be lost: a line that
/// is no record, or a record of which `why_lost` says something ("answers no line").
class ReplacedOutput {
 public:
  ReplacedOutput(const std::string& path, const std::function<std::string(const KeptRecord&)>& why_lost) {
    if (path.empty()) return;
    file_.reset(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (file_.get() < 0 && errno == ENOENT) return;
    if (file_.get() < 0) fail_user("cannot read {}, which would be replaced: {}; move it away, or give another output", path, std::strerror(errno));
    if (flock(file_.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
      fail_user("another flexgen process is writing {}; wait for it, stop it, or give another output", path);
    const auto refuse = [&](int64_t line, const std::string& why) {
      fail_user("line {} of {} {}, and would be lost; nothing was changed. Move the file away, or give another output", line, path, why);
    };
    const OutputScan scan = scan_output(file_.get(), path, false, [&](const KeptRecord& record, const RecordPlace& place) {
      if (const std::string why = why_lost(record); !why.empty()) refuse(place.number, why);
    });
    if (scan.foreign.count > 0) refuse(scan.foreign.numbers.front(), scan.foreign.reason + ", so it is no record");
  }

 private:
  OpenedFile file_;
};

/// Where a job has begun in the place of the output, it would go on with the merged answers: they must be its own. `shards`: what each of `parts` is of.
void refuse_other_jobs_output(const std::string& output, std::span<const JobIdentity> shards, std::span<const std::string> parts) {
  const std::string manifest = JobFiles(output).manifest;
  if (!file_is_there(manifest)) return;
  const std::string advice = "move both away, or give another output";
  const JobIdentity begun = read_job_file(manifest, advice);
  for (size_t p = 0; p < shards.size(); ++p) {
    const JobIdentity& shard = shards[p];
    std::string difference = begun.input_sha256 == shard.input_sha256 ? difference_of(begun, shard) : "it is of another input (or that was changed since)";
    if (const auto arithmetic = other_arithmetic(begun, shard); difference.empty() && arithmetic)
      difference = fmt::format("the {} rounds differently: {} and {}", arithmetic->name, arithmetic->one, arithmetic->other);
    if (!difference.empty())
      fail_user("{} is the output of a job of its own, as {} says, and not of that of the shard {}: {}; nothing was changed: {}", output, manifest, parts[p],
                difference, advice);
  }
}

/// What of a shard is no record: its lines, and what a kill leaves at its end.
void refuse_broken_lines(const OutputScan& scan, const std::string& part) {
  for (const OutputScan::Lines* lines : {&scan.foreign, &scan.damaged})
    if (lines->count > 0)
      fail_user("line {} of the shard {} {}, so it is no whole record; run the shard again, which mends it or says what to do", lines->numbers.front(), part,
                lines->reason);
  if (scan.keep < scan.size) fail_user("the last record of the shard {} is not whole; run the shard again, which mends it or says what to do", part);
}

}  // namespace

Shard parse_shard(const std::string& text) {
  return parse_shard(text, [](const char* name) -> const char* { return std::getenv(name); });
}

Shard parse_shard(const std::string& text, const std::function<const char*(const char*)>& variable) {
  if (text.empty()) return {};
  auto from = [&](const char* name) -> std::optional<int64_t> {
    const char* value = variable(name);
    return value ? number(value) : std::nullopt;
  };
  const size_t slash = text.find('/');
  const std::string_view first = std::string_view(text).substr(0, slash);
  std::optional<int64_t> index, count;
  if (slash != std::string::npos) count = number(std::string_view(text).substr(slash + 1));
  if (first == "auto") {
    // A Slurm array may begin anywhere and leave numbers out: its tasks are those from MIN in steps of STEP.
    const auto task = from("SLURM_ARRAY_TASK_ID");
    if (task) {
      const int64_t least = from("SLURM_ARRAY_TASK_MIN").value_or(0), step = std::max<int64_t>(1, from("SLURM_ARRAY_TASK_STEP").value_or(1));
      index = (*task - least) / step;
      if (slash == std::string::npos) count = from("SLURM_ARRAY_TASK_COUNT");
    } else {
      index = from("JOB_COMPLETION_INDEX");
      if (index && !count) fail_user("--shard {}: a Kubernetes Job does not tell its number of completions; say --shard auto/N", text);
    }
    if (!index) fail_user("--shard {}: this is no task of a Slurm array and no pod of an indexed Kubernetes Job; say --shard I/N", text);
  } else {
    index = number(first);
  }
  if (!index || !count || *count < 1 || *index < 0 || *index >= *count)
    fail_user("--shard {}: give I/N, like 0/4 for the first of four parts (or auto, or auto/4){}", text,
              index && count ? fmt::format("; {} of {} is none", *index, *count) : "");
  if (*count > kMostShards) fail_user("--shard {}: there are {} shards at most", text, kMostShards);
  return {*index, *count};
}

std::string shard_output(const std::string& output, const Shard& shard) {
  if (shard.count == 1) return output;
  const auto [stem, extension] = split_name(output);
  return fmt::format("{}.{}-of-{}{}", stem, shard.index, shard.count, extension);
}

std::vector<std::string> shards_beside(const std::string& output) {
  const std::set<int64_t> found = counts_beside(output);
  return found.size() == 1 ? all_shards(output, *found.begin()) : std::vector<std::string>();
}

MergeOutcome merge_shards(const std::string& input_path, const std::string& output, std::vector<std::string> parts, const std::string& error_output) {
  if (parts.empty()) parts = find_parts(output);
  for (const std::string& part : parts)
    for (const std::string& made : {output, error_output})
      if (std::error_code none; fs::equivalent(part, made, none)) fail_user("{} is both a shard and the output; give another output", made);
  if (std::error_code none;
      !error_output.empty() && (fs::equivalent(output, error_output, none) || output == error_output || fs::equivalent(input_path, error_output, none)))
    fail_user("the error output {} is the output or the input as well; give another", error_output);
  // Only the lines' ids are of interest: whether they are good was decided by the runs.
  const std::string directory = spill_directory(output);
  const BatchInput input = BatchInput::scan(input_path, {}, std::atomic<bool>{false}, directory);
  struct Where {
    size_t part = 0;
    bool error = false;
    int64_t offset = -1, bytes = 0;
    uint64_t content = 0;  ///< KeptRecord::content
  };
  const SpillPlace spill{directory, "the index of the shards"};
  LineIndex index(input, directory);
  SpilledRecords<Where> records(spill);
  for (int64_t i = 0; i < input.num_lines(); ++i) records.push_back({});
  std::vector<JobIdentity> identities;
  std::map<std::string, std::string> shards;  // shard -> part
  ShardDifferences differences;
  std::vector<ShardFile> files;
  files.reserve(parts.size());
  identities.reserve(parts.size());
  for (const std::string& part : parts) {
    const size_t p = files.size();
    const ShardFile& file = files.emplace_back(part);
    const JobIdentity& identity = identities.emplace_back(read_job_file(JobFiles(part).manifest, fmt::format("run the shard again, or leave {} out", part)));
    if (identity.input_sha256 != input.fingerprint()) fail_user("the shard {} answers another input than {} (or that was changed since)", part, input_path);
    if (const std::string difference = difference_of(identities.front(), identity); !difference.empty())
      fail_user("the shards {} and {} are of different jobs: {}; merge only shards of one job", parts[0], part, difference);
    differences.look(identities.front(), parts[0], identity, part);
    const std::string shard = apart(identity).second;
    if (auto [same, is_new] = shards.try_emplace(shard, part); !is_new) fail_user("{} and {} are both shard {}", same->second, part, shard);
    int64_t repeated = 0;
    const auto take = [&](const KeptRecord& record, const RecordPlace& place) {
      const std::optional<int64_t> found = index.find(record.id);
      if (!found) fail_user("line {} of the shard {} answers no line of {}", place.number, part, input_path);
      if (const Where where = records[*found]; where.offset >= 0) {
        if (where.part == p && where.content == record.content) {  // a job goes on with such an output too
          ++repeated;
          return;
        }
        fail_user("line {} of the input is answered twice: in {} and in {}; remove one of the records", input.line(*found).number, parts[where.part], part);
      }
      records.set(*found, {p, record.answer_tokens < 0, place.offset, place.bytes, record.content});
    };
    refuse_broken_lines(scan_output(file.descriptor(), part, false, take), part);
    if (repeated > 0) spdlog::warn("{} lines of the shard {} repeat records that are there already; each is taken once", repeated, part);
  }
  int64_t missing = 0, first_missing = 0;
  for (int64_t i = 0; i < records.size(); ++i)
    if (records[i].offset < 0 && missing++ == 0) first_missing = input.line(i).number;
  if (missing > 0)
    fail_user("{} of the {} lines of {} have no answer in the {} shards, the first is line {}; finish the shards (the same commands go on), then merge",
              missing, records.size(), input_path, parts.size(), first_missing);

  refuse_other_jobs_output(output, identities, parts);
  if (const std::string manifest = JobFiles(error_output).manifest; !error_output.empty() && file_is_there(manifest))
    fail_user("the error output {} is the output of a job, as {} says; give another one", error_output, manifest);
  // Errors lose nothing: the lines that they tell of may have been corrected since.
  const ReplacedOutput old_answers(output, [&](const KeptRecord& record) {
    return record.answer_tokens < 0 || index.find(record.id) ? "" : fmt::format("answers no line of {}", input_path);
  });
  const ReplacedOutput old_errors(error_output, [](const KeptRecord& record) { return record.answer_tokens < 0 ? "" : "is an answer, and no error"; });
  RewrittenFile answers(output, ::write);
  std::optional<RewrittenFile> errors;
  if (!error_output.empty()) errors.emplace(error_output, ::write);
  for (int64_t i = 0; i < records.size(); ++i) {
    const Where where = records[i];
    const ShardFile& from = files[where.part];
    (errors && where.error ? *errors : answers).add_line(from.descriptor(), where.offset, where.bytes, from.path());
  }
  answers.finish();
  if (errors) errors->finish();
  if (errors) errors->replace();
  answers.replace();
  return {records.size()};
}

}  // namespace flexgen
