#include "backend/trace.h"

#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "base/error.h"
#include "base/log.h"

namespace flexgen {

Trace::Trace(const std::string& path, const Process& process) : path_(path), file_(std::fopen(path.c_str(), "we")), process_(process) {
  if (!file_)
    fail_io("cannot write the trace to {}: {}; give --trace a writable path", path, std::strerror(errno));
  write("[\n");
  if (!process.name.empty())
    write(fmt::format(R"({{"ph":"M","pid":{},"name":"process_name","args":{{"name":"{}"}}}},)" "\n", process.number, process.name));
}

Trace::~Trace() {
  write("{}]\n");
  if (std::fclose(file_) != 0 && !failed_) spdlog::warn("the trace {} cannot be written whole: {}", path_, std::strerror(errno));
}

void Trace::write(const std::string& text) {
  if (failed_ || std::fwrite(text.data(), 1, text.size(), file_) == text.size()) return;
  failed_ = true;
  spdlog::warn("the trace {} cannot be written: {}; the run goes on without it", path_, std::strerror(errno));
}

void Trace::add(const std::string& lane, const char* name, int64_t step, int64_t layer, int64_t batch,
                double bytes, Clock::time_point start, Clock::time_point end) {
  auto micros = [&](Clock::time_point t) {
    return std::chrono::duration<double, std::micro>(t - origin_).count() + 1e6 * process_.start_s;
  };
  std::lock_guard lock(mutex_);
  auto [track, is_new] = tracks_.try_emplace(lane, static_cast<int>(tracks_.size()) + 1);
  if (is_new)
    write(fmt::format(R"({{"ph":"M","pid":{},"tid":{},"name":"thread_name","args":{{"name":"{}"}}}},)"
                      "\n", process_.number, track->second, lane));
  write(fmt::format(R"({{"ph":"X","pid":{},"tid":{},"name":"{}","ts":{:.1f},"dur":{:.1f},)"
                    R"("args":{{"step":{},"layer":{},"batch":{},"bytes":{:.0f}}}}},)" "\n",
                    process_.number, track->second, name, micros(start), micros(end) - micros(start), step, layer, batch, bytes));
}

}  // namespace flexgen
