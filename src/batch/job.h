#pragma once
// Job: the output file of a batch and its manifest, safe against a crash at any byte (docs/job_files.md). append() and
// the rest are for one thread; a thread of its own brings the file to the disk every second.

#include <unistd.h>
#include <array>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "batch/batch_input.h"
#include "batch/output_scan.h"
#include "batch/output_watch.h"
#include "batch/record_text.h"
#include "batch/rewritten_file.h"

namespace flexgen {

/// The value of an option that the plan of a job's first start chooses; a later start that leaves it to the plan takes that choice.
inline constexpr const char* kLeftToThePlan = "left to the plan";

/// The option of a server's batches that says how long a prompt and its answer may be together. Job files of before do not say it, and go with any.
inline constexpr const char* kMaxModelLen = "max model len";

/// The option that says where attention runs beside a GPU, "cpu" or "gpu".
inline constexpr const char* kAttentionOn = "attention on";

/// Those that answers depend on: name -> value.
using JobOptions = std::map<std::string, std::string>;

/// What answers depend on. A job is continued only if all of it is as it was.
struct JobIdentity {
  std::string input_sha256;
  std::string model_fingerprint;
  JobOptions options;
  // As it was when the job began; goes into the answers, so that it must stay.
  std::string model_name;
  int64_t created_s = 0;
  /// Of each weight file, by name: device, inode, size, time of the last writing in ns. The fingerprint samples bytes; this tells that others were written.
  std::map<std::string, std::array<int64_t, 4>> model_files = {};
  std::string model_folder = {};  ///< where it lay when the job began, with its revision if that is the Hub's cache; tells people, and binds nobody
  JobOptions arithmetic = {};     ///< Engine::arithmetic(); none of what an earlier flexgen began
};

/// The system calls that bring answers to the disk; tests put faults in their place.
struct OutputCalls {
  WriteCall write = ::write;
  std::function<int(int)> sync = ::fdatasync;
};

/// What becomes of a record of an output whose input was edited since.
struct RecordFate {
  enum Kind {
    kStays,
    kDropped,    ///< its line gets another one
    kRemoved,    ///< it answers a line that is no longer there, and goes to OUT.removed
    kForgotten,  ///< it is the error of a line that is no longer there: dropped, or moved if it is in the error output
  } kind = kStays;
  std::string custom_id = {};  ///< that it gets; empty: it has the right one
};

/// A line that has a record.
struct DoneLine {
  std::optional<int64_t> answer_tokens;  ///< that its answers took, in all; nothing for an error record
  RecordId name{};                       ///< hash_of_name() of the record's custom_id
  bool has_checksum = false;
  bool as_written = false;      ///< as RecordPlace has it
  int64_t errors_say_line = 0;  ///< the line's number, where the error output has the record; 0: it says none
};

/// An option of which two jobs have different values; "the default" where one does not name it.
struct OtherOption {
  std::string name, one, other;
};
/// The first by name; nothing if all are the same.
std::optional<OtherOption> other_option(const JobOptions& one, const JobOptions& other);

/// What of two jobs' arithmetic is known of both, matters to their answers, and differs.
std::optional<OtherOption> other_arithmetic(const JobIdentity& one, const JobIdentity& other);

/// Reads a manifest. Throws Error{user} that ends with `advice` if it is missing, damaged or of another format, Error{io} if it cannot be read.
JobIdentity read_job_file(const std::string& path, const std::string& advice);

/// When a job began whose input was last changed then: no time stamp of a file system puts `created` out of the years 1970 to 9999.
int64_t created_of(int64_t modified_s);

class Job {
 public:
  /// Opens (or creates) and locks `output`, and reads which answers are in it. Changes nothing that is there. Throws Error{user} if
  /// another process writes it, it cannot be written, or it is the same file as `input`. If `stop` was set meanwhile, it is stopped() and of no use.
  /// `error_output`: where arrange() puts error records, which then count as done too; empty: they stay with the answers.
  Job(std::string output, const std::string& input, OutputCalls calls = {}, const std::atomic<bool>& stop = false, const std::string& error_output = "");
  /// An output that was created here and has got nothing is removed.
  ~Job();
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  bool stopped() const { return scan_.stopped; }

  /// Decides whether the job is new or continued. Throws Error{user} if the output holds answers of another job, or anything but this
  /// job's records and their torn end, unless `overwrite`. After it done() and identity() hold. Still changes nothing.
  void match(const JobIdentity& wanted, bool overwrite);
  bool continued() const { return continued_; }
  /// The job goes on, but its input is not the one that it was begun with: some of its lines may be.
  bool input_edited() const { return edited_; }
  /// Of these two, the one that it is: else only the error output is of another input than this one.
  bool input_changed() const { return edited_ && !errors_alone_; }
  /// To be called where records answer no line, or errors are of other lines than they say. If all records of the output answer one, as `is_line` says, it is the error output, which was left
  /// out while the input was edited, and is taken as if it had been there. False if that is not so.
  bool take_stale_errors(const std::function<bool(const RecordId&)>& is_line);
  /// Answers of another input: loses them if `overwrite`, as a new job does, else throws Error{user}.
  void refuse_other_input(bool overwrite);
  /// `wanted`, with model_name and created_s of the job's first start, and what its plan chose.
  const JobIdentity& identity() const { return identity_; }
  /// The options with what the plan chose. Between match() and start().
  void settle(const std::map<std::string, std::string>& options);
  std::optional<DoneLine> done(const RecordId& id) const;
  int64_t num_done() const { return done_.size(); }
  /// Of these, not errors.
  int64_t num_answers() const { return num_answers_; }
  /// Throws Error{user} for the record of `id`, which has not the custom_id of its line.
  [[noreturn]] void refuse_name(const RecordId& id, int64_t line) const;

  /// Where the input was edited: writes the output anew, whole or not at all, with the records that stay. Error records are dropped from both outputs. How many were moved to
  /// OUT.removed. Between match() and start(); a stop is not heard.
  int64_t rewrite(const std::function<RecordFate(const KeptRecord&)>& fate);
  /// Makes the files ready: an old output is emptied, a torn last line cut off, the manifest written.
  void start();
  /// Adds one record (with its '\n') in one write. If that fails nothing of it stays in the file: Error{io}. So it is if others have
  /// touched the file since: what they put there stays, and answers that would be lost with the descriptor are copied to a file that the error names.
  void append(std::string_view record);
  /// The same for a record that is read piece by piece, with as many writes.
  void append(RecordText& record);
  /// When all lines have their records: puts these in order of `line_of` (if `in_order`) and errors into the error output (if there is one), in flat memory; each file is
  /// replaced whole or stays as it is. False if `stop` was set before that was done.
  bool arrange(bool in_order, const std::function<int64_t(const RecordId&)>& line_of, const std::atomic<bool>& stop);
  /// Waits until everything is on the disk. Error{io} if any of it may not be, or others have touched the file.
  void sync();

 private:
  struct Done {
    RecordId id{}, name{};
    int64_t answer_tokens = -1;  ///< -1: an error record
    uint64_t content = 0;        ///< KeptRecord::content
    bool has_checksum = false, as_written = false;
    bool apart = false;      ///< it lies in the error output
    int64_t error_line = 0;  ///< KeptRecord::error_line
    friend bool operator<(const Done& a, const Done& b) { return a.id < b.id; }
  };
  void open_and_lock();
  void open_error_output(const std::string& path, const std::string& input);
  void read_records(const std::atomic<bool>& stop);
  void forget_records();
  void go_on_as_edited();
  void check_as_left() const;
  void use_output(RewrittenFile& file);
  void refuse_other_lines() const;
  void refuse_other_manifest() const;
  void refuse_contradictions(const JobIdentity& begun) const;
  [[noreturn]] void refuse_two_answers(const RecordId& id) const;
  void write_manifest(const std::string& path) const;
  int64_t write_record(RecordText& record);
  [[noreturn]] void fail_touched(const OutputState& state);
  int bring_to_disk();
  [[noreturn]] void fail_write(const char* what, int error) const;
  void sync_loop();

  std::string output_, manifest_;
  OutputCalls calls_;
  int descriptor_ = -1;
  bool created_ = false, matched_ = false, started_ = false, continued_ = false, edited_ = false;
  bool errors_alone_ = false;  ///< edited_, for the error output alone
  JobIdentity identity_;
  mutable RecordTable<Done> done_;  ///< beside the output where it does not fit into memory
  OutputScan scan_;                 ///< what lay there at the start
  /// A separate file for error records; none: its path is empty.
  struct ErrorOutput {
    std::string path;
    int descriptor = -1;  ///< -1: it is not there yet
    OutputScan scan;
    int64_t answer_at = 0;  ///< a line of it that has an answer; 0: none
    bool stale = false;     ///< it says something else of a line than the output, which was written later
  } errors_;
  int64_t num_answers_ = 0;
  int64_t repeated_ = 0;                 ///< records that say what another one says
  std::optional<RecordId> two_answers_;  ///< a line with two records that differ
  // What the first answer says of the job.
  std::optional<int64_t> first_created_;
  std::string first_model_;
  int64_t other_line_ = 0;  ///< the first answer that differs from the first one in them; 0: none
  int64_t size_ = 0;        ///< what this process has made of the output
  std::string touched_;     ///< what others did to it, once that was noticed

  std::vector<char> piece_;  ///< of the record that is being written

  std::mutex mutex_;
  std::condition_variable changed_;
  bool dirty_ = false, closing_ = false;
  std::mutex sync_mutex_;  ///< held during calls_.sync
  /// The first that was seen. The kernel tells an error once, and the next sync "succeeds" without the lost bytes.
  std::atomic<int> sync_error_{0};
  std::thread syncer_;
};

}  // namespace flexgen
