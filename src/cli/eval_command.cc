#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/byte_order_mark.h"
#include "base/error.h"
#include "base/log.h"
#include "base/report.h"
#include "base/units.h"
#include "batch/batch_input.h"
#include "batch/input_text.h"
#include "batch/special_tokens.h"
#include "cli/commands.h"
#include "cli/evaluation.h"
#include "cli/json_output.h"
#include "cli/one_prompt.h"
#include "cli/plan_table.h"
#include "cli/progress.h"
#include "cli/stop_signals.h"
#include "generation/list_source.h"
#include "generation/share_requests.h"
#include "io/checked_json.h"
#include "io/lfs_pointer.h"
#include "io/whole_file.h"
#include "setup/hardware.h"
#include "setup/model_folder.h"
#include "setup/team.h"
#include "tables/table_reader.h"
#include "text/jinja/json_values.h"
#include "text/jinja/print.h"

namespace flexgen {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr int kMaxTaskDepth = 64;
constexpr int64_t kMaxTaskLineBytes = 64 << 20;
constexpr int64_t kMaxEvalTextBytes = 64 << 20;  // turning text into tokens takes up to 60 times its size

class Collect : public CompletionSink {
 public:
  explicit Collect(size_t count) : completions(count) {}
  void accept(Completion completion) override { completions[static_cast<size_t>(completion.key)] = std::move(completion); }
  std::vector<Completion> completions;  ///< by key
};

[[noreturn]] void refuse_empty(const char* flag, const std::string& path) { fail_user("{} {}: this file is empty", flag, path); }

/// Runs all requests as one job. False if a signal ended it.
bool run_all(const EvalOptions& options, Engine& engine, std::vector<Request> requests, Collect& collect, OrderedJson& figures) {
  const Workload workload =
      options.engine.shares_prefixes() ? share_prefixes(requests, CacheLayout::page_tokens(engine.model(), engine.kv_dtype())) : workload_of(requests);
  set_hardware(engine, options.engine);
  engine.prepare(workload);
  print_note("{}", plan_table(engine));
  ListSource source(std::move(requests));
  StopSignals signals;
  RunReport report;
  {
    ProgressDisplay display([&] { return engine.progress(); });
    report = engine.run(source, collect, signals.stop());
  }
  print_note("{}{}", report_table(report), prediction_table(engine.plan().prediction, report));
  doubt_if_faster(engine, options.engine, report);
  figures["elapsed_s"] = report.elapsed_s;
  if (report.stopped) print_note("stopped by a signal; an evaluation begins anew\n");
  return !report.stopped;
}

/// What encode() puts before a text, without what it puts behind it.
std::vector<int32_t> tokens_before(const Tokenizer& tokenizer) {
  const std::vector<int32_t> whole = tokenizer.encode("a", true), own = tokenizer.encode("a", false);
  return {whole.begin(), std::search(whole.begin(), whole.end(), own.begin(), own.end())};
}

/// Tokens of the text, or the first --text-tokens: of a long text no more is turned into tokens than that takes.
std::vector<int32_t> tokens_of_text(const EvalOptions& options, const Tokenizer& tokenizer) {
  constexpr int64_t kBytesOfToken = 8,
                    kTokensApart = 1024;  // so far before the end of a piece that ends at a line's end, the rest of the text changes no token
  const std::string& path = options.perplexity_file;
  const int64_t wanted = options.text_tokens;
  int64_t most = kMaxEvalTextBytes;
  if (wanted > 0) most = std::clamp<int64_t>(std::min(wanted, kMaxEvalTextBytes) * kBytesOfToken, kMiB, kMaxEvalTextBytes);
  for (;; most = std::min(2 * most, kMaxEvalTextBytes)) {
    bool whole = true;
    std::string text = read_unpacked_text(path, most, &whole);
    if (text.empty()) refuse_empty("--perplexity", path);
    if (is_lfs_pointer(text)) refuse_lfs_pointer(path);
    if (!whole && wanted == 0)
      fail_user("--perplexity {}: its text has more than {}; give less of it, or --text-tokens for its beginning", path, format_bytes(most));
    if (!whole) {
      // In front of the last character, which may be cut, where there is no line's end.
      size_t end = text.rfind('\n') + 1;
      for (size_t back = 1; end == 0 && back < std::min<size_t>(text.size(), 5); ++back)
        if ((static_cast<unsigned char>(text[text.size() - back]) & 0xC0) != 0x80) end = text.size() - back;
      text.resize(end);
    }
    check_utf8(text, fmt::format("--perplexity {}", path));
    std::vector<int32_t> tokens = tokenizer.encode(text, false);
    const auto enough = static_cast<size_t>(wanted);
    if (!whole && tokens.size() < enough + kTokensApart) {
      if (most < kMaxEvalTextBytes) continue;
      fail_user("--perplexity {}: its first {} have no {} tokens; give fewer --text-tokens", path, format_bytes(most), wanted);
    }
    if (wanted > 0 && tokens.size() > enough) tokens.resize(enough);
    return tokens;
  }
}

bool perplexity(const EvalOptions& options, Engine& engine, OrderedJson& figures) {
  const Tokenizer& tokenizer = *engine.tokenizer();
  const std::vector<int32_t> prefix = options.no_special_tokens ? std::vector<int32_t>() : tokens_before(tokenizer);
  const std::vector<int32_t> tokens = tokens_of_text(options, tokenizer);
  if (!prefix.empty() && !tokens.empty() && tokens.front() == prefix.back())
    warn_of_two_prefixes(tokenizer, fmt::format("--perplexity {}: the text", options.perplexity_file));
  const auto prefix_size = static_cast<int64_t>(prefix.size()), num_tokens = static_cast<int64_t>(tokens.size());
  if (prefix_size + num_tokens < 2) fail_user("--perplexity {}: a text of {} tokens has nothing to be predicted", options.perplexity_file, num_tokens);

  const int64_t positions = engine.model().config().max_positions;
  const int64_t window = options.window > 0 ? options.window : std::min<int64_t>(positions, 1024);
  if (window > positions) fail_user("--window {}: the model takes {} positions", window, positions);
  const int64_t stride = options.stride > 0 ? options.stride : std::max<int64_t>(1, window / 2);
  const int64_t own = window - prefix_size;  // a window's tokens of the text
  if (own < 1 || stride > own - (prefix.empty() ? 1 : 0))
    fail_user("--stride {}: windows of {} tokens ({} put before each text) leave room for strides up to {}", stride, window, prefix_size,
              own - (prefix.empty() ? 1 : 0));

  const std::vector<ScoreWindow> windows = score_windows(num_tokens, own, stride, !prefix.empty());
  std::vector<Request> requests;
  for (const ScoreWindow& w : windows) {
    Request request;
    request.key = static_cast<int64_t>(requests.size());
    request.prompt = prefix;
    request.prompt.insert(request.prompt.end(), tokens.begin() + w.begin, tokens.begin() + w.end);
    request.sparse_prompt = true;
    request.params.max_tokens = 0;
    request.params.temperature = 0;
    request.params.echo = true;
    request.params.top_logprobs = 0;
    requests.push_back(std::move(request));
  }
  Collect collect(requests.size());
  if (!run_all(options, engine, std::move(requests), collect, figures)) return false;

  check_answered(collect.completions, "windows");
  Perplexity result;
  for (size_t i = 0; i < windows.size(); ++i)
    for (int64_t at = windows[i].first_scored; at < windows[i].end; ++at, ++result.tokens)
      result.log_likelihood += collect.completions[i].prompt_logprobs.at(static_cast<size_t>(prefix_size + at - windows[i].begin)).logprob;
  result.bytes = static_cast<int64_t>(tokenizer.decode(std::span(tokens).subspan(prefix.empty() ? 1 : 0), false).size());
  if (!std::isfinite(result.value()))
    fail_io("--perplexity {}: the model gives a token of the text no probability, so its perplexity is infinite", options.perplexity_file);
  figures["perplexity"] = result.value();
  figures["tokens_scored"] = result.tokens;
  figures["nats_per_token"] = -result.log_likelihood / static_cast<double>(result.tokens);
  figures["bits_per_byte"] = result.bits_per_byte();
  figures["window"] = window;
  figures["stride"] = stride;
  return true;
}

/// The right answer of a line: a text, or the JSON of another value with its numbers as they are written.
struct Reference {
  std::string text;
  bool is_value = false;
};

/// What the task file gives: prompts and references.
struct Task {
  std::vector<Request> requests;
  std::vector<Reference> references;
};

/// Of a line that is a JSON object with such a field. Throws jinja::Failure for a value that is too large.
Reference reference_of(const nlohmann::json& line, const std::string& text, const std::string& field) {
  if (line[field].is_string()) return {line[field].get<std::string>(), false};
  const jinja::Value whole = jinja::parse_json_value(text, kMaxRowValues, nullptr, jinja::Digits::kAsWritten);
  return {jinja::to_json(*whole.dict()->find(std::string_view(field)), {}), true};
}

Task read_task(const EvalOptions& options, const Engine& engine) {
  Task task;
  const InputText text = InputText::open(options.task_file, "", false);
  if (text.size() == 0) refuse_empty("--task", options.task_file);
  InputTextBytes bytes(text);
  LineReader lines(bytes, kMaxTaskLineBytes, "--task " + options.task_file);
  const ModelConfig& config = engine.model().config();
  std::string line;
  int64_t doubled_bos = 0;
  while (lines.next(&line)) {
    const int64_t number = lines.number();
    if (number == 1) drop_byte_order_mark(&line);
    if (is_blank(line)) continue;
    if (options.limit > 0 && static_cast<int64_t>(task.requests.size()) == options.limit) break;
    const nlohmann::json json = parse_checked_json(line, kMaxTaskDepth, fmt::format("--task {} line {}", options.task_file, number), "this line", "correct it");
    auto bad = [&](const std::string& why) { fail_user("--task {} line {}: {}", options.task_file, number, why); };
    if (!json.is_object()) bad("no JSON object");
    if (!json.contains(options.prompt_field) || !json[options.prompt_field].is_string())
      bad(fmt::format("no text '{}' (--prompt-field names the member that has the prompt)", options.prompt_field));
    if (!json.contains(options.answer_field)) bad(fmt::format("no '{}' (--answer-field names the member that has the reference)", options.answer_field));
    Request request;
    request.key = static_cast<int64_t>(task.requests.size());
    request.prompt = engine.tokenizer()->encode(json[options.prompt_field].get<std::string>(), !options.no_special_tokens);
    if (!options.no_special_tokens && begins_with_two_prefixes(*engine.tokenizer(), request.prompt)) ++doubled_bos;
    request.params.max_tokens = options.max_tokens;
    request.params.temperature = 0;
    request.params.stop = options.stop;
    const auto size = static_cast<int64_t>(request.prompt.size());
    if (size == 0) bad("the prompt is empty, and this model puts no token before a text");
    if (size + options.max_tokens > config.max_positions)
      bad(fmt::format("the prompt has {} tokens and --max-tokens is {}: together more than the {} that the model takes", size, options.max_tokens,
                      config.max_positions));
    if (*std::max_element(request.prompt.begin(), request.prompt.end()) >= config.vocab_size)
      bad("the tokenizer gives an id that the model's vocabulary does not have");
    task.requests.push_back(std::move(request));
    try {
      task.references.push_back(reference_of(json, line, options.answer_field));
    } catch (const jinja::Failure& failure) {
      bad(failure.what());
    }
  }
  if (task.requests.empty()) fail_user("--task {}: it has no lines", options.task_file);
  if (doubled_bos > 0)
    warn_of_two_prefixes(*engine.tokenizer(), fmt::format("--task {}: {} of {} prompts", options.task_file, doubled_bos, task.requests.size()));
  return task;
}

bool exact_match(const EvalOptions& options, Engine& engine, OrderedJson& figures) {
  Task task = read_task(options, engine);
  Collect collect(task.requests.size());
  if (!run_all(options, engine, std::move(task.requests), collect, figures)) return false;
  check_answered(collect.completions, "lines");
  TaskScore score;
  for (size_t i = 0; i < task.references.size(); ++i) score.add(collect.completions[i].text, task.references[i].text, task.references[i].is_value);
  auto percent = [](int64_t part, int64_t whole) { return 100.0 * static_cast<double>(part) / static_cast<double>(whole); };
  figures["lines"] = score.lines;
  figures["exact"] = score.exact;
  figures["exact_percent"] = percent(score.exact, score.lines);
  if (score.fields > 0) {
    figures["fields"] = score.fields;
    figures["fields_right"] = score.fields_right;
    figures["fields_percent"] = percent(score.fields_right, score.fields);
  }
  return true;
}

}  // namespace

int eval_command(const EvalOptions& given) {
  require_alone({}, "eval");
  EvalOptions options = given;
  options.model = find_model(given.model, given.engine.model.revision);
  Engine engine(engine_options(options.engine, options.model));
  OrderedJson figures;
  figures["model"] = options.model;
  figures["weight_dtype"] = options.engine.weight_dtype;
  figures["weight_quantization"] = options.engine.weight_quantization;
  figures["matmul_dtype"] = options.engine.matmul_dtype;
  figures["kv_cache_dtype"] = dtype_name(engine.kv_dtype());
  figures["kv_cache_rotation"] = options.engine.kv_cache_rotation;
  figures["attention_sparsity"] = options.engine.attention_sparsity;
  if (!(options.perplexity_file.empty() ? exact_match(options, engine, figures) : perplexity(options, engine, figures))) return kExitStopped;
  if (options.json) put_json(figures.dump(1), options.json_file);
  if (!options.json || !options.json_file.empty())
    for (const auto& [name, value] : figures.items()) print_result("{} {}\n", name, value.is_string() ? value.get<std::string>() : value.dump());
  return kExitDone;
}

}  // namespace flexgen
