#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

namespace flexgen {

void setup_logging(bool verbose) {
  auto logger = std::make_shared<spdlog::logger>(
      "flexgen", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  logger->set_pattern("%^%l:%$ %v");
  logger->set_level(verbose ? spdlog::level::debug : spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace flexgen
