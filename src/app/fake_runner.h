#pragma once
// For tests: a runner that answers without a model. One thread.

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "app/byte_tokenizer.h"
#include "app/run_batch.h"
#include "base/error.h"
#include "io/test_folder.h"

namespace flexgen {

/// The answer to a request is its prompt, reversed, with its seed's last digit. Ends with the stop flag's meaning after
/// `stop_after` sequences, or throws after `fail_after`.
class FakeRunner : public BatchRunner {
 public:
  int64_t stop_after = -1, fail_after = -1;
  bool backwards = false;  ///< completions come back last first
  std::function<bool(const Request&)> not_finite;  ///< whose logits are not finite; empty: nobody's
  std::function<void(const Request&, Completion&)> change;  ///< what is done to completions; empty: nothing
  std::function<void(int64_t)> before_next;  ///< is told how many it has served; may wait
  std::vector<Workload> prepared;
  std::vector<Request> served;

  std::string choice = "gpu";  ///< for options that are left to the plan
  std::map<std::string, std::string> options;

  void prepare(const Workload& workload, std::map<std::string, std::string>& job_options) override {
    prepared.push_back(workload);
    for (auto& [name, value] : job_options)
      if (value == kLeftToThePlan) value = choice;
    options = job_options;
  }

  RunReport run(RequestSource& source, CompletionSink& sink, const std::atomic<bool>& stop) override {
    RunReport report;
    std::vector<Completion> done;
    while (!stop && report.sequences != stop_after) {
      if (before_next) before_next(report.sequences);
      if (report.sequences == fail_after) throw Error(ErrorKind::kIo, "the disk is gone");
      std::optional<Request> request = source.next();
      if (!request) break;
      served.push_back(*request);
      ++report.sequences;
      Completion completion = answer(*request);
      if (change) change(*request, completion);
      if (not_finite && not_finite(*request)) {
        completion = Completion();
        completion.key = request->key;
        completion.reason = FinishReason::kNotFinite;
        completion.prompt_tokens = static_cast<int64_t>(request->prompt.size());
        completion.failed_position = 1;
        completion.not_finite_entry = 2;
      }
      if (backwards) done.push_back(std::move(completion));
      else sink.accept(std::move(completion));
    }
    for (auto it = done.rbegin(); it != done.rend(); ++it) sink.accept(std::move(*it));
    report.stopped = source.remaining() > 0;
    return report;
  }

  static Completion answer(const Request& request) {
    Completion completion;
    completion.key = request.key;
    completion.tokens.assign(request.prompt.rbegin(), request.prompt.rend());
    completion.tokens.push_back(static_cast<int32_t>('0' + request.params.seed % 10));
    completion.text = ByteTokenizer().decode(completion.tokens, true);
    completion.reason = FinishReason::kStop;
    return completion;
  }
};

/// In memory if there is such a place: some tests sync thousands of times.
class TemporaryDirectory {
 public:
  std::string file(const std::string& name) const { return folder_.file(name); }
  const std::string& path() const { return folder_.path().native(); }

 private:
  TestFolder folder_{access("/dev/shm", W_OK | X_OK) == 0 ? "/dev/shm" : std::filesystem::temp_directory_path()};
};

inline void write_text(const std::string& path, const std::string& text) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}
inline std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}
inline std::vector<std::string> sorted_lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  std::sort(lines.begin(), lines.end());
  return lines;
}

/// As sorted_lines, but for the second in which the job began: another job with the same answers may have begun in the next.
inline std::vector<std::string> sorted_answers(std::string text) {
  const std::string_view key = R"("created":)";
  for (size_t at = text.find(key); at != std::string::npos; at = text.find(key, at)) {
    at += key.size();
    text.erase(at, text.find_first_not_of("0123456789", at) - at);
  }
  return sorted_lines(text);
}

/// What the Error says that `action` throws; empty if it throws none.
template <typename Action>
std::string message_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace flexgen
