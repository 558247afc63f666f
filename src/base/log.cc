#include "base/log.h"

#include <fmt/chrono.h>
#include <spdlog/sinks/base_sink.h>
#include <unistd.h>

#include <array>
#include <ctime>
#include <mutex>
#include <string>

#include "base/report.h"

namespace flexgen {
namespace {

/// spdlog's own sink would wait for a pipe that nobody reads, and does not look at NO_COLOR.
class NoteSink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  NoteSink() : color_(can_color(STDERR_FILENO)) {}

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    message.color_range_start = message.color_range_end = 0;
    spdlog::memory_buf_t text;
    formatter_->format(message, text);
    std::string line(text.data(), text.size());
    if (color_ && message.color_range_end > message.color_range_start) {
      // As spdlog colours them: trace, debug, info, warning, error, critical.
      static constexpr std::array<const char*, 7> kColors{"\033[37m", "\033[36m", "\033[32m", "\033[33m\033[1m", "\033[31m\033[1m", "\033[1m\033[41m", ""};
      line.insert(message.color_range_end, "\033[m");
      line.insert(message.color_range_start, kColors[static_cast<size_t>(message.level)]);
    }
    write_note(line);
  }
  void flush_() override {}

 private:
  const bool color_;
};

}  // namespace

void setup_logging(const std::string& level) {
  auto logger = std::make_shared<spdlog::logger>("flexgen", std::make_shared<NoteSink>());
  logger->set_pattern(isatty(STDERR_FILENO) == 1 ? "%^%l:%$ %v" : "%Y-%m-%d %H:%M:%S %^%l:%$ %v");
  logger->set_level(spdlog::level::from_str(level));
  show_notes(logger->should_log(spdlog::level::info));
  spdlog::set_default_logger(std::move(logger));
}

std::string time_stamp() { return fmt::format("{:%Y-%m-%d %H:%M:%S} ", fmt::localtime(std::time(nullptr))); }

}  // namespace flexgen
