#pragma once
// ServeMetrics: what /metrics tells, as Prometheus reads it, under vLLM's names where they mean the same. Thread-safe.

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace flexgen {

class ServeMetrics {
 public:
  explicit ServeMetrics(std::string model_name) : model_name_(std::move(model_name)) {}

  /// A sequence that a client has got.
  void count_sequence(const char* reason, int64_t prompt_tokens, int64_t cached_tokens, int64_t generated_tokens);
  /// A call that was answered whole; times from when it was taken.
  void count_call(double first_token_s, double all_s);
  /// A call whose client has hung up.
  void count_hung_up();
  void count_response(int status);

  /// How things stand now.
  struct Gauges {
    int64_t running = 0, waiting = 0, connections = 0;
  };
  std::string text(const Gauges& gauges) const;

 private:
  static constexpr std::array<double, 16> kBounds{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 640, 2560};  // seconds
  struct Histogram {
    std::array<int64_t, kBounds.size() + 1> counts{};
    double sum = 0;
    void add(double value);
  };

  const std::string model_name_;
  mutable std::mutex mutex_;
  int64_t prompt_tokens_ = 0, cached_tokens_ = 0, generated_tokens_ = 0;
  std::map<std::string, int64_t> finished_{{"stop", 0}, {"length", 0}, {"abort", 0}};
  std::map<int, int64_t> responses_;
  Histogram first_token_, whole_;
};

}  // namespace flexgen
