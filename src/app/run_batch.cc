#include "app/run_batch.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <unordered_map>

#include "app/batch_output.h"
#include "app/line_queue.h"
#include "app/sha256.h"
#include "app/special_tokens.h"
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
  using Append = std::function<void(const std::string&)>;
  LineBroker(const BatchInput& input, std::unique_ptr<LineQueue> queue, Append append, const RecordContext& context)
      : input_(input), queue_(std::move(queue)), append_(std::move(append)), context_(context) {}

  std::optional<Request> next() override {
    const auto& lines = input_.lines();
    if (!open_ || next_choice_ == lines[next_line_].num_sequences) {
      const std::optional<size_t> drawn = queue_->next();
      open_ = drawn.has_value();
      if (!open_) return std::nullopt;
      next_line_ = *drawn;
      next_choice_ = 0;
      UnderWay line;
      line.request = std::get<BatchRequest>(input_.read(lines[next_line_]));
      line.completions.resize(static_cast<size_t>(lines[next_line_].num_sequences));
      under_way_[next_line_] = std::move(line);
    }
    Request request = under_way_.at(next_line_).request.sequence(next_choice_);
    request.key = static_cast<int64_t>(next_line_) << kChoiceBits | next_choice_;
    ++next_choice_;
    return request;
  }

  int64_t remaining() const override {
    return queue_->sequences_left() + (open_ ? input_.lines()[next_line_].num_sequences - next_choice_ : 0);
  }

  void accept(Completion completion) override {
    auto line = static_cast<size_t>(completion.key >> kChoiceBits);
    auto choice = static_cast<size_t>(completion.key & ((int64_t{1} << kChoiceBits) - 1));
    auto found = under_way_.find(line);
    FLEXGEN_CHECK(found != under_way_.end() && choice < found->second.completions.size(), "key {}", completion.key);
    UnderWay& work = found->second;
    work.completions[choice] = std::move(completion);
    if (++work.num_back < static_cast<int64_t>(work.completions.size())) return;
    const auto bad = std::find_if(work.completions.begin(), work.completions.end(), [](const Completion& one) { return one.reason == FinishReason::kNotFinite; });
    if (bad == work.completions.end()) append_(answer_record(context_, input_.lines()[line].id, work.request, work.completions));
    else append_(error_record(input_.lines()[line], not_finite_error(work.request, *bad, bad - work.completions.begin())));
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

  const BatchInput& input_;
  std::unique_ptr<LineQueue> queue_;
  Append append_;
  RecordContext context_;
  size_t next_line_ = 0;
  int64_t next_choice_ = 0;
  bool open_ = false;  ///< next_line_ is being given out
  int64_t answered_ = 0;
  std::unordered_map<size_t, UnderWay> under_way_;
};

/// The file's size and bytes, piece by piece; as if it were empty where there is none, or something that is no file.
void add_file(Sha256& hash, const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return hash.add("0:");
  const std::shared_ptr<File> file = File::open(path.string(), FileMode::kRead);
  const int64_t size = file->size();
  hash.add(fmt::format("{}:", size));
  std::string piece;
  for (int64_t at = 0; at < size; at += std::ssize(piece)) {
    piece.resize(static_cast<size_t>(std::min<int64_t>(256 * kKiB, size - at)));
    file->read(at, std::as_writable_bytes(std::span(piece)));
    hash.add(piece);
  }
}

/// Of a record that is_not_finite_record(): its line and why.
std::string not_finite_message(const std::string& record) {
  const auto error = nlohmann::json::parse(record).at("error");
  return fmt::format("line {}: {}", error.at("line").get<int64_t>(), error.at("message").get<std::string>());
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
    add_file(hash, std::filesystem::path(directory) / name);
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

namespace {

bool in_shard(const Shard& shard, size_t line) { return static_cast<int64_t>(line) % shard.count == shard.index; }

/// What one of several replicas expects to do of it all.
Workload share_of(Workload workload, size_t num_replicas) {
  const auto count = static_cast<double>(num_replicas);
  workload.num_sequences = ceil_div(workload.num_sequences, static_cast<int64_t>(num_replicas));
  workload.total_prompt_tokens /= count;
  workload.total_max_tokens /= count;
  workload.total_generated_tokens /= count;
  return workload;
}

Workload workload_of_lines(const BatchInput& input, const std::vector<size_t>& todo, const ExpectedAnswers& expected) {
  size_t at = 0, place = 0;
  return workload_of(input, [&](const InputLine& line) {
    place = static_cast<size_t>(&line - input.lines().data());
    while (at < todo.size() && todo[at] < place) ++at;
    return at < todo.size() && todo[at] == place;
  }, expected);
}

}  // namespace

BatchOutcome serve_batch(const BatchFiles& files, const BatchModel& model, BatchRunner& runner, const std::atomic<bool>& stop, const BatchReplicas& replicas,
                         std::function<void()> request_stop) {
  BatchInput input = BatchInput::scan(files.input, model.limits, std::atomic<bool>{false});
  const ReplicaJob job = hear_replica_job(*replicas.world);
  BatchOutcome outcome;
  if (job.todo.empty()) return outcome;
  if (job.input_fingerprint != input.fingerprint())
    fail_user("the input {} differs from that of rank 0; all replicas must read the same file (theirs has SHA-256 {}, this one {})", files.input, job.input_fingerprint,
              input.fingerprint());
  const size_t num_replicas = replicas.leads.size() + 1;
  std::map<std::string, std::string> options = model.options;
  runner.prepare(share_of(workload_of_lines(input, job.todo, {files.expected_tokens, job.answer_shares}), num_replicas), options);
  Event end = hear_the_end(*replicas.world, std::move(request_stop));
  RecordSender sender(*replicas.world);
  LineBroker broker(input, shared_lines(input, job.todo, *replicas.world, static_cast<int>(num_replicas)),
                    [&](const std::string& record) { sender.send(record); }, {job.model_name, job.created_s, model.limits.tokenizer});
  outcome.report = runner.run(broker, broker, stop);
  outcome.answered = broker.answered();
  outcome.stopped = outcome.report.stopped;
  sender.finish();
  end.wait();
  return outcome;
}

BatchOutcome run_batch(const BatchFiles& files, const BatchModel& model, BatchRunner& runner, const std::atomic<bool>& stop, const BatchReplicas& replicas) {
  Job job(files.output, files.input, files.calls);
  std::optional<BatchInput> read_now;
  if (!files.lines) read_now = BatchInput::scan(files.input, model.limits, stop);
  BatchInput& input = files.lines ? *files.lines : *read_now;
  BatchOutcome outcome;
  outcome.stopped = input.stopped();
  if (outcome.stopped) {
    if (!replicas.leads.empty()) tell_replicas(*replicas.world, replicas.leads, {});
    return outcome;
  }

  std::map<std::string, std::string> options = model.options;
  if (files.shard.count > 1) options["shard"] = fmt::format("{}/{}", files.shard.index, files.shard.count);
  job.match({input.fingerprint(), model.fingerprint, options, model.name, input.modified_s(), model.files}, files.overwrite);
  std::vector<size_t> todo;
  // What the kept answers took, as shares of their max_tokens: with one max_tokens for all lines that is their lengths, and where short and long ones
  // are asked for it takes neither for the other. Those that were under way when the job stopped, the longer ones, are not among them.
  ExpectedAnswers expected{files.expected_tokens, {}};
  for (size_t i = 0; i < input.lines().size(); ++i) {
    const InputLine& line = input.lines()[i];
    if (!in_shard(files.shard, i)) continue;
    ++outcome.lines;
    if (!line.good()) ++outcome.failed;
    if (!job.done(line.id)) {
      if (line.good()) todo.push_back(i);
      continue;
    }
    ++outcome.kept;
    const std::optional<int64_t> tokens = job.answer_tokens(line.id);
    if (line.good() && !tokens) ++outcome.not_finite;
    if (tokens && line.max_tokens > 0) expected.shares.push_back(static_cast<float>(*tokens) / static_cast<float>(line.max_tokens * line.num_sequences));
  }
  if (static_cast<int64_t>(expected.shares.size()) < Batcher::kEnoughAnswers || expected.tokens > 0) expected.shares.clear();
  if (outcome.kept != job.num_done())
    fail_user("{} of the {} records in {} answer no line of {}; give another output, or remove those records",
              job.num_done() - outcome.kept, job.num_done(), files.output, files.input);

  const size_t num_replicas = replicas.leads.size() + 1;
  const Workload workload = share_of(workload_of_lines(input, todo, expected), num_replicas);
  if (job.continued())
    spdlog::info("{} of {} lines are answered already; going on with the rest", format_count(outcome.kept), format_count(outcome.lines));
  if (!expected.shares.empty() && workload.num_sequences > 0)
    spdlog::info("planning with answers of {:.0f} tokens on average ({:.0f}% of their max_tokens), as the {} kept ones", workload.mean_generated(),
                 100 * workload.total_generated_tokens / std::max(1.0, workload.total_max_tokens), format_count(static_cast<int64_t>(expected.shares.size())));
  if (const int64_t doubled = input.doubled_bos_lines(); doubled > 0)
    warn_of_two_bos(*model.limits.tokenizer, fmt::format("{}: the prompt of {} {}", files.input, format_count(doubled), doubled == 1 ? "line" : "lines"),
                    "put \"add_special_tokens\": false into the line's body");
  if (num_replicas > 1)
    tell_replicas(*replicas.world, replicas.leads, {todo, job.identity().model_name, job.identity().created_s, input.fingerprint(), expected.shares});
  if (workload.num_sequences > 0) {
    std::map<std::string, std::string> settled = job.identity().options;
    runner.prepare(workload, settled);
    job.settle(settled);
  }

  // From here on things change on the disk.
  job.start();
  int64_t shown = 0;
  for (size_t i = 0; i < input.lines().size(); ++i) {
    const InputLine& line = input.lines()[i];
    if (line.good() || job.done(line.id) || !in_shard(files.shard, i)) continue;
    const LineError error = std::get<LineError>(input.read(line));
    if (++shown <= kShownErrors) spdlog::warn("{} line {}: {}", files.input, line.number, error.message);
    job.append(error_record(line, error));
  }
  if (shown > kShownErrors) spdlog::warn("{} more lines are bad; their error records say why", format_count(shown - kShownErrors));
  if (workload.num_sequences > 0) {
    std::mutex lock;
    int64_t not_finite = 0;
    auto append = [&](const std::string& record) {
      job.append(record);
      if (is_not_finite_record(record) && not_finite++ == 0) spdlog::warn("{}: {}", files.input, not_finite_message(record));
    };
    std::unique_ptr<RecordCollector> collector;
    if (num_replicas > 1) collector = std::make_unique<RecordCollector>(*replicas.world, replicas.leads, lock, append);
    std::unique_ptr<LineQueue> queue = num_replicas > 1 ? shared_lines(input, todo, *replicas.world, static_cast<int>(num_replicas)) : own_lines(input, todo);
    LineBroker broker(input, std::move(queue),
                      [&](const std::string& record) {
                        std::lock_guard guard(lock);
                        append(record);
                      }, {job.identity().model_name, job.identity().created_s, model.limits.tokenizer});
    try {
      outcome.report = runner.run(broker, broker, stop);
    } catch (const std::exception& error) {
      if (collector) replicas.world->abort(fmt::format("{}: {}", replicas.world->describe(0), error.what()));
      throw;
    }
    outcome.answered = broker.answered();
    outcome.stopped = outcome.report.stopped;
    if (collector) {
      end_replicas(*replicas.world, replicas.leads, outcome.stopped);
      collector->wait();
      outcome.answered += collector->collected();
      outcome.stopped = outcome.answered < static_cast<int64_t>(todo.size());
    }
    outcome.answered -= not_finite;
    outcome.not_finite += not_finite;
  }
  job.sync();
  return outcome;
}

}  // namespace flexgen
