// The page of a plan: inline SVG, no script, no other file.

#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/format.h>

#include "app/plan_report.h"
#include "base/units.h"

namespace flexgen {
namespace {

std::string escaped(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '&') out += "&amp;";
    else if (c == '"') out += "&quot;";
    else out += c;
  }
  return out;
}

/// Axes with logarithmic scales and points on them.
class Chart {
 public:
  Chart(std::string x_name, std::string y_name) : x_name_(std::move(x_name)), y_name_(std::move(y_name)) {}
  struct Point {
    double x, y;
    std::string label;
    bool chosen = false;
  };
  std::vector<Point> points, line;

  std::string svg() const {
    std::vector<Point> all = points;
    all.insert(all.end(), line.begin(), line.end());
    if (all.empty()) return "<p>nothing to show</p>";
    auto [x_low, x_high] = range(all, &Point::x);
    auto [y_low, y_high] = range(all, &Point::y);
    auto x_of = [&, low = x_low, high = x_high](double x) { return kLeft + (std::log(x) - std::log(low)) / (std::log(high) - std::log(low)) * (kWidth - kLeft - 20); };
    auto y_of = [&, low = y_low, high = y_high](double y) { return kHeight - kBottom - (std::log(y) - std::log(low)) / (std::log(high) - std::log(low)) * (kHeight - kBottom - 20); };
    std::string out = fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\">", kWidth, kHeight);
    for (double x : ticks(x_low, x_high))
      out += fmt::format("<line class=\"grid\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"20\" y2=\"{1}\"/><text x=\"{0:.1f}\" y=\"{2}\" text-anchor=\"middle\">{3}</text>", x_of(x), kHeight - kBottom, kHeight - kBottom + 16, number(x));
    for (double y : ticks(y_low, y_high))
      out += fmt::format("<line class=\"grid\" x1=\"{1}\" x2=\"{2}\" y1=\"{0:.1f}\" y2=\"{0:.1f}\"/><text x=\"{3}\" y=\"{4:.1f}\" text-anchor=\"end\">{5}</text>", y_of(y), kLeft, kWidth - 20, kLeft - 6, y_of(y) + 4, number(y));
    out += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>", (kLeft + kWidth) / 2, kHeight - 4, escaped(x_name_));
    out += fmt::format("<text transform=\"translate(12 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>", kHeight / 2, escaped(y_name_));
    if (line.size() > 1) {
      out += "<polyline points=\"";
      for (const Point& point : line) out += fmt::format("{:.1f},{:.1f} ", x_of(point.x), y_of(point.y));
      out += "\"/>";
    }
    for (const Point& point : points)
      out += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\" class=\"{}\"><title>{}</title></circle>", x_of(point.x), y_of(point.y), point.chosen ? 6 : 3, point.chosen ? "chosen" : "other", escaped(point.label));
    return out + "</svg>";
  }

 private:
  static constexpr int kWidth = 640, kHeight = 320, kLeft = 60, kBottom = 40;
  static std::pair<double, double> range(const std::vector<Point>& points, double Point::* member) {
    double low = 1e300, high = 0;
    for (const Point& point : points) {
      low = std::min(low, point.*member);
      high = std::max(high, point.*member);
    }
    return {low / 1.15, high * 1.15};
  }
  static std::vector<double> ticks(double low, double high) {
    std::vector<double> ticks;
    const bool wide = high / low > 30;
    for (double decade = std::pow(10, std::floor(std::log10(low))); decade <= high; decade *= 10)
      for (double step : {1.0, 2.0, 5.0})
        if (decade * step >= low && decade * step <= high && (!wide || step == 1.0 || high / low < 300)) ticks.push_back(decade * step);
    return ticks;
  }
  static std::string number(double value) { return value >= 1000 ? format_count(std::llround(value)) : fmt::format("{:.3g}", value); }

  std::string x_name_, y_name_;
};

std::string lane_bars(const Prediction& predicted) {
  constexpr int kWidth = 640, kRow = 26, kLeft = 100;
  std::string out = fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\">", kWidth, kRow * (kNumLaneKinds + 1));
  auto bar = [&](int row, const std::string& name, double seconds, const char* style) {
    const double width = seconds / predicted.time_s * (kWidth - kLeft - 130);
    out += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><rect class=\"{}\" x=\"{}\" y=\"{}\" width=\"{:.1f}\" height=\"16\"/><text x=\"{:.1f}\" y=\"{}\">{} ({:.0f}%)</text>", kLeft - 8,
                       row * kRow + 17, name, style, kLeft, row * kRow + 5, std::max(width, 1.0), kLeft + width + 6, row * kRow + 17, format_duration(seconds), 100 * seconds / predicted.time_s);
  };
  bar(0, "job", predicted.time_s, "job");
  for (int lane = 0; lane < kNumLaneKinds; ++lane) bar(lane + 1, lane_name(static_cast<LaneKind>(lane)), predicted.busy.seconds[static_cast<size_t>(lane)], "lane");
  return out + "</svg>";
}

}  // namespace

std::string report_page(const PlanReport& report, const PlanInput& input, const std::string& title) {
  const double tokens = std::max(1.0, input.workload.total_generated_tokens);
  const auto sequences = static_cast<double>(std::max<int64_t>(1, input.workload.num_sequences));
  Chart over_block("sequences in the block", "generated tokens/s"), frontier("seconds from a sequence's first token to its last", "generated tokens/s");
  std::map<int64_t, Chart::Point> best_of_block;
  std::vector<Chart::Point> by_latency;
  for (const Candidate& candidate : report.plan.candidates) {
    const bool chosen = candidate.time_s == report.plan.prediction.time_s;
    const auto block = static_cast<double>(candidate.policy.block_size());
    // A slot serves one sequence after the other: a sequence stays for block / sequences of the job (Little's law).
    const double latency_s = candidate.time_s * std::min(1.0, block / sequences);
    const std::string label = policy_text(candidate.policy) + ": " + format_duration(candidate.time_s);
    over_block.points.push_back({block, tokens / candidate.time_s, label, chosen});
    by_latency.push_back({latency_s, tokens / candidate.time_s, label, chosen});
    auto [entry, is_new] = best_of_block.try_emplace(candidate.policy.block_size(), over_block.points.back());
    if (!is_new && entry->second.y < over_block.points.back().y) entry->second = over_block.points.back();
  }
  for (const auto& [block, point] : best_of_block) over_block.line.push_back(point);
  std::sort(by_latency.begin(), by_latency.end(), [](const auto& a, const auto& b) { return a.x < b.x; });
  for (const Chart::Point& point : by_latency)
    if (frontier.line.empty() || point.y > frontier.line.back().y) frontier.line.push_back(point);
  frontier.points = std::move(by_latency);

  std::string text = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>flexgen plan: " + escaped(title) + "</title><style>"
      "body{font:15px/1.45 system-ui,sans-serif;max-width:760px;margin:2em auto;padding:0 1em;color:#222}svg{width:100%;height:auto}"
      "svg text{font-size:12px;fill:#444}.grid{stroke:#ddd}polyline{fill:none;stroke:#27c;stroke-width:2}circle.other{fill:#9bd}circle.chosen{fill:#d40}"
      "rect.lane{fill:#27c}rect.job{fill:#bbb}pre{background:#f6f6f6;padding:1em;overflow-x:auto;font-size:13px}</style>";
  text += "<h1>" + escaped(title) + "</h1><p>" + escaped(policy_text(report.plan.policy)) + "</p>";
  text += "<h2>Lanes</h2>" + lane_bars(report.plan.prediction);
  text += "<h2>Throughput over block size</h2><p>Every policy that was looked at; the line is the best of each block, the large dot the plan.</p>" + over_block.svg();
  text += "<h2>Throughput against latency</h2><p>The line is what no other policy betters in both.</p>" + frontier.svg();
  text += "<h2>In words</h2><pre>" + escaped(report_text(report, input)) + "</pre></html>\n";
  return text;
}

}  // namespace flexgen
