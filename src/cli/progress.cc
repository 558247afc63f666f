#include "cli/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "base/log.h"
#include "base/report.h"
#include "base/thread.h"
#include "base/units.h"

namespace flexgen {
namespace {

constexpr double kBarInterval_s = 0.25;
constexpr double kBarWindow_s = 5;  // the bottleneck of a bar is that of the last seconds
constexpr int kUnknownWidth = 80;
constexpr size_t kLeastCells = 10, kMostCells = 40;

double share_of(int64_t done, double total) { return total > 0 ? std::min(1.0, static_cast<double>(done) / total) : 0; }

double share_done(const Progress& progress) {
  const double prompts = progress.prompts_share;
  const double by_tokens =
      prompts < 0 ? share_of(progress.prompt_tokens_done + progress.generated_tokens_done, progress.prompt_tokens_total + progress.generated_tokens_total)
                  : prompts * share_of(progress.prompt_tokens_done, progress.prompt_tokens_total) +
                        (1 - prompts) * share_of(progress.generated_tokens_done, progress.generated_tokens_total);
  double by_sequences = progress.sequences_total > 0 ? static_cast<double>(progress.sequences_done) / static_cast<double>(progress.sequences_total) : 0;
  return std::clamp(std::max(by_tokens, by_sequences), 0.0, 1.0);
}

/// With what earlier runs of the job have done.
double share_of_job(const Progress& progress) {
  const auto before = static_cast<double>(progress.sequences_before), total = static_cast<double>(progress.sequences_total);
  return before + total > 0 ? (before + share_done(progress) * total) / (before + total) : 0;
}

int64_t rate(double amount, double seconds) { return seconds > 0 ? std::llround(amount / seconds) : 0; }

std::string eta(const Progress& progress) {
  double left = seconds_left(progress);
  return left < 0 ? "?" : format_duration(std::ceil(left));
}

std::string bandwidth(double bytes_per_s) { return fmt::format("{:.2f} GB/s", bytes_per_s / 1e9); }

}  // namespace

LaneLoad bottleneck(const Progress& before, const Progress& now) {
  LaneLoad busiest;
  double elapsed = now.elapsed_s - before.elapsed_s;
  if (!(elapsed > 0)) return busiest;
  for (const LaneReport& lane : now.lanes) {
    LaneStats old;
    for (const LaneReport& other : before.lanes)
      if (other.kind == lane.kind && other.rank == lane.rank) old = other.stats;
    double busy = std::clamp((lane.stats.busy_s - old.busy_s) / elapsed, 0.0, 1.0);
    if (busy > busiest.busy) busiest = {lane.name(), busy, (lane.stats.bytes - old.bytes) / elapsed};
  }
  return busiest;
}

double seconds_left(const Progress& progress) {
  double done = share_done(progress);
  if (!(done > 0)) return -1;
  return progress.elapsed_s * (1 - done) / done;
}

std::string progress_bar(const Progress& before, const Progress& now, int width) {
  const double done = share_of_job(now);
  const std::string percent = fmt::format("{:3.0f}%", std::floor(done * 100)), left = "  ETA " + eta(now);
  std::string count = fmt::format("  {}/{}", now.sequences_before + now.sequences_done, now.sequences_before + now.sequences_total);
  std::string rates = fmt::format("  {} prompt + {} generated tok/s", format_count(rate(static_cast<double>(now.prompt_tokens_done), now.elapsed_s)),
                                  format_count(rate(static_cast<double>(now.generated_tokens_done), now.elapsed_s)));
  const LaneLoad lane = bottleneck(before, now);
  std::string busy = lane.name.empty() ? "" : fmt::format("  {} {:.0f}%", lane.name, lane.busy * 100);
  // What goes first where there is no room; the bar takes what is left.
  const auto columns = static_cast<size_t>(std::max(0, width));
  auto size = [&] { return percent.size() + count.size() + rates.size() + left.size() + busy.size(); };
  for (std::string* part : {&busy, &rates, &count})
    if (size() + kLeastCells + 3 > columns) part->clear();
  std::string bar;
  if (size() + kLeastCells + 3 <= columns) {
    const size_t cells = std::min(columns - size() - 3, kMostCells), filled = static_cast<size_t>(done * static_cast<double>(cells));
    bar = "[" + std::string(filled, '#') + std::string(cells - filled, '-') + "] ";
  }
  std::string text = bar + percent + count + rates + left + busy;
  if (text.size() > columns) text = left.substr(2);
  if (text.size() > columns) text.resize(columns);
  return text;
}

std::string progress_line(const Progress& before, const Progress& now) {
  std::string text =
      fmt::format("{} of {} sequences done; {} prompt and {} generated tokens/s; {} left", format_count(now.sequences_before + now.sequences_done),
                  format_count(now.sequences_before + now.sequences_total), format_count(rate(static_cast<double>(now.prompt_tokens_done), now.elapsed_s)),
                  format_count(rate(static_cast<double>(now.generated_tokens_done), now.elapsed_s)), eta(now));
  LaneLoad lane = bottleneck(before, now);
  if (!lane.name.empty()) {
    text += fmt::format("; bottleneck {} ({:.0f}% busy", lane.name, lane.busy * 100);
    if (lane.bytes_per_s > 0) text += ", " + bandwidth(lane.bytes_per_s);
    text += ")";
  }
  return text;
}

std::string report_table(const RunReport& report) {
  auto row = [](std::string_view name, std::string_view amount, std::string_view speed) {
    std::string line = fmt::format("  {:<20}{:>14}   {}", name, amount, speed);
    line.erase(line.find_last_not_of(' ') + 1);
    return line + "\n";
  };
  auto per_s = [&](int64_t tokens) { return fmt::format("{:.1f} tokens/s", report.elapsed_s > 0 ? static_cast<double>(tokens) / report.elapsed_s : 0.0); };
  std::string table = row("sequences", format_count(report.sequences), report.stopped ? "stopped before the end" : "");
  table += row("prompt tokens", format_count(report.prompt_tokens), per_s(report.prompt_tokens));
  if (report.shared_prompt_tokens > 0)
    table += row("  of these shared", format_count(report.shared_prompt_tokens),
                 fmt::format("{} computed", format_count(report.prompt_tokens - report.shared_prompt_tokens)));
  table += row("generated tokens", format_count(report.generated_tokens), per_s(report.generated_tokens));
  table += row("time", format_duration(report.elapsed_s), "");
  for (const LaneReport& lane : report.lanes) {
    if (lane.stats.operations == 0) continue;
    double share = report.elapsed_s > 0 ? std::min(1.0, lane.stats.busy_s / report.elapsed_s) : 0;
    std::string moved;
    if (lane.stats.bytes > 0 && lane.stats.busy_s > 0)
      moved = fmt::format("{} at {}", format_bytes(std::llround(lane.stats.bytes)), bandwidth(lane.stats.bytes / lane.stats.busy_s));
    table += row(lane.name(), fmt::format("{:.0f}% busy", share * 100), moved);
  }
  return table;
}

ProgressDisplay::ProgressDisplay(Poll poll, double line_interval_s)
    : ProgressDisplay(std::move(poll), line_interval_s, shows_notes() ? STDERR_FILENO : -1, can_redraw(STDERR_FILENO)) {}

ProgressDisplay::ProgressDisplay(Poll poll, double line_interval_s, int descriptor, bool terminal)
    : poll_(std::move(poll)), line_interval_s_(line_interval_s), descriptor_(descriptor), terminal_(terminal) {
  if (descriptor >= 0) thread_ = start_thread("the progress display", [this] { loop(); });
}

ProgressDisplay::~ProgressDisplay() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void ProgressDisplay::loop() {
  Progress before;
  auto interval = std::chrono::duration<double>(terminal_ ? kBarInterval_s : line_interval_s_);
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, interval, [&] { return closing_; })) {
    Progress now = poll_();
    if (now.sequences_total == 0) continue;  // not begun, or over
    if (terminal_) {
      const int width = terminal_width(descriptor_);
      draw_over(descriptor_, progress_bar(before, now, (width > 0 ? width : kUnknownWidth) - 1));
      if (now.elapsed_s - before.elapsed_s > 2 * kBarWindow_s) before = now;
    } else {
      write_if_possible(descriptor_, time_stamp() + progress_line(before, now) + "\n");
      before = now;
    }
  }
  if (terminal_) draw_over(descriptor_, "");
}

}  // namespace flexgen
