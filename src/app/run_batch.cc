#include "app/run_batch.h"

#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <unordered_map>

#include "app/batch_output.h"
#include "app/sha256.h"
#include "base/error.h"
#include "base/log.h"
#include "base/units.h"

namespace flexgen {
namespace {

/// Choices of one line fit in this many bits of a request's key; the rest is the line.
constexpr int kChoiceBits = 20;
/// Bad lines that are told on the terminal; the rest are counted.
constexpr int64_t kShownErrors = 5;
static_assert(kMaxPromptsPerLine * kMaxChoicesPerPrompt < int64_t{1} << kChoiceBits);

/// Between the input and the output: gives sequences out line by line, and writes a line's record once all of its
/// sequences are back.
class LineBroker : public RequestSource, public CompletionSink {
 public:
  LineBroker(const BatchInput& input, Job& job, const RecordContext& context) : input_(input), job_(job), context_(context) {
    for (const InputLine& line : input.lines())
      if (wanted(line)) remaining_ += line.num_sequences;
  }

  std::optional<Request> next() override {
    const auto& lines = input_.lines();
    if (!open_ || next_choice_ == lines[next_line_].num_sequences) {
      if (open_) ++next_line_;
      open_ = false;
      while (next_line_ < lines.size() && !wanted(lines[next_line_])) ++next_line_;
      if (next_line_ == lines.size()) return std::nullopt;
      open_ = true;
      next_choice_ = 0;
      UnderWay line;
      line.request = std::get<BatchRequest>(input_.read(lines[next_line_]));
      line.completions.resize(static_cast<size_t>(lines[next_line_].num_sequences));
      under_way_[next_line_] = std::move(line);
    }
    Request request = under_way_.at(next_line_).request.sequence(next_choice_);
    request.key = static_cast<int64_t>(next_line_) << kChoiceBits | next_choice_;
    ++next_choice_;
    --remaining_;
    return request;
  }

  int64_t remaining() const override { return remaining_; }

  void accept(Completion completion) override {
    auto line = static_cast<size_t>(completion.key >> kChoiceBits);
    auto choice = static_cast<size_t>(completion.key & ((int64_t{1} << kChoiceBits) - 1));
    auto found = under_way_.find(line);
    FLEXGEN_CHECK(found != under_way_.end() && choice < found->second.completions.size(), "key {}", completion.key);
    UnderWay& work = found->second;
    work.completions[choice] = std::move(completion);
    if (++work.num_back < static_cast<int64_t>(work.completions.size())) return;
    job_.append(answer_record(context_, input_.lines()[line].id, work.request, work.completions));
    under_way_.erase(found);
    ++answered_;
  }

  int64_t answered() const { return answered_; }

 private:
  struct UnderWay {
    BatchRequest request;
    std::vector<Completion> completions;  ///< a choice
    int64_t num_back = 0;
  };
  bool wanted(const InputLine& line) const { return line.good() && !job_.done(line.id); }

  const BatchInput& input_;
  Job& job_;
  RecordContext context_;
  size_t next_line_ = 0;
  int64_t next_choice_ = 0;
  bool open_ = false;  ///< next_line_ is being given out
  int64_t remaining_ = 0, answered_ = 0;
  std::unordered_map<size_t, UnderWay> under_way_;
};

/// Reads a small file; empty if there is none.
std::string read_if_there(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  if (file) text << file.rdbuf();
  return text.str();
}

}  // namespace

std::string model_fingerprint(const std::string& directory, const std::string& checkpoint, const std::vector<std::string>& weight_files) {
  constexpr int64_t kSamples = 64, kSampleBytes = 4096;
  Sha256 hash;
  auto add = [&](std::string_view piece) {
    hash.add(fmt::format("{}:", piece.size()));
    hash.add(piece);
  };
  add(checkpoint);
  for (const char* name : {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
                           "merges.txt", "special_tokens_map.json", "added_tokens.json"})
    add(read_if_there(std::filesystem::path(directory) / name));
  for (const std::string& path : weight_files) {
    std::shared_ptr<File> file = File::open(path, FileMode::kRead);
    int64_t size = file->size();
    for (int64_t i = 0; i < kSamples; ++i) {
      int64_t offset = std::max<int64_t>(0, size - kSampleBytes) / kSamples * i;
      std::string sample(static_cast<size_t>(std::min(kSampleBytes, size - offset)), '\0');
      file->read(offset, std::as_writable_bytes(std::span(sample)));
      add(sample);
    }
  }
  return Sha256::hex(hash.digest(), 16);
}

std::string model_name_of(const std::string& directory) {
  std::error_code error;
  std::filesystem::path path = std::filesystem::canonical(directory, error);
  if (error) path = directory;
  return path.filename().empty() ? std::string("model") : path.filename().string();
}

BatchOutcome run_batch(const BatchFiles& files, const BatchModel& model, BatchRunner& runner, const std::atomic<bool>& stop) {
  Job job(files.output, files.input, files.calls);
  BatchInput input = BatchInput::scan(files.input, model.limits, stop);
  BatchOutcome outcome;
  outcome.stopped = input.stopped();
  if (outcome.stopped) return outcome;

  job.match({input.fingerprint(), model.fingerprint, model.options, model.name, input.modified_s()}, files.overwrite);
  for (const InputLine& line : input.lines()) {
    ++outcome.lines;
    if (!line.good()) ++outcome.failed;
    if (job.done(line.id)) ++outcome.kept;
  }
  if (outcome.kept != job.num_done())
    fail_user("{} of the {} records in {} answer no line of {}; give another output, or remove those records",
              job.num_done() - outcome.kept, job.num_done(), files.output, files.input);

  Workload workload = workload_of(input, [&](const InputLine& line) { return !job.done(line.id); });
  if (job.continued())
    spdlog::info("{} of {} lines are answered already; going on with the rest", format_count(outcome.kept), format_count(outcome.lines));
  if (workload.num_sequences > 0) runner.prepare(workload);

  // From here on things change on the disk.
  job.start();
  int64_t shown = 0;
  for (const InputLine& line : input.lines()) {
    if (line.good() || job.done(line.id)) continue;
    const LineError error = std::get<LineError>(input.read(line));
    if (++shown <= kShownErrors) spdlog::warn("{} line {}: {}", files.input, line.number, error.message);
    job.append(error_record(line, error));
  }
  if (shown > kShownErrors) spdlog::warn("{} more lines are bad; their error records say why", format_count(shown - kShownErrors));
  if (workload.num_sequences > 0) {
    LineBroker broker(input, job, {job.identity().model_name, job.identity().created_s, model.limits.tokenizer});
    outcome.report = runner.run(broker, broker, stop);
    outcome.answered = broker.answered();
    outcome.stopped = outcome.report.stopped;
  }
  job.sync();
  return outcome;
}

}  // namespace flexgen
