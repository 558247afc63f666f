#include "batch/batch_input.h"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/byte_order_mark.h"
#include "base/error.h"
#include "base/sha256.h"
#include "io/transfer.h"

namespace flexgen {
namespace {

constexpr int64_t kChunkBytes = 1 << 20;

RecordId shortened(const Sha256::Digest& digest) {
  RecordId id;
  std::copy_n(digest.begin(), id.size(), id.begin());
  return id;
}

/// Of a line whose text or name an earlier one has: it depends on how many there were.
RecordId repeated_id(const RecordId& id, int64_t repeat) {
  Sha256 hash;
  hash.add(fmt::format("{} of {}", repeat, record_id_text(id)));
  return shortened(hash.digest());
}

}  // namespace

std::string line_name(int64_t number) { return fmt::format("line-{}", number); }

RecordId hash_of_name(std::string_view custom_id) { return shortened(Sha256::of(custom_id)); }

std::string record_id_text(const RecordId& id) {
  Sha256::Digest digest{};
  std::copy(id.begin(), id.end(), digest.begin());
  return std::string(kRecordIdPrefix) + Sha256::hex(digest, static_cast<int>(id.size()));
}

int64_t ExpectedAnswers::operator()(int64_t index, int64_t max_tokens) const {
  if (tokens > 0) return std::min(tokens, max_tokens);
  if (shares.empty()) return max_tokens;
  return std::llround(static_cast<double>(shares[static_cast<size_t>(index) % shares.size()]) * static_cast<double>(max_tokens));
}

void ExpectedAnswers::add(float share) {
  if (num_known++ % stride == 0) shares.push_back(share);
  if (shares.size() <= kMaxShares) return;
  for (size_t i = 0; 2 * i < shares.size(); ++i) shares[i] = shares[2 * i];
  shares.resize((shares.size() + 1) / 2);
  stride *= 2;
}

int64_t shared_tokens_of(std::span<const int32_t> a, std::span<const int32_t> b) {
  const int64_t same = std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
  return std::min({same / kSharedGrain, shareable_pages(std::ssize(a), kSharedGrain), shareable_pages(std::ssize(b), kSharedGrain)}) * kSharedGrain;
}

BatchInput::BatchInput(InputText text, const std::string& directory)
    : text_(std::move(text)), lines_({directory, "the index of the input's lines"}), prompts_(kSharedGrain, {directory, "the index of the input's prompts"}),
      named_({directory, "the input's custom_ids"}), duplicates_({directory, "the index of the input's lines"}),
      answered_({directory, "the index of the input's prompts"}), same_({directory, "the index of the input's lines"}),
      names_({directory, "the input's custom_ids"}) {}

void BatchInput::take_line(std::string_view text, int64_t number, int64_t offset, int64_t bytes) {
  InputLine line;
  line.number = number;
  line.offset = offset;
  line.bytes = bytes;
  line.id = line.text_id = shortened(Sha256::of(text));
  auto parsed = bytes > kMaxLineBytes ? line_too_long() : parse_batch_line(text, limits_);
  const std::string& custom_id = std::visit([](auto& either) -> const std::string& { return either.custom_id; }, parsed);
  const auto* request = std::get_if<BatchRequest>(&parsed);
  if (custom_id.empty()) named_.add({true, false, line.text_id, lines_.size(), number});
  if (!custom_id.empty() || request) line.name = hash_of_name(custom_id.empty() ? line_name(number) : custom_id);
  if (!custom_id.empty() || request) named_.add({false, custom_id.empty(), line.name, lines_.size(), number});
  if (request) {
    line.num_sequences = request->num_sequences();
    if (!request->draws()) line.copies = request->best_of;
    if (request->answers_id) answered_.add({*request->answers_id, lines_.size()});
    num_estimated_ += request->estimated;
    for (const BatchPrompt& prompt : request->prompts) {
      auto tokens = static_cast<int64_t>(prompt.tokens.size());
      line.prompt_tokens += tokens * request->best_of;
      line.longest_prompt = std::max(line.longest_prompt, tokens);
    }
    line.max_tokens = request->params.max_tokens;
    line.keeps_logits = request->params.keeps_logits() && line.max_tokens > 0;
    line.scored = request->params.scores_prompt();
    doubled_bos_lines_ += request->doubled_bos > 0;
    open_ended_lines_ += request->open_ended;
    unread_call_lines_ += request->unread_calls;
    const SamplingParams params = request->engine_params();
    line.wants_logprobs = params.top_logprobs >= 0 || line.scored;
    line.logprob_bytes = logprob_bytes(params, line.longest_prompt);
  }
  const bool shares = request && !line.scored;  // which are computed whole
  prompts_.add(shares ? std::span<const int32_t>(request->prompts.front().tokens) : std::span<const int32_t>());
  const int64_t each = shares ? request->best_of / line.copies : 1;
  if (shares)
    for (size_t prompt = 0; prompt < request->prompts.size(); ++prompt) {
      const std::vector<int32_t>& tokens = request->prompts[prompt].tokens;
      if (prompt > 0) line.inside_shared += shared_tokens_of(request->prompts[prompt - 1].tokens, tokens);
      line.inside_shared += (each - 1) * shared_tokens_of(tokens, tokens);
      if (prompt == 0 && each > 1) line.inside_prefix = shared_tokens_of(tokens, tokens);
      if (prompt == 1 && each == 1) line.inside_prefix = line.inside_shared;
    }
  lines_.push_back(line);
}

void BatchInput::in_shared_order(const std::function<void(const PlacedPrompt&)>& take) const {
  std::function<int64_t(int64_t)> same_as;
  if (has_same_)
    same_as = [&](int64_t line) {
      const int64_t first = line_anywhere(line).same_as;
      return first < 0 ? line : first;
    };
  prompts_.order([](int64_t) { return true; },
                 [&](const PlacedPrompt& placed) {
                   take(placed);
                   return true;
                 },
                 same_as);
}

void BatchInput::find_duplicates(const std::atomic<bool>& stop) {
  NamedLine first;
  int64_t brought = -1;  // lines that bring the first one's name or text; -1: there is no first one
  named_.drain([&](const NamedLine& line) {
    if (brought >= 0 && line.by_text == first.by_text && line.name == first.name) {
      duplicates_.add({line.index, line.by_text ? 0 : first.number, line.implied ? 0 : brought});
    } else {
      first = line;
      brought = 0;
      if (!line.by_text) names_.push_back(line.name);
    }
    // A name that a good line gets changes no id: a merge, which has no model, knows of no line whether it is good.
    brought += !line.implied;
    return !stop;
  });
  duplicates_.drain([&](const Duplicate& duplicate) {
    InputLine line = lines_[duplicate.index];
    if (duplicate.duplicate_of > 0) {
      const InputLine bad{line.number, line.offset, line.bytes, line.id, line.text_id};
      line = bad;
      line.duplicate_of = duplicate.duplicate_of;
    }
    if (duplicate.repeat > 0) line.id = repeated_id(line.id, duplicate.repeat);
    lines_.set(duplicate.index, line);
    return !stop;
  });
}

void BatchInput::find_same(const std::atomic<bool>& stop) {
  AnsweredLine first;
  bool any = false, more = false;
  answered_.drain([&](const AnsweredLine& line) {
    if (any && line.answers == first.answers) {
      if (!more) same_.add({first.index, first.index});
      more = has_same_ = true;
      same_.add({line.index, first.index});
    } else {
      first = line;
      any = true;
      more = false;
    }
    return !stop;
  });
  same_.drain([&](const SameLine& same) {
    InputLine line = lines_[same.index];
    if (line.good()) {
      line.same_as = same.same_as;
      lines_.set(same.index, line);
    }
    return !stop;
  });
}

BatchInput BatchInput::scan(const std::string& path, const ModelLimits& limits, const std::atomic<bool>& stop, const std::string& directory) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) fail_io("cannot read the input {}: {}{}", path, std::strerror(errno), file_advice(path, errno));
  if (S_ISDIR(info.st_mode)) fail_user("the input {} is a folder; give the JSONL file in it", path);
  if (!S_ISREG(info.st_mode))
    fail_user("the input {} is not a regular file; flexgen reads it twice; give it as standard input (-i - <FILE), which is kept beside the output", path);

  BatchInput input(InputText::open(path, directory, stop), directory);
  input.path_ = path;
  input.limits_ = limits;
  if (limits.now == 0) input.limits_.now = info.st_mtime;
  input.modified_s_ = info.st_mtime;
  input.read_file(stop);
  if (!stop) input.find_duplicates(stop);
  if (!stop) input.find_same(stop);
  input.stopped_ = stop;
  return input;
}

void BatchInput::read_file(const std::atomic<bool>& stop) {
  const int64_t size = text_.size();
  Sha256 hash;
  std::string chunk, line;  // `line`: the part of the current line that lies in earlier chunks
  int64_t number = 1, line_start = 0, line_bytes = 0;
  auto end_line = [&](std::string_view rest) {
    line_bytes += static_cast<int64_t>(rest.size());
    std::string_view text = rest;
    if (!line.empty()) {
      if (line_bytes <= kMaxLineBytes) line += rest;
      text = line;
    }
    if (line_start == 0 && text.starts_with(kByteOrderMark)) {
      text = without_byte_order_mark(text);
      line_start = std::ssize(kByteOrderMark);
      line_bytes -= line_start;
    }
    if (line_bytes <= kMaxLineBytes && text.ends_with('\r')) {  // the line end is CRLF
      text.remove_suffix(1);
      --line_bytes;
    }
    // What is kept of a line that is too long still names it: its first bytes and its length.
    if (line_bytes > kMaxLineBytes) text = text.substr(0, static_cast<size_t>(kChunkBytes));
    if (!is_blank(text) || line_bytes > kMaxLineBytes) take_line(text, number, line_start, line_bytes);
    line.clear();
    if (line.capacity() > static_cast<size_t>(kChunkBytes)) line = {};
    line_bytes = 0;
    ++number;
  };
  for (int64_t offset = 0; offset < size; offset += static_cast<int64_t>(chunk.size())) {
    if (stop) return;
    chunk.resize(static_cast<size_t>(std::min(kChunkBytes, size - offset)));
    text_.read(offset, std::as_writable_bytes(std::span(chunk)));
    hash.add(chunk);
    std::string_view rest = chunk;
    for (size_t end; (end = rest.find('\n')) != std::string_view::npos; rest.remove_prefix(end + 1)) {
      if (stop) return;
      end_line(rest.substr(0, end));
      line_start = offset + static_cast<int64_t>(rest.data() - chunk.data()) + static_cast<int64_t>(end) + 1;
    }
    if (line_bytes <= kMaxLineBytes) line += rest;
    line_bytes += static_cast<int64_t>(rest.size());
  }
  if (line_bytes > 0) end_line("");
  fingerprint_ = Sha256::hex(hash.digest());
}

std::string BatchInput::read_text(const InputLine& line) const {
  std::string text(static_cast<size_t>(line.bytes), '\0');
  text_.read(line.offset, std::as_writable_bytes(std::span(text)));
  if (shortened(Sha256::of(text)) != line.text_id)
    fail_io(
        "{} changed while the job ran (line {}); finished answers are kept. Restore the file and run the same "
        "command again",
        path_, line.number);
  return text;
}

std::string BatchInput::read_custom_id(const InputLine& line) const {
  const std::string custom_id = custom_id_of(read_text(line));
  return custom_id.empty() ? line_name(line.number) : custom_id;
}

std::variant<BatchRequest, LineError> BatchInput::read(const InputLine& line) const {
  std::variant<BatchRequest, LineError> parsed = line_too_long();
  if (line.bytes <= kMaxLineBytes) parsed = parse_batch_line(read_text(line), limits_);
  if (line.good()) {
    BatchRequest& request = std::get<BatchRequest>(parsed);
    if (request.custom_id.empty()) {
      request.custom_id = line_name(line.number);
      if (!request.seeded) request.params.seed = seed_of(record_id_text(line.id));  // which it keeps where it moves
    }
    return parsed;
  }

  std::string custom_id = std::visit([](auto& either) { return either.custom_id; }, parsed);
  LineError error;
  if (line.duplicate_of) {
    error.code = "duplicate_custom_id";
    error.message = custom_id.empty() ? fmt::format("the line has no custom_id, and '{}', which it would get, is that of line {}; give it another",
                                                    line_name(line.number), line.duplicate_of)
                                      : fmt::format("custom_id '{}' is that of line {} already; only the first one is answered", custom_id, line.duplicate_of);
    error.param = "custom_id";
    custom_id.clear();
  } else {
    error = std::get<LineError>(std::move(parsed));
  }
  error.custom_id = custom_id;
  if (custom_id.empty()) {
    error.custom_id = line_name(line.number);
    while (names_.find(hash_of_name(error.custom_id))) error.custom_id += "#error";
  }
  return error;
}

}  // namespace flexgen
