// The page of a plan, and its picture: inline SVG, no script, no other file.

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
#include <vector>

#include <fmt/format.h>

#include "base/units.h"
#include "cli/plan_report.h"
#include "cli/policy_text.h"

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
    if (all.empty()) return "<p>There is nothing to show.</p>";
    auto [x_low, x_high] = range(all, &Point::x);
    auto [y_low, y_high] = range(all, &Point::y);
    auto x_of = [&, low = x_low, high = x_high](double x) {
      return kLeft + (std::log(x) - std::log(low)) / (std::log(high) - std::log(low)) * (kWidth - kLeft - 20);
    };
    auto y_of = [&, low = y_low, high = y_high](double y) {
      return kHeight - kBottom - (std::log(y) - std::log(low)) / (std::log(high) - std::log(low)) * (kHeight - kBottom - 20);
    };
    std::string out = fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{} over {}\">", kWidth, kHeight, escaped(y_name_), escaped(x_name_));
    for (double x : ticks(x_low, x_high))
      out += fmt::format(
          "<line class=\"grid\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"20\" y2=\"{1}\"/><text x=\"{0:.1f}\" y=\"{2}\" text-anchor=\"middle\">{3}</text>", x_of(x),
          kHeight - kBottom, kHeight - kBottom + 16, number(x));
    for (double y : ticks(y_low, y_high))
      out +=
          fmt::format("<line class=\"grid\" x1=\"{1}\" x2=\"{2}\" y1=\"{0:.1f}\" y2=\"{0:.1f}\"/><text x=\"{3}\" y=\"{4:.1f}\" text-anchor=\"end\">{5}</text>",
                      y_of(y), kLeft, kWidth - 20, kLeft - 6, y_of(y) + 4, number(y));
    out += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>", (kLeft + kWidth) / 2, kHeight - 4, escaped(x_name_));
    out += fmt::format("<text transform=\"translate(12 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>", kHeight / 2, escaped(y_name_));
    if (line.size() > 1) {
      out += "<polyline points=\"";
      for (const Point& point : line) out += fmt::format("{:.1f},{:.1f} ", x_of(point.x), y_of(point.y));
      out += "\"/>";
    }
    for (const Point& point : points)
      out += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\" class=\"{}\"><title>{}</title></circle>", x_of(point.x), y_of(point.y),
                         point.chosen ? 6 : 3, point.chosen ? "chosen" : "other", escaped(point.label));
    return out + "</svg>";
  }

 private:
  static constexpr int kWidth = 480, kHeight = 280, kLeft = 62, kBottom = 40;
  static std::pair<double, double> range(const std::vector<Point>& points, double Point::*member) {
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

/// What the pictures share; dark where the reader's system is.
constexpr const char* kStyle =
    "svg,body{--ink:#222;--pale:#555;--line:#ddd;--paper:#fff;--panel:#f4f4f4;--blue:#2277cc;--red:#d44000;--grey:#b5b5b5}"
    "@media(prefers-color-scheme:dark){svg,body{--ink:#e6e6e6;--pale:#b0b0b0;--line:#444;--paper:#16181b;--panel:#22252a;--blue:#5aa5ee;--red:#ff8a50;--grey:#6a6a6a}}"
    "svg text{font:12px system-ui,sans-serif;fill:var(--pale)}svg .title{font-size:17px;font-weight:600;fill:var(--ink)}.paper{fill:var(--paper)}.grid{stroke:var(--line)}"
    "polyline{fill:none;stroke:var(--blue);stroke-width:2}circle.other{fill:var(--blue);opacity:.45}circle.chosen{fill:var(--red)}"
    ".lane{fill:var(--blue)}.busiest{fill:var(--red)}.free{fill:none;stroke:var(--grey)}"
    ".part0{fill:#2277cc}.part1{fill:#e08a00}.part2{fill:#3a9a50}.part3{fill:#c0448f}.part4{fill:#7a5cc8}.part5{fill:#1fa0a0}.part6{fill:#a07840}.part7{fill:#888}";
constexpr int kNumPartColors = 8;

const char* lane_words(LaneKind kind, const Policy& policy) {
  switch (kind) {
    case LaneKind::kCompute: return policy.on_gpu() ? "GPU" : "processor";
    case LaneKind::kDiskRead: return "disk, reads";
    case LaneKind::kDiskLookup: return "disk, look-ups";
    case LaneKind::kDiskWrite: return "disk, writes";
    case LaneKind::kH2d: return "bus to the GPU";
    case LaneKind::kD2h: return "bus from the GPU";
    case LaneKind::kCpu: return "processor";
    default: return "";  // plans have no time for the others
  }
}

/// What a lane belongs to, with its article.
const char* part_of_machine(LaneKind kind, const Policy& policy) {
  switch (kind) {
    case LaneKind::kCompute: return policy.on_gpu() ? "the GPU" : "the processor";
    case LaneKind::kH2d:
    case LaneKind::kD2h: return "the bus to the GPU";
    case LaneKind::kCpu: return "the processor";
    default: return "the disk";
  }
}

/// Bars drawn one below the other, in a picture that is as wide as a telephone at least.
class Bars {
 public:
  void title(const std::string& text) {
    height_ += 26;
    out_ += fmt::format("<text class=\"title\" x=\"0\" y=\"{}\">{}</text>", height_ - 6, escaped(text));
  }
  void heading(const std::string& text) {
    height_ += 24;
    out_ += fmt::format("<text x=\"0\" y=\"{}\">{}</text>", height_ - 6, escaped(text));
  }
  /// A bar with a name before it and its figure after it; `share` of the whole width.
  void bar(const std::string& name, double share, const std::string& figure, const char* style) {
    const double width = std::max(1.0, std::clamp(share, 0.0, 1.0) * (kWidth - kNames - kFigures));
    out_ += fmt::format(
        "<g><title>{0}: {1}</title><text x=\"{2}\" y=\"{3}\" text-anchor=\"end\">{0}</text><rect class=\"{4}\" x=\"{5}\" y=\"{6}\" width=\"{7:.1f}\" height=\"16\" rx=\"2\"/><text x=\"{8:.1f}\" y=\"{3}\">{1}</text></g>",
        escaped(name), escaped(figure), kNames - 8, height_ + 16, style, kNames, height_ + 4, width, kNames + width + 6);
    height_ += 24;
  }
  struct Part {
    std::string name;
    int64_t bytes;
  };
  /// One bar of parts, of `whole` bytes, with what each is below it.
  void stack(const std::vector<Part>& parts, int64_t whole) {
    double x = 0;
    out_ += fmt::format("<rect class=\"free\" x=\"0.5\" y=\"{}\" width=\"{}\" height=\"17\" rx=\"2\"/>", height_ + 2.5, kWidth - 1);
    for (size_t i = 0; i < parts.size(); ++i) {
      const double width = static_cast<double>(parts[i].bytes) / static_cast<double>(std::max<int64_t>(1, whole)) * kWidth;
      out_ += fmt::format("<rect class=\"part{}\" x=\"{:.1f}\" y=\"{}\" width=\"{:.1f}\" height=\"18\"><title>{}: {}</title></rect>", i % kNumPartColors, x,
                          height_ + 2, std::max(0.5, width), escaped(parts[i].name), format_bytes(parts[i].bytes));
      x += width;
    }
    height_ += 24;
    for (size_t i = 0; i < parts.size(); ++i) {
      const int left = i % 2 == 0 ? 0 : kWidth / 2;
      out_ += fmt::format("<rect class=\"part{}\" x=\"{}\" y=\"{}\" width=\"10\" height=\"10\"/><text x=\"{}\" y=\"{}\">{} {}</text>", i % kNumPartColors, left,
                          height_ + 3, left + 15, height_ + 12, escaped(parts[i].name), format_bytes(parts[i].bytes));
      if (i % 2 == 1 || i + 1 == parts.size()) height_ += 18;
    }
  }
  /// What has been drawn, below `head` (a style, a title), with a margin around it.
  std::string svg(const std::string& attributes, const std::string& head, int margin = 0) const {
    return fmt::format("<svg viewBox=\"{0} {0} {1} {2}\" role=\"img\" {3}>{4}{5}</svg>", -margin, kWidth + 2 * margin, height_ + 4 + 2 * margin, attributes,
                       head, out_);
  }

 private:
  static constexpr int kWidth = 480, kNames = 110, kFigures = 105;
  std::string out_;
  int height_ = 0;
};

void draw_lanes(const PlanReport& report, Bars* bars) {
  const Prediction& predicted = report.plan.prediction;
  bars->bar("the job", 1, format_duration(predicted.time_s), "free");
  for (size_t lane = 0; lane < kNumPlannedLanes; ++lane) {
    const auto kind = static_cast<LaneKind>(lane);
    const double busy_s = predicted.busy[kind];
    if (busy_s <= 0) continue;  // the machine lacks it, or the job does not need it
    bars->bar(lane_words(kind, report.plan.policy), busy_s / predicted.time_s,
              fmt::format("{} ({:.0f}%)", format_duration(busy_s), 100 * busy_s / predicted.time_s), kind == predicted.busy.busiest() ? "busiest" : "lane");
  }
}

void draw_memory(const PlanReport& report, const PlanInput& input, Bars* bars) {
  for (auto [tier, name, budget] : {std::tuple{Tier::kGpu, "GPU memory", input.budgets.gpu_bytes},
                                    {Tier::kCpu, "RAM", input.budgets.cpu_bytes},
                                    {Tier::kDisk, "Disk, spilled data", input.budgets.disk_bytes}}) {
    const int64_t used = report.memory.bytes(tier);
    if (used == 0) continue;
    std::vector<Bars::Part> parts;
    for (const MemoryItem& item : report.memory.items)
      if (item.tier == tier && item.bytes > 0) parts.push_back({item.name, item.bytes});
    std::stable_sort(parts.begin(), parts.end(), [](const Bars::Part& a, const Bars::Part& b) { return a.bytes > b.bytes; });
    bars->heading(fmt::format("{}: {} of {}", name, format_bytes(used), format_bytes(std::max(used, budget))));
    bars->stack(parts, std::max(used, budget));
  }
}

/// The gains that are worth a change, the largest first.
std::string help_list(const PlanReport& report) {
  std::string items;
  for (const WhatIf& change : report.what_ifs)
    if (change.helps(report.plan.prediction.time_s))
      items += fmt::format("<li><b>{}</b>: {} ({:.1f} times as fast)</li>", escaped(change.change), format_duration(change.time_s),
                           report.plan.prediction.time_s / change.time_s);
  return items.empty() ? "<p>Nothing of what was tried: more RAM, a faster disk, faster matrix products, fewer bits.</p>" : "<ul>" + items + "</ul>";
}

/// Every policy that was looked at, over its block and over its latency.
struct Charts {
  Chart over_block{"sequences in the block", "generated tokens/s"}, frontier{"seconds from a sequence's first token to its last", "generated tokens/s"};
};

Charts charts_of(const PlanReport& report, const PlanInput& input) {
  const double tokens = std::max(1.0, input.workload.total_generated_tokens);
  const auto sequences = static_cast<double>(std::max<int64_t>(1, input.workload.num_sequences));
  Charts charts;
  std::map<int64_t, Chart::Point> best_of_block;
  std::vector<Chart::Point> by_latency;
  for (const Candidate& candidate : report.plan.candidates) {
    const bool chosen = candidate.time_s == report.plan.prediction.time_s;
    const auto block = static_cast<double>(candidate.policy.block_size());
    // A slot serves one sequence after the other: a sequence stays for block / sequences of the job (Little's law).
    const double latency_s = candidate.time_s * std::min(1.0, block / sequences);
    const std::string label = policy_text(candidate.policy) + ": " + format_duration(candidate.time_s);
    charts.over_block.points.push_back({block, tokens / candidate.time_s, label, chosen});
    by_latency.push_back({latency_s, tokens / candidate.time_s, label, chosen});
    auto [entry, is_new] = best_of_block.try_emplace(candidate.policy.block_size(), charts.over_block.points.back());
    if (!is_new && entry->second.y < charts.over_block.points.back().y) entry->second = charts.over_block.points.back();
  }
  for (const auto& [block, point] : best_of_block) charts.over_block.line.push_back(point);
  std::sort(by_latency.begin(), by_latency.end(), [](const auto& a, const auto& b) { return a.x < b.x; });
  for (const Chart::Point& point : by_latency)
    if (charts.frontier.line.empty() || point.y > charts.frontier.line.back().y) charts.frontier.line.push_back(point);
  charts.frontier.points = std::move(by_latency);

  return charts;
}

}  // namespace

std::string headline(const PlanReport& report) {
  const Prediction& predicted = report.plan.prediction;
  const LaneKind busiest = predicted.busy.busiest();
  const double share = predicted.busy[busiest] / predicted.time_s;
  constexpr double kBound = 0.7;  // below it no part of the machine is busy all the time
  const char* part = part_of_machine(busiest, report.plan.policy);
  return format_duration(predicted.time_s) +
         (share >= kBound ? fmt::format(", bound by {}", part) : fmt::format(", bound by no part of the machine alone ({}: {:.0f}% busy)", part, 100 * share));
}

std::string report_svg(const PlanReport& report, const PlanInput& input, const std::string& title) {
  constexpr int kMargin = 12;
  Bars bars;
  bars.title(headline(report));
  bars.heading(title);
  draw_lanes(report, &bars);
  draw_memory(report, input, &bars);
  return bars.svg("xmlns=\"http://www.w3.org/2000/svg\" width=\"960\"",
                  fmt::format("<title>flexgen plan: {0}</title><style>{1}</style><rect class=\"paper\" x=\"{2}\" y=\"{2}\" width=\"100%\" height=\"100%\"/>",
                              escaped(title), kStyle, -kMargin),
                  kMargin) +
         "\n";
}

std::string report_page(const PlanReport& report, const PlanInput& input, const std::string& title) {
  Bars lanes, memory;
  draw_lanes(report, &lanes);
  draw_memory(report, input, &memory);
  const Charts charts = charts_of(report, input);
  std::string text =
      "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><meta name=\"color-scheme\" content=\"light dark\">"
      "<title>flexgen plan: " +
      escaped(title) + "</title><style>" + kStyle +
      "body{font:15px/1.5 system-ui,sans-serif;max-width:720px;margin:1.5em auto;padding:0 1em;color:var(--ink);background:var(--paper);overflow-wrap:anywhere}"
      "h1{font-size:1.7em;line-height:1.2;margin:.3em 0}h2{font-size:1.15em;margin:1.6em 0 .4em}.pale{color:var(--pale)}svg{width:100%;height:auto;max-width:640px;display:block}"
      "ul{padding-left:1.2em}pre{background:var(--panel);padding:1em;white-space:pre-wrap;font-size:12.5px}</style>";
  text += "<p class=\"pale\">flexgen plan: " + escaped(title) + "</p><h1>" + escaped(headline(report)) + "</h1>";
  text += fmt::format("<p>{} sequences, {:.1f} generated tokens/s, on the machine of the profile “{}”.</p>", format_count(input.workload.num_sequences),
                      input.workload.total_generated_tokens / report.plan.prediction.time_s, escaped(input.hardware.name));
  if (const std::string sharing = sharing_text(report, input); !sharing.empty()) text += "<p>" + escaped("Of" + sharing.substr(2)) + ".</p>";
  text += "<h2>What would help</h2>" + help_list(report);
  text += "<h2>How long each part of the machine is busy</h2>" + lanes.svg("", "");
  text += "<h2>Memory</h2>" + memory.svg("", "");
  text += "<h2>The plan</h2><p>" + escaped(policy_text(report.plan.policy)) + "</p>";
  text += "<h2>Throughput over block size</h2><p>Every policy that was looked at; the line is the best of each block, the large dot the plan.</p>" +
          charts.over_block.svg();
  text += "<h2>Throughput against latency</h2><p>The line is what no other policy betters in both.</p>" + charts.frontier.svg();
  text += "<h2>In words</h2><pre>" + escaped(report_text(report, input)) + "</pre></html>\n";
  return text;
}

}  // namespace flexgen
