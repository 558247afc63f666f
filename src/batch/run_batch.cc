#include "batch/run_batch.h"

#include <algorithm>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>

#include "base/error.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/units.h"
#include "batch/batch_output.h"
#include "batch/best_choices.h"
#include "batch/choice_store.h"
#include "batch/kept_record.h"
#include "batch/line_index.h"
#include "batch/line_queue.h"
#include "batch/shard_lines.h"
#include "batch/special_tokens.h"
#include "io/checked_json.h"
#include "io/whole_file.h"
#include "schedule/prefix_ends.h"

namespace flexgen {
namespace {

/// Choices of one line fit in this many bits of a request's key; the rest is the line.
constexpr int kChoiceBits = 20;
/// Bad lines that are told on the terminal; the rest are counted.
constexpr int64_t kShownErrors = 5;
static_assert(kMaxPromptsPerLine * kMaxChoicesPerPrompt < int64_t{1} << kChoiceBits);

/// Between the input and the output: gives sequences out line by line, and writes a line's record once all of its
/// sequences are back. Of lines under way it keeps neither prompts nor answers in memory, but for prompts to show, or their last tokens, of sequences under way.
class LineBroker : public RequestSource, public CompletionSink {
 public:
  using Append = std::function<void(RecordText&)>;
  /// `directory`: where finished choices wait for the others of their line. `queue` gives lines of `lines`. Once `stop` is set, lines that get another one's choices are left for the next run.
  LineBroker(const BatchInput& input, const LineOrder& lines, std::unique_ptr<LineQueue> queue, const std::atomic<bool>& stop, Append append,
             const RecordContext& context, const std::string& directory, int64_t page_tokens, int64_t done_before = 0)
      : input_(input), lines_(lines), done_before_(done_before), queue_(std::move(queue)), stop_(stop), append_(std::move(append)), context_(context),
        choices_(directory), page_tokens_(page_tokens), later_ends_(lines.size(), [&order = lines](int64_t place) { return order[place].shared_tokens; }) {}

  std::optional<Request> next() override {
    if (!open_ || next_choice_ == next_sequences_) {
      const std::optional<LineToDo> drawn = queue_->next();
      open_ = drawn.has_value();
      if (!open_) return std::nullopt;
      begin(*drawn);
    }
    Request request = open_request_.sequence(next_choice_);
    request.key = next_line_ << kChoiceBits | next_choice_;
    const int64_t prompt = next_choice_ / open_request_.best_of;
    const bool is_first_choice = next_choice_ % open_request_.best_of == 0;
    if (is_first_choice) next_ends_ = ends_of(prompt);
    request.shared_tokens = shared_tokens_[static_cast<size_t>(prompt)];
    request.shared_ends = next_ends_;
    if (open_request_.shows_prompt() || open_request_.has_text_offsets()) {
      if (is_first_choice) next_prompt_ = std::make_shared<BatchPrompt>(kept_of(open_request_.prompts[static_cast<size_t>(prompt)]));
      shown_[request.key] = next_prompt_;
    }
    next_choice_ += next_copies_;
    return request;
  }

  int64_t remaining() const override { return queue_->sequences_left() + (open_ ? (next_sequences_ - next_choice_) / next_copies_ : 0); }

  int64_t done_before() const override { return done_before_; }

  void accept(Completion completion) override {
    const int64_t index = completion.key >> kChoiceBits, choice = completion.key & ((int64_t{1} << kChoiceBits) - 1);
    auto found = under_way_.find(index);
    FLEXGEN_CHECK(found != under_way_.end() && choice < found->second.line.num_sequences, "key {}", completion.key);
    UnderWay& work = found->second;
    if (completion.reason == FinishReason::kLength && work.request.params.grammar) work.num_cut_off += work.copies;
    if (has_no_answer(completion.reason)) {
      if (!work.failure || choice < work.failed_choice) {  // the first choice's, whichever comes first
        work.failure = no_answer_error(work.request, completion, choice);
        work.failed_choice = choice;
      }
      shown_.erase(completion.key);
    } else {
      const auto shown = shown_.extract(completion.key);
      const BatchPrompt prompt = shown.empty() ? BatchPrompt{} : *shown.mapped();
      for (int64_t copy = choice; copy < choice + work.copies; ++copy) {
        const WritePiece write = [&](std::string_view piece) { choices_.add(index, copy, piece); };
        if (work.request.chooses()) {
          write_unnumbered_choice(context_, work.request, prompt, completion, write);
          work.means.resize(static_cast<size_t>(work.line.num_sequences));
          work.means[static_cast<size_t>(copy)] = mean_logprob(completion);
        } else {
          write_choice(context_, work.request, prompt, completion, copy, write);
        }
      }
    }
    work.completion_tokens += work.copies * static_cast<int64_t>(completion.tokens.size());
    work.num_back += work.copies;
    if (work.num_back < work.line.num_sequences) return;
    write_record(index, work, work.line, work.to_do.usage_tokens);
    for (int64_t i = 0; i < work.to_do.num_same && !stop_; ++i) {
      const SameLineToDo same = lines_.same(work.to_do.first_same + i);
      const InputLine line = input_.line_anywhere(same.line);
      work.request.custom_id = input_.read_custom_id(line);
      write_record(index, work, line, same.usage_tokens);
    }
    choices_.close(index);
    under_way_.erase(found);
  }

  int64_t answered() const { return answered_; }
  /// RunReport::cut_off.
  int64_t cut_off() const { return cut_off_; }

 private:
  struct UnderWay {
    InputLine line;
    LineToDo to_do;
    BatchRequest request;  ///< without its prompts
    int64_t copies = 1;    ///< choices of each sequence
    int64_t num_back = 0, completion_tokens = 0;
    int64_t num_cut_off = 0;           ///< choices that max_tokens ended before their grammar did
    int64_t shared_tokens = 0;         ///< of its prompts, what each has in common with the one before it
    std::optional<LineError> failure;  ///< of the first choice that has no answer
    int64_t failed_choice = 0;
    std::vector<float> means;  ///< mean logprobs of its sequences, where the best are chosen by them
  };

  /// What a record needs of a prompt of the open line: all of it, or its end alone.
  BatchPrompt kept_of(const BatchPrompt& prompt) const {
    if (open_request_.shows_prompt()) return prompt;
    if (!context_.tokenizer) return {};
    const std::span<const int32_t> end = end_of_prompt(*context_.tokenizer, prompt.tokens, open_request_.params.skip_special_tokens);
    return {"", {end.begin(), end.end()}, 0};
  }

  /// The record of `line` with the choices of line `index`, all of which are there. Of what it has in common with others the usage tells by the order of the whole input, so that it depends
  /// on neither the plan nor stops.
  void write_record(int64_t index, const UnderWay& work, const InputLine& line, int64_t usage_tokens) {
    if (work.failure) {
      LineError error = *work.failure;
      error.custom_id = work.request.custom_id;
      WholeRecord record(error_record(line, error));
      append_(record);
    } else {
      const int64_t cached_tokens = shares(work.request) ? whole_pages(usage_tokens) + work.shared_tokens : 0;
      AnswerFrame frame = answer_frame(context_, line.id, work.request, {line.prompt_tokens / work.request.best_of, cached_tokens, work.completion_tokens});
      const std::unique_ptr<RecordText> record =
          choices_.record(index, std::move(frame.before), std::move(frame.after), best_choices(work.request, work.means));
      SealedRecord sealed(*record);
      append_(sealed);
    }
    ++answered_;
    if (!work.failure) cut_off_ += work.num_cut_off;
  }

  void begin(const LineToDo& drawn) {
    const int64_t index = drawn.line;
    next_line_ = index;
    next_choice_ = 0;
    UnderWay line;
    line.to_do = drawn;
    line.line = input_.line_anywhere(index);
    line.copies = next_copies_ = lines_.shares() ? line.line.copies : 1;
    open_request_ = std::get<BatchRequest>(input_.read(line.line));
    next_sequences_ = line.line.num_sequences;
    std::vector<BatchPrompt> prompts = std::move(open_request_.prompts);
    line.request = open_request_;
    open_request_.prompts = std::move(prompts);
    line.shared_tokens = find_shared(drawn);
    choices_.open(index, next_sequences_);
    under_way_[index] = std::move(line);
  }

  bool shares(const BatchRequest& request) const { return lines_.shares() && !request.params.scores_prompt(); }
  int64_t whole_pages(int64_t tokens) const { return tokens / page_tokens_ * page_tokens_; }

  /// What sequences of each of the open request's prompts share with others. Returns what its prompts have in common with those before them.
  int64_t find_shared(const LineToDo& drawn) {
    const std::vector<BatchPrompt>& prompts = open_request_.prompts;
    shared_tokens_.assign(prompts.size(), 0);
    inside_ends_.clear();
    line_ends_.clear();
    if (!shares(open_request_)) return 0;
    line_ends_ = later_ends_.of(drawn.place, drawn.prefix_tokens);
    int64_t in_common = 0;
    shared_tokens_.front() = drawn.prefix_tokens;
    for (size_t i = 0; i < prompts.size(); ++i) {
      if (open_request_.best_of > next_copies_) shared_tokens_[i] = std::ssize(prompts[i].tokens);
      if (i == 0) continue;
      const int64_t shared = shared_tokens_of(prompts[i - 1].tokens, prompts[i].tokens);
      in_common += whole_pages(shared);
      inside_ends_.push_back(shared);
      for (int64_t* of : {&shared_tokens_[i - 1], &shared_tokens_[i]}) *of = std::max(*of, shared);
    }
    std::sort(inside_ends_.begin(), inside_ends_.end());
    inside_ends_.erase(std::unique(inside_ends_.begin(), inside_ends_.end()), inside_ends_.end());
    return in_common;
  }

  /// Request::shared_ends of sequences of one of the open request's prompts. The first one's stand for the line's; the others go on from each other.
  std::vector<int64_t> ends_of(int64_t prompt) const {
    const int64_t own = shared_tokens_[static_cast<size_t>(prompt)];
    std::vector<int64_t> ends = inside_ends_;
    if (prompt == 0) ends.insert(ends.end(), line_ends_.begin(), line_ends_.end());
    ends.push_back(own);
    std::erase_if(ends, [own](int64_t end) { return end == 0 || end > own; });
    std::sort(ends.begin(), ends.end());
    ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
    return ends;
  }

  const BatchInput& input_;
  const LineOrder& lines_;
  int64_t done_before_;  ///< sequences that earlier runs answered
  std::unique_ptr<LineQueue> queue_;
  const std::atomic<bool>& stop_;
  Append append_;
  RecordContext context_;
  ChoiceStore choices_;
  int64_t next_line_ = 0, next_choice_ = 0, next_sequences_ = 0, next_copies_ = 1;
  int64_t page_tokens_;
  std::vector<int64_t> shared_tokens_;  ///< of the open line, a prompt: Request::shared_tokens
  LaterEnds<std::function<int64_t(int64_t)>> later_ends_;
  std::vector<int64_t> line_ends_, inside_ends_;  ///< of the open line: where later lines leave its first prompt, and its prompts one another
  std::vector<int64_t> next_ends_;                ///< of the prompt under way: Request::shared_ends of its choices
  bool open_ = false;                             ///< next_line_ is being given out
  BatchRequest open_request_;
  std::shared_ptr<const BatchPrompt> next_prompt_;
  int64_t answered_ = 0, cut_off_ = 0;
  std::unordered_map<int64_t, UnderWay> under_way_;
  std::unordered_map<int64_t, std::shared_ptr<const BatchPrompt>> shown_;  ///< of the sequences under way, by their keys
};

/// The message of a record that is_no_answer_record(); nothing for others.
std::optional<std::string> no_answer_message(RecordText& record) {
  std::string start(size_t{8} << 10, '\0');  // an error record is shorter than this, but for its custom_id
  size_t size = 0;
  for (size_t more = 1; more > 0; size += more) more = record.read(start.data() + size, start.size() - size);
  start.resize(size);
  record.rewind();
  if (!is_no_answer_record(start)) return std::nullopt;
  const auto json = json_or_none(start);
  if (json.is_discarded()) return "a line has no answer";
  return fmt::format("line {}: {}", json["error"]["line"].get<int64_t>(), json["error"]["message"].get<std::string>());
}

}  // namespace

std::string model_fingerprint(const std::string& directory, const std::string& checkpoint, const std::vector<std::string>& weight_files) {
  constexpr int64_t kSamples = 64, kSampleBytes = 4096, kMostBytes = int64_t{1} << 28;
  Sha256 hash;
  auto add = [&](std::string_view piece) {
    hash.add(fmt::format("{}:", piece.size()));
    hash.add(piece);
  };
  add(checkpoint);
  const auto add_file = [&](const char* name, bool if_there) {
    std::string text;
    try {
      text = read_file_if_there((std::filesystem::path(directory) / name).string(), kMostBytes);
    } catch (const Error&) {  // one that a model needs was read before this
    }
    if (!if_there || !text.empty()) add(text);
    return !text.empty();
  };
  bool whole_tokenizer = false;
  for (const char* name : {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
                           "special_tokens_map.json", "added_tokens.json"})
    if (add_file(name, false) && name == std::string_view("tokenizer.json")) whole_tokenizer = true;
  // These are read where there is no tokenizer.json.
  for (const char* name : {"tokenizer.model", "tekken.json"})
    if (!whole_tokenizer) add_file(name, true);
  // The chat templates that are used, wherever they are (a GGUF's is in its head, tokenizer_config.json is above), and what config.json may lack.
  for (const char* name : {"chat_template.jinja", "additional_chat_templates/default.jinja", "additional_chat_templates/tool_use.jinja", "chat_template.json",
                           "hf_quant_config.json"})
    add_file(name, true);
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

/// What one of several replicas expects to do of it all.
Workload share_of(Workload workload, size_t num_replicas) {
  const auto count = static_cast<double>(num_replicas);
  workload.num_sequences = ceil_div(workload.num_sequences, static_cast<int64_t>(num_replicas));
  workload.total_prompt_tokens /= count;
  // Lines that share may go to any of them, so each computes all prefixes.
  const double prefixes = workload.new_prefix_tokens();
  workload.total_prefix_tokens /= count;
  workload.total_shared_tokens = std::max(0.0, workload.total_prefix_tokens - prefixes);
  workload.total_max_tokens /= count;
  workload.total_generated_tokens /= count;
  return workload;
}

/// The record that the output has of a line, if the line keeps it. Throws Error{user} for one that was changed.
std::optional<DoneLine> kept_record(const Job& job, const BatchInput& input, const InputLine& line) {
  const std::optional<DoneLine> done = job.done(line.id);
  if (!done) return std::nullopt;
  if (job.input_edited()) {
    // Errors tell line numbers, and of other lines: they are written again.
    if (!line.good() || !done->answer_tokens) return std::nullopt;
    if (done->name == line.name) return done;
    // A line that is named by its number has moved: its record gets the new name.
    if (line.name == hash_of_name(line_name(line.number))) return done->as_written ? done : std::nullopt;
  } else if (line.good() ? done->name == line.name : done->has_checksum || done->name == hash_of_name(std::get<LineError>(input.read(line)).custom_id)) {
    return done;
  }
  job.refuse_name(line.id, line.number);
}

/// What becomes of a record of a job whose input was edited.
RecordFate fate_of(const KeptRecord& record, const Job& job, const BatchInput& input, LineIndex& index, const LineSet& in_shard) {
  const bool answer = record.answer_tokens >= 0;
  const std::optional<int64_t> found = index.find(record.id);
  if (!found) return {answer ? RecordFate::kRemoved : RecordFate::kForgotten};
  const InputLine line = input.line(*found);
  if (!answer) return {RecordFate::kDropped};
  if (!in_shard.contains(*found) || !line.good()) return {RecordFate::kRemoved};
  if (!kept_record(job, input, line)) return {RecordFate::kDropped};
  return {RecordFate::kStays, record.name == line.name ? "" : line_name(line.number)};
}

/// What is told before the start: what is kept, what is computed once, and what of the input may not be what was meant.
void say_what_is_left(const BatchFiles& files, const BatchModel& model, const Job& job, const BatchInput& input, const LineOrder& lines,
                      const ExpectedAnswers& expected, const Workload& workload, const BatchOutcome& outcome) {
  if (job.input_changed()) spdlog::info("{} was changed since the job began: lines that are as they were keep their answers", files.input);
  if (lines.num_same() > 0)
    spdlog::info("{} lines ask for the same as others, and nothing is drawn: they get the same answers, which are computed once",
                 format_count(lines.num_same()));
  if (job.continued()) spdlog::info("{} of {} lines are answered already; going on with the rest", format_count(outcome.kept), format_count(outcome.lines));
  if (outcome.without_answer > 0)
    spdlog::warn("{}: {} {} without an answer since an earlier start, as the error records in {} say; to try them again, remove those", files.input,
                 format_count(outcome.without_answer), outcome.without_answer == 1 ? "line is" : "lines are", files.output);
  if (!expected.shares.empty() && workload.num_sequences > 0)
    spdlog::info("planning with answers of {:.0f} tokens on average ({:.0f}% of their max_tokens), as the {} kept ones", workload.mean_generated(),
                 100 * workload.total_generated_tokens / std::max(1.0, workload.total_max_tokens), format_count(expected.num_known));
  if (const int64_t doubled = input.doubled_bos_lines(); doubled > 0)
    warn_of_two_prefixes(*model.limits.tokenizer, fmt::format("{}: the prompt of {} {}", files.input, format_count(doubled), doubled == 1 ? "line" : "lines"),
                         "put \"add_special_tokens\": false into the line's body");
  if (const int64_t open = input.open_ended_lines(); open > 0)
    spdlog::warn(
        "{}: {} of {} lines give no max_completion_tokens, so each answer may take all of the model's {} positions that its prompt leaves, and memory is set aside for that; "
        "give one to have more sequences in flight",
        files.input, format_count(open), format_count(input.num_lines()), format_count(model.limits.max_positions));
  if (const int64_t unread = input.unread_call_lines(); unread > 0)
    spdlog::warn("{}: {} of {} lines have tools, and this model's chat template writes calls in a form that is not read: calls stay in the answers' text",
                 files.input, format_count(unread), format_count(input.num_lines()));
}

/// Puts the error records of lines that are bad and have none behind the others; how many they are. `wanted`: how many to look for.
int64_t append_bad_lines(const BatchFiles& files, const BatchInput& input, const LineSet& in_shard, int64_t wanted, const std::atomic<bool>& stop, Job& job) {
  int64_t shown = 0;
  for (int64_t i = 0; i < input.num_lines() && shown < wanted && !stop; ++i) {
    const InputLine line = input.line(i);
    if (line.good() || !in_shard.contains(i) || kept_record(job, input, line)) continue;
    const LineError error = std::get<LineError>(input.read(line));
    if (++shown <= kShownErrors) spdlog::warn("{} line {}: {}", files.input, line.number, error.message);
    job.append(error_record(line, error));
  }
  if (shown > kShownErrors) spdlog::warn("{} more lines are bad; their error records say why", format_count(shown - kShownErrors));
  return shown;
}

/// Moves answers of lines that an edited input has no more into a file of their own.
void set_aside_other_answers(const BatchFiles& files, const BatchInput& input, const LineSet& in_shard, const std::string& directory, Job& job) {
  LineIndex index(input, directory);
  const int64_t removed = job.rewrite([&](const KeptRecord& record) { return fate_of(record, job, input, index, in_shard); });
  if (removed > 0)
    spdlog::warn("{} of the answers in {} {} of lines that are not in {} any more: moved to {}.removed", format_count(removed), files.output,
                 removed == 1 ? "is" : "are", files.input, files.output);
}

/// Puts the records into the order of the lines, and errors into their own file, as was asked for. False: stopped before that was done.
bool arrange(const BatchFiles& files, const BatchInput& input, const std::string& directory, const std::atomic<bool>& stop, Job& job) {
  LineIndex index(input, directory);
  const auto line_of = [&](const RecordId& id) {
    const std::optional<int64_t> line = index.find(id);
    FLEXGEN_CHECK(line);
    return *line;
  };
  return job.arrange(files.in_order, line_of, stop);
}

/// What is known of the lines before the start.
struct LinesToDo {
  LineSet todo;
  /// What the kept answers took, as shares of their max_tokens: with one max_tokens for all lines that is their lengths, and where short and long ones
  /// are asked for it takes neither for the other. Those that were under way when the job stopped, the longer ones, are not among them.
  ExpectedAnswers expected;
  int64_t bad_to_do = 0, sequences_before = 0;
  int64_t moved = 0, known = 0;  ///< kept answers whose line has another name now; answers of an edited input that are any line's
  bool stale_errors = false;     ///< some of the error output say another number of their line than it has
};

/// Goes through all lines. False: stopped.
bool count_kept(const BatchInput& input, const LineSet& in_shard, const Job& job, const std::atomic<bool>& stop, LinesToDo& left, BatchOutcome& outcome) {
  outcome = {};
  for (int64_t i = 0; i < input.num_lines(); ++i) {
    if (stop) return false;
    const InputLine line = input.line(i);
    const bool ours = in_shard.contains(i);
    const std::optional<DoneLine> done = ours ? kept_record(job, input, line) : std::nullopt;
    if (job.input_edited())
      if (const auto any = job.done(line.id)) left.known += any->answer_tokens.has_value();
    left.todo.add(ours && !done && line.good());
    if (!ours) continue;
    ++outcome.lines;
    if (!line.good()) ++outcome.failed;
    if (!done) {
      left.bad_to_do += !line.good();
      continue;
    }
    ++outcome.kept;
    left.stale_errors = left.stale_errors || (done->errors_say_line > 0 && done->errors_say_line != line.number);
    left.sequences_before += line.num_sequences;
    const std::optional<int64_t> tokens = done->answer_tokens;
    left.moved += line.good() && done->name != line.name;
    if (line.good() && !tokens) ++outcome.without_answer;
    outcome.kept_answers += tokens.has_value();
    if (tokens && line.max_tokens > 0) left.expected.add(static_cast<float>(*tokens) / static_cast<float>(line.max_tokens * line.num_sequences));
  }
  return true;
}

/// Whether what answers no line, or tells another number of it, lies in the error output alone, of an input that was edited while a start left that out.
bool has_stale_errors(const BatchInput& input, const LineSet& in_shard, const std::string& directory, Job& job) {
  LineIndex index(input, directory);
  return job.take_stale_errors([&](const RecordId& id) {
    const std::optional<int64_t> line = index.find(id);
    return line && in_shard.contains(*line);
  });
}

/// With the time that the job was begun with: prompts of chat templates that tell the date stay the same, whatever copy of the input a resumed job or a replica reads.
ModelLimits limits_of_job(const BatchModel& model, int64_t created_s) {
  ModelLimits limits = model.limits;
  limits.now = created_s;
  return limits;
}

/// What its answers depend on, beside the input: of a shard also which lines are its own.
std::map<std::string, std::string> options_of_job(const BatchFiles& files, const BatchModel& model) {
  std::map<std::string, std::string> options = model.options;
  if (files.shard.count > 1) {
    options["shard"] = fmt::format("{}/{}", files.shard.index, files.shard.count);
    options[kDealing] = kDealt;
  }
  return options;
}

}  // namespace

BatchOutcome serve_batch(const BatchFiles& files, const BatchModel& model, BatchRunner& runner, const std::atomic<bool>& stop, const BatchReplicas& replicas,
                         std::function<void()> request_stop) {
  const std::string directory = spill_directory(files.output);
  LineSet todo(directory);
  const ReplicaJob job = hear_replica_job(*replicas.world, todo);
  BatchOutcome outcome;
  if (todo.count() == 0) return outcome;
  BatchInput input = BatchInput::scan(files.input, limits_of_job(model, job.created_s), stop, directory);
  if (input.stopped()) {  // the others answer its share
    outcome.stopped = true;
    Event end = hear_the_end(*replicas.world, std::move(request_stop));
    RecordSender(*replicas.world).finish();
    end.wait();
    return outcome;
  }
  if (job.input_fingerprint != input.fingerprint())
    fail_user("the input {} differs from that of rank 0; all replicas must read the same file (theirs has SHA-256 {}, this one {})", files.input,
              job.input_fingerprint, input.fingerprint());
  const size_t num_replicas = replicas.leads.size() + 1;
  std::map<std::string, std::string> options = model.options;
  const LineOrder lines(input, todo, files.share_prefixes, directory);
  runner.prepare(share_of(workload_of(input, lines, {files.expected_tokens, job.answer_shares}, model.page_tokens), num_replicas), options);
  Event end = hear_the_end(*replicas.world, std::move(request_stop));
  RecordSender sender(*replicas.world);
  LineBroker broker(
      input, lines, shared_lines(lines, *replicas.world, static_cast<int>(num_replicas)), stop, [&](RecordText& record) { sender.send(record); },
      {job.model_name, job.created_s, model.limits.tokenizer}, directory, model.page_tokens);
  outcome.report = runner.run(broker, broker, stop);
  outcome.report.cut_off = broker.cut_off();
  outcome.answered = broker.answered();
  outcome.stopped = outcome.report.stopped;
  sender.finish();
  end.wait();
  return outcome;
}

BatchOutcome run_batch(const BatchFiles& files, const BatchModel& model, BatchRunner& runner, const std::atomic<bool>& stop, const BatchReplicas& replicas) {
  Job job(files.output, files.input, files.calls, stop, files.error_output);
  std::optional<BatchInput> read_now;
  const std::string directory = spill_directory(files.output);
  if (!files.lines) read_now = BatchInput::scan(files.input, model.limits, stop, directory);
  BatchInput& input = files.lines ? *files.lines : *read_now;
  BatchOutcome outcome;
  const auto end_before_the_start = [&] {
    if (!replicas.leads.empty()) tell_replicas(*replicas.world, replicas.leads, {}, LineSet());
    outcome.stopped = true;
    return outcome;
  };
  if (job.stopped() || input.stopped()) return end_before_the_start();

  job.match({input.fingerprint(), model.fingerprint, options_of_job(files, model), model.name, created_of(input.modified_s()), model.files, model.folder,
             model.arithmetic},
            files.overwrite);
  if (const int64_t begun_s = job.identity().created_s; model.limits.chat && begun_s != created_of(input.modified_s()))
    input = BatchInput::scan(input.path(), limits_of_job(model, begun_s), stop, directory);
  if (input.stopped()) return end_before_the_start();  // lines are missing, and no reason to refuse or lose their answers
  const LineSet in_shard = lines_of_shard(input, files.shard, directory);
  LinesToDo left{LineSet(directory), {files.expected_tokens, {}}};
  if (!count_kept(input, in_shard, job, stop, left, outcome)) return end_before_the_start();
  if ((outcome.kept != job.num_done() || left.stale_errors) && job.continued() && has_stale_errors(input, in_shard, directory, job)) {
    left = {LineSet(directory), {files.expected_tokens, {}}};
    if (!count_kept(input, in_shard, job, stop, left, outcome)) return end_before_the_start();
  }
  LineSet& todo = left.todo;
  ExpectedAnswers& expected = left.expected;
  if (expected.num_known < Batcher::kEnoughAnswers || expected.tokens > 0) expected.shares.clear();
  if (job.input_edited() && left.known == 0 && job.num_answers() > 0) job.refuse_other_input(files.overwrite);
  if (outcome.kept != job.num_done() && job.continued() && !job.input_edited())
    fail_user("{} of the {} records in {} answer no line of {}{}; give another output, or remove those records", job.num_done() - outcome.kept, job.num_done(),
              files.output, files.shard.count > 1 ? "this shard's part of " : "", files.input);

  const size_t num_replicas = replicas.leads.size() + 1;
  const LineOrder lines(input, todo, files.share_prefixes, directory);
  const Workload workload = share_of(workload_of(input, lines, expected, model.page_tokens), num_replicas);
  say_what_is_left(files, model, job, input, lines, expected, workload, outcome);
  if (num_replicas > 1)
    tell_replicas(*replicas.world, replicas.leads, {job.identity().model_name, job.identity().created_s, input.fingerprint(), expected.shares}, todo);
  if (workload.num_sequences > 0) {
    std::map<std::string, std::string> settled = job.identity().options;
    runner.prepare(workload, settled);
    job.settle(settled);
  }

  // From here on things change on the disk.
  if (files.before_start) files.before_start();
  if (job.input_edited() && (outcome.kept < job.num_done() || left.moved > 0)) set_aside_other_answers(files, input, in_shard, directory, job);
  job.start();
  const int64_t shown = append_bad_lines(files, input, in_shard, left.bad_to_do, stop, job);
  if (workload.num_sequences > 0) {
    std::mutex lock;
    int64_t without_answer = 0;
    BatchOutcome now = outcome;
    auto append = [&](RecordText& record) {
      const std::optional<std::string> message = no_answer_message(record);
      if (message && without_answer++ == 0) spdlog::warn("{}: {}", files.input, *message);
      job.append(record);
      ++(message ? now.without_answer : now.answered);
      if (files.progress) files.progress(now);
    };
    if (files.progress) files.progress(now);
    std::unique_ptr<RecordCollector> collector;
    if (num_replicas > 1) collector = std::make_unique<RecordCollector>(*replicas.world, replicas.leads, lock, append, directory);
    std::unique_ptr<LineQueue> queue = num_replicas > 1 ? shared_lines(lines, *replicas.world, static_cast<int>(num_replicas)) : own_lines(lines);
    LineBroker broker(
        input, lines, std::move(queue), stop,
        [&](RecordText& record) {
          std::lock_guard guard(lock);
          append(record);
        },
        {job.identity().model_name, job.identity().created_s, model.limits.tokenizer}, directory, model.page_tokens, left.sequences_before);
    try {
      outcome.report = runner.run(broker, broker, stop);
    } catch (const std::exception& error) {
      if (collector) replicas.world->abort(fmt::format("{}: {}", replicas.world->describe(0), error.what()));
      throw;
    }
    outcome.report.cut_off = broker.cut_off();
    outcome.answered = broker.answered();
    outcome.stopped = outcome.report.stopped;
    if (collector) {
      // A signal that comes while the others still work is theirs too.
      end_replicas(*replicas.world, replicas.leads, outcome.stopped || !collector->wait(stop));
      collector->wait();
      outcome.answered += collector->collected();
    }
    outcome.stopped = outcome.answered < todo.count();
    outcome.answered -= without_answer;
    outcome.without_answer += without_answer;
  }
  outcome.stopped = outcome.stopped || shown < left.bad_to_do;
  job.sync();
  if (!outcome.stopped && (files.in_order || !files.error_output.empty())) outcome.stopped = !arrange(files, input, directory, stop, job);
  if (!outcome.stopped && files.before_end) files.before_end();
  return outcome;
}

}  // namespace flexgen
