#include "serve/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace flexgen {
namespace {

/// A label's value.
std::string escaped_label(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n') out += "\\n";
    else out += c;
  }
  return out;
}

}  // namespace

void ServeMetrics::Histogram::add(double value) {
  ++counts[static_cast<size_t>(std::lower_bound(kBounds.begin(), kBounds.end(), value) - kBounds.begin())];
  sum += value;
}

void ServeMetrics::count_sequence(const char* reason, int64_t prompt_tokens, int64_t cached_tokens, int64_t generated_tokens) {
  std::lock_guard guard(mutex_);
  ++finished_[reason];
  prompt_tokens_ += prompt_tokens;
  cached_tokens_ += cached_tokens;
  generated_tokens_ += generated_tokens;
}

void ServeMetrics::count_call(double first_token_s, double all_s) {
  std::lock_guard guard(mutex_);
  first_token_.add(first_token_s);
  whole_.add(all_s);
}

void ServeMetrics::count_hung_up() {
  std::lock_guard guard(mutex_);
  ++finished_["abort"];
}

void ServeMetrics::count_response(int status) {
  std::lock_guard guard(mutex_);
  ++responses_[status];
}

std::string ServeMetrics::text(const Gauges& gauges) const {
  const std::string label = fmt::format("model_name=\"{}\"", escaped_label(model_name_));
  std::string out;
  const auto head = [&](const char* name, const char* type, const char* what) { out += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, what, name, type); };
  const auto one = [&](const char* name, const char* type, const char* what, int64_t value) {
    head(name, type, what);
    out += fmt::format("{}{{{}}} {}\n", name, label, value);
  };
  const auto histogram = [&](const char* name, const char* what, const Histogram& of) {
    head(name, "histogram", what);
    int64_t sum = 0;
    for (size_t i = 0; i < kBounds.size(); ++i) out += fmt::format("{}_bucket{{{},le=\"{}\"}} {}\n", name, label, kBounds[i], sum += of.counts[i]);
    sum += of.counts.back();
    out += fmt::format("{}_bucket{{{},le=\"+Inf\"}} {}\n{}_sum{{{}}} {}\n{}_count{{{}}} {}\n", name, label, sum, name, label, of.sum, name, label, sum);
  };
  std::lock_guard guard(mutex_);
  one("vllm:num_requests_running", "gauge", "Sequences of calls that have a slot.", gauges.running);
  one("vllm:num_requests_waiting", "gauge", "Sequences of calls that wait for one.", gauges.waiting);
  one("vllm:prompt_tokens_total", "counter", "Prompt tokens of sequences that are done.", prompt_tokens_);
  one("vllm:generation_tokens_total", "counter", "Tokens that they generated.", generated_tokens_);
  one("vllm:prefix_cache_hits_total", "counter", "Of the prompt tokens, those that were in the cache.", cached_tokens_);
  one("vllm:prefix_cache_queries_total", "counter", "Prompt tokens that were looked for there.", prompt_tokens_);
  head("vllm:request_success_total", "counter", "Sequences, by what ended them; abort: calls whose client has hung up.");
  for (const auto& [reason, count] : finished_) out += fmt::format("vllm:request_success_total{{finished_reason=\"{}\",{}}} {}\n", reason, label, count);
  histogram("vllm:time_to_first_token_seconds", "From a call to its first token.", first_token_);
  histogram("vllm:e2e_request_latency_seconds", "From a call to the end of its answer.", whole_);
  head("flexgen:http_responses_total", "counter", "Responses, by status.");
  for (const auto& [status, count] : responses_) out += fmt::format("flexgen:http_responses_total{{status=\"{}\"}} {}\n", status, count);
  head("flexgen:connections", "gauge", "Connections that are open.");
  out += fmt::format("flexgen:connections {}\n", gauges.connections);
  return out;
}

}  // namespace flexgen
