// Jobs on a disk that fails: whatever breaks, and whenever, run_batch() ends with an Error that names the file, nothing hangs or is
// left running, finished answers stay, and the same job on a whole disk completes to the output of one that ran through.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <random>
#include <thread>

#include "base/log.h"
#include "base/units.h"
#include "batch/fake_runner.h"
#include "io/faulty_file.h"

namespace flexgen::fault_test {
namespace {

using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;

const std::atomic<bool> kGoOn{false};

/// Ends the process if it lives too long: a hang shall be a failure with a name.
class Watchdog {
 public:
  explicit Watchdog(std::chrono::seconds limit)
      : thread_([this, limit] {
          std::unique_lock lock(mutex_);
          if (changed_.wait_for(lock, limit, [&] { return over_; })) return;
          std::fprintf(stderr, "%s hangs\n", testing::UnitTest::GetInstance()->current_test_info()->name());
          std::abort();
        }) {}
  ~Watchdog() {
    {
      std::lock_guard lock(mutex_);
      over_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  std::thread thread_;
};

class RealRunner : public BatchRunner {
 public:
  explicit RealRunner(const EngineOptions& options) : engine_(options) {}
  const Engine& engine() const { return engine_; }
  void prepare(const Workload& workload, std::map<std::string, std::string>&) override { engine_.prepare(workload); }
  RunReport run(RequestSource& source, CompletionSink& sink, const std::atomic<bool>& stop) override {
    std::atomic<bool> over{false};
    std::thread watcher([&] {  // as the progress display does
      while (!over) {
        engine_.progress();
        std::this_thread::sleep_for(std::chrono::microseconds(200));
      }
    });
    struct Join {
      std::atomic<bool>& over;
      std::thread& thread;
      ~Join() {
        over = true;
        thread.join();
      }
    } join{over, watcher};
    return engine_.run(source, sink, stop);
  }

 private:
  Engine engine_;
};

int64_t entries(const char* directory) { return std::distance(std::filesystem::directory_iterator(directory), std::filesystem::directory_iterator()); }

class JobFault : public testing::Test {
 protected:
  JobFault() {
    spdlog::set_level(spdlog::level::err);
    const std::string fixtures = std::string(FLEXGEN_SOURCE_DIR) + "/tests/fixtures/";
    std::filesystem::copy(fixtures + "models/llama", model_directory_);
    std::filesystem::copy(fixtures + "tokenizers/gpt2-like/tokenizer.json", model_directory_);
    std::filesystem::create_directory(spill_);
    std::mt19937 random(3);
    std::string text = "no json\n";
    for (size_t i = 0; i < kGoodLines; ++i) {
      std::string prompt;
      for (uint64_t token = 1 + random() % 30; token > 0; --token) prompt += fmt::format("{}{}", prompt.empty() ? "" : ",", 3 + random() % 400);
      text += fmt::format(R"({{"custom_id":"{}","method":"POST","url":"/v1/completions","body":{{"prompt":[{}],"max_tokens":{},)"
                          R"("temperature":{},"seed":{}}}}})"
                          "\n",
                          i, prompt, 1 + random() % 20, i % 2, i);
    }
    write_text(in_, text);
    run();
    expected_ = sorted_lines(read_text(out_));
    EXPECT_EQ(expected_.size(), kGoodLines + 1);
    start_anew();
  }

  /// The job with everything on disk and the faults of plan_.
  void run() {
    FaultyFileSystem files(plan_);
    EngineOptions options;
    options.model_directory = model_directory_;
    options.threads = 1;
    options.budgets = {64 * kMiB, 64 * kMiB};
    options.disk_directory = spill_;
    options.policy.weights = options.policy.kv_cache = options.policy.activations = Fractions{0, 0, 1};
    options.policy.micro_batch_size = 3;
    options.policy.num_micro_batches = 2;
    options.policy.buffers = 2;
    options.files = &files;
    RealRunner runner(options);
    const ModelConfig& config = runner.engine().model().config();
    BatchModel model{{config.vocab_size, config.max_positions, runner.engine().tokenizer()}, "llama", "f00d", {}};
    run_batch({in_, out_, false, calls_}, model, runner, kGoOn);
  }

  /// Runs the job, which must fail; returns the message. Threads and descriptors must be as before, the output fit to go on from.
  std::string error_of_run() {
    const int64_t threads = entries("/proc/self/task"), descriptors = entries("/proc/self/fd");
    std::string message;
    try {
      run();
      ADD_FAILURE() << "nothing was thrown";
    } catch (const Error& error) {
      message = error.what();
    }
    for (int i = 0; i < 500 && entries("/proc/self/task") > threads; ++i)  // the kernel lists a joined thread for a moment
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    EXPECT_EQ(entries("/proc/self/task"), threads);
    EXPECT_EQ(entries("/proc/self/fd"), descriptors);
    EXPECT_EQ(entries(spill_.c_str()), 0);
    const std::string left = read_text(out_);
    EXPECT_TRUE(left.empty() || left.back() == '\n');
    auto lines = sorted_lines(left);
    EXPECT_TRUE(std::includes(expected_.begin(), expected_.end(), lines.begin(), lines.end()));
    num_left_ = lines.size();
    return message;
  }

  /// The same command on a disk without faults.
  void expect_rerun_completes() {
    heal();
    run();
    EXPECT_EQ(sorted_lines(read_text(out_)), expected_);
  }

  void heal() {
    plan_->clear();
    calls_ = {};
  }
  void start_anew() {
    heal();
    std::filesystem::remove(out_);
    std::filesystem::remove(out_ + ".job");
  }

  /// Calls `action` as soon as half of the answers are in the output.
  void when_half_way(std::function<void()> action) {
    calls_.write = [action = std::move(action), left = kGoodLines / 2](int descriptor, const void* data, size_t bytes) mutable {
      if (is_record(data, bytes) && --left == 0) action();
      return ::write(descriptor, data, bytes);
    };
  }
  void expect_half_way() const {
    EXPECT_GE(num_left_, kGoodLines / 2);
    EXPECT_LT(num_left_, kGoodLines);
  }
  static bool is_record(const void* data, size_t bytes) { return std::string_view(static_cast<const char*>(data), bytes).starts_with(R"({"id")"); }

  static constexpr size_t kGoodLines = 60;
  Watchdog watchdog_{std::chrono::seconds(300)};
  TestFolder disk_;  // on a real disk, if there is one, for direct I/O
  TemporaryDirectory directory_;
  std::string spill_ = disk_.file("spill"), model_directory_ = disk_.file("model"), weights_ = model_directory_ + "/model.safetensors";
  std::string in_ = directory_.file("in.jsonl"), out_ = directory_.file("out.jsonl");
  std::shared_ptr<FaultPlan> plan_ = std::make_shared<FaultPlan>();
  OutputCalls calls_;
  std::vector<std::string> expected_;
  size_t num_left_ = 0;
};

TEST_F(JobFault, WeightReadFailsHalfWay) {
  when_half_way([&] { plan_->add({.operation = FileOperation::kRead, .path_part = weights_, .times = 1}); });
  EXPECT_THAT(error_of_run(), AllOf(HasSubstr(weights_), HasSubstr("cannot read"), HasSubstr("Input/output error"), HasSubstr("another disk")));
  expect_half_way();
  expect_rerun_completes();
}

TEST_F(JobFault, WeightsThatCannotBeReadAtAll) {
  plan_->add({.operation = FileOperation::kRead, .path_part = weights_});
  EXPECT_THAT(error_of_run(), AllOf(HasSubstr(weights_), HasSubstr("Input/output error")));
  EXPECT_EQ(num_left_, 1u);  // the bad line's record
  expect_rerun_completes();
}

TEST_F(JobFault, WeightsTruncatedHalfWay) {
  const std::string whole = read_text(weights_);
  when_half_way([&] { std::filesystem::resize_file(weights_, whole.size() / 4); });
  EXPECT_THAT(error_of_run(), AllOf(HasSubstr(weights_), AnyOf(HasSubstr("truncated or was changed during the run"), HasSubstr("another size"))));
  expect_half_way();
  write_text(weights_, whole);
  expect_rerun_completes();
}

// No answer that may have seen new bytes is kept, even if whoever wrote them sets the time of writing back.
TEST_F(JobFault, WeightsWrittenToHalfWay) {
  const std::string whole = read_text(weights_);
  for (bool time_set_back : {false, true}) {
    SCOPED_TRACE(time_set_back);
    when_half_way([&] {
      const auto written = std::filesystem::last_write_time(weights_);
      std::this_thread::sleep_for(std::chrono::milliseconds(20));  // the kernel's clock of files goes in ticks
      std::fstream file(weights_, std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(static_cast<std::streamoff>(whole.size() / 3));
      file << std::string(whole.size() / 3, 'x');
      file.close();
      if (time_set_back) std::filesystem::last_write_time(weights_, written);
    });
    EXPECT_THAT(error_of_run(), AllOf(HasSubstr(weights_), HasSubstr("was written to while it was in use"), HasSubstr("are kept")));
    EXPECT_EQ(num_left_, kGoodLines / 2);  // the record that was on its way is the last
    write_text(weights_, whole);
    expect_rerun_completes();
    start_anew();
  }
}

TEST_F(JobFault, WeightsReplacedOrRemovedHalfWay) {
  const std::string whole = read_text(weights_);
  for (bool replaced : {false, true}) {
    when_half_way([&] {
      std::filesystem::rename(weights_, weights_ + ".old");
      if (replaced) write_text(weights_, std::string(whole.size(), 'x'));
    });
    EXPECT_THAT(error_of_run(), AllOf(HasSubstr(weights_), HasSubstr(replaced ? "replaced by another file" : "removed"), HasSubstr("are kept")));
    EXPECT_EQ(num_left_, kGoodLines + 1);
    std::filesystem::rename(weights_ + ".old", weights_);
    start_anew();
  }
}

TEST_F(JobFault, PermissionsAndNamesOfWeightsMayChange) {
  when_half_way([&] {
    std::filesystem::permissions(weights_, std::filesystem::perms::owner_read);
    std::filesystem::create_hard_link(weights_, weights_ + ".copy");
  });
  run();
  EXPECT_EQ(sorted_lines(read_text(out_)), expected_);
}

TEST_F(JobFault, ShortTransfersAreFinished) {
  for (FileOperation operation : {FileOperation::kRead, FileOperation::kWrite}) plan_->add({.operation = operation, .error = 0, .keep_bytes = 5000});
  run();
  EXPECT_GT(plan_->injected(), 100);
  EXPECT_EQ(sorted_lines(read_text(out_)), expected_);
}

TEST_F(JobFault, ReadsThatGiveNothingAreNotRepeatedForEver) {
  when_half_way([&] { plan_->add({.operation = FileOperation::kRead, .error = 0, .keep_bytes = 0, .path_part = weights_}); });
  EXPECT_THAT(error_of_run(), AllOf(HasSubstr(weights_), HasSubstr("cannot read")));
  expect_half_way();
  expect_rerun_completes();
}

TEST_F(JobFault, NoRoomForTheSpillIsFoundBeforeTheStart) {
  for (const char* file : {"flexgen-cache", "flexgen-activations"}) {
    plan_->add({.operation = FileOperation::kPreallocate, .error = ENOSPC, .path_part = file});
    EXPECT_THAT(error_of_run(), AllOf(HasSubstr(file), HasSubstr("cannot reserve"), HasSubstr("No space left"), HasSubstr("--disk-dir")));
    EXPECT_FALSE(std::filesystem::exists(out_));
    EXPECT_FALSE(std::filesystem::exists(out_ + ".job"));
    heal();
  }
  expect_rerun_completes();
}

TEST_F(JobFault, SpillWriteFailsHalfWay) {
  for (const char* file : {"flexgen-cache", "flexgen-activations"})
    for (int error : {EIO, ENOSPC}) {
      when_half_way([&] { plan_->add({.operation = FileOperation::kWrite, .error = error, .path_part = file, .times = 1}); });
      EXPECT_THAT(error_of_run(), AllOf(HasSubstr(file), HasSubstr("cannot write"), HasSubstr(std::strerror(error)), HasSubstr("--disk-dir")));
      expect_half_way();
      expect_rerun_completes();
      start_anew();
    }
}

TEST_F(JobFault, SpillReadFailsHalfWay) {
  for (const char* file : {"flexgen-cache", "flexgen-activations"}) {
    when_half_way([&] { plan_->add({.operation = FileOperation::kRead, .path_part = file, .times = 1}); });
    EXPECT_THAT(error_of_run(), AllOf(HasSubstr(file), HasSubstr("cannot read"), HasSubstr("--disk-dir")));
    expect_half_way();
    expect_rerun_completes();
    start_anew();
  }
}

TEST_F(JobFault, AnswerCannotBeWritten) {
  for (int error : {ENOSPC, EIO})
    for (size_t torn : {0, 1, 50}) {  // bytes of the record that reach the file before the error
      calls_.write = [=, left = kGoodLines / 2, failing = false](int descriptor, const void* data, size_t bytes) mutable -> ssize_t {
        if (failing) {
          errno = error;
          return -1;
        }
        failing = is_record(data, bytes) && --left == 0;
        if (!failing) return ::write(descriptor, data, bytes);
        if (torn > 0) return ::write(descriptor, data, torn);
        errno = error;
        return -1;
      };
      EXPECT_THAT(error_of_run(), AllOf(HasSubstr(out_), HasSubstr(std::strerror(error)), HasSubstr("finished answers are kept"),
                                        HasSubstr(error == ENOSPC ? "make room" : "dmesg"), HasSubstr("run the same command again")));
      EXPECT_EQ(num_left_, kGoodLines / 2 - 1);
      expect_rerun_completes();
      start_anew();
    }
}

TEST_F(JobFault, ManifestCannotBeWritten) {
  calls_.write = [](int, const void*, size_t) -> ssize_t {
    errno = ENOSPC;
    return -1;
  };
  EXPECT_THAT(error_of_run(), AllOf(HasSubstr(out_ + ".job"), HasSubstr("No space left"), HasSubstr("nothing was started")));
  EXPECT_FALSE(std::filesystem::exists(out_ + ".job"));
  expect_rerun_completes();
}

// The kernel tells of a lost write once, to whoever syncs next. If that is the thread in the background, after the last record,
// the job must not end well for it.
TEST_F(JobFault, LostAnswersAreNotCalledDone) {
  std::atomic<bool> told{false};
  calls_.sync = [&](int) {
    errno = EIO;
    return told.exchange(true) ? 0 : -1;
  };
  Job job(out_, in_, calls_);
  job.match({}, false);
  job.start();
  job.append("{}\n");
  while (!told) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_THAT(error_of(ErrorKind::kIo, [&] { job.sync(); }), AllOf(HasSubstr(out_), HasSubstr("Input/output error"), HasSubstr("dmesg")));
}

TEST_F(JobFault, AnyFaultAnywhere) {
  const int64_t before = plan_->operations();
  run();
  const int64_t in_all = plan_->operations() - before;
  std::mt19937 random(11);
  int faulty_rounds = 0;
  for (int round = 0; round < 30; ++round) {
    start_anew();
    const int64_t injected = plan_->injected();
    // A job goes through several failing starts.
    for (int start = 0; start < 3; ++start) {
      Fault fault;
      fault.operation = random() % 3 == 0 ? FileOperation::kWrite : FileOperation::kRead;
      fault.error = random() % 2 ? EIO : ENOSPC;
      fault.skip = static_cast<int64_t>(random() % static_cast<uint64_t>(in_all / (fault.operation == FileOperation::kWrite ? 4 : 2)));
      if (random() % 2) fault.times = 1;
      plan_->clear();
      plan_->add(fault);
      const int64_t count = plan_->injected();
      try {
        run();
        EXPECT_EQ(plan_->injected(), count) << "round " << round << ": a failed transfer went unnoticed";
        break;
      } catch (const Error& error) {
        EXPECT_THAT(error.what(), testing::AnyOf(HasSubstr(spill_), HasSubstr(weights_)));
        EXPECT_GT(plan_->injected(), count);
      }
      auto lines = sorted_lines(read_text(out_));
      ASSERT_TRUE(std::includes(expected_.begin(), expected_.end(), lines.begin(), lines.end())) << "round " << round;
    }
    faulty_rounds += plan_->injected() > injected;
    expect_rerun_completes();
  }
  EXPECT_GE(faulty_rounds, 15);
}

}  // namespace
}  // namespace flexgen::fault_test
