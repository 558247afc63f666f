// Direct disk reads by both engines of AsyncDisk beside fio, in one run, on a file that is really written:
//   io_bench FOLDER [SIZE]        (SIZE like 4GiB, the default; the file is deleted again)
// Prints one JSON object: GB/s and CPU seconds per GB, and the ratio to fio where fio is installed.

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <latch>
#include <nlohmann/json.hpp>
#include <random>
#include <vector>

#include "base/error.h"
#include "base/units.h"
#include "io/aligned_buffer.h"
#include "io/async_disk.h"
#include "io/checked_json.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;

constexpr int64_t kPieceBytes = 4 * kMiB;
constexpr int kDepth = 16;

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) { return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec); };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

struct Rate {
  double gb_per_s, cpu_s_per_gb;
};

/// Moves the whole file once, a few pieces in flight, each submitted when the one before in its buffer is over.
Rate pass(AsyncDisk& disk, const std::shared_ptr<File>& file, bool write, int64_t size) {
  constexpr size_t kBuffers = 2 * kDepth * kMiB / kPieceBytes;
  std::vector<AlignedBuffer> buffers;
  std::mt19937_64 random(1);
  for (size_t i = 0; i < kBuffers; ++i) {
    buffers.emplace_back(kPieceBytes);
    auto* words = reinterpret_cast<uint64_t*>(buffers.back().data());
    for (int64_t w = 0; w < kPieceBytes / 8; ++w) words[w] = random();  // nothing a disk could compress
  }
  std::atomic<int64_t> next = 0;
  std::latch left(static_cast<ptrdiff_t>(size / kPieceBytes));
  std::function<void(size_t)> submit = [&](size_t buffer) {
    const int64_t at = next.fetch_add(kPieceBytes);
    if (at + kPieceBytes > size) return;
    disk.submit({file, write, at, buffers[buffer].data(), kPieceBytes, [&, buffer](std::exception_ptr error) {
                   if (error) std::rethrow_exception(error);
                   submit(buffer);
                   left.count_down();
                 }});
  };
  const auto start = std::chrono::steady_clock::now();
  const double cpu_start = cpu_seconds();
  for (size_t i = 0; i < kBuffers; ++i) submit(i);
  left.wait();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const double gb = static_cast<double>(size) / 1e9;
  return {gb / seconds, (cpu_seconds() - cpu_start) / gb};
}

/// GB/s of fio's direct read of the file; 0 where there is no fio.
double fio_gb_per_s(const std::string& path) {
  const std::string command = fmt::format(
      "fio --name=read --filename='{}' --rw=read --bs=1M --direct=1 --ioengine=io_uring "
      "--iodepth={} --readonly --output-format=json 2>/dev/null",
      path, kDepth);
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return 0;
  std::string text(1 << 16, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), pipe));
  pclose(pipe);
  const Json json = json_or_none(text.substr(std::min(text.find('{'), text.size())));
  if (!json.is_object()) return 0;
  return json["jobs"][0]["read"]["bw_bytes"].get<double>() / 1e9;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

int bench(const std::string& folder, int64_t size) {
  size = round_down(size, kPieceBytes);
  const std::string path = folder + "/flexgen_io_bench.data";
  struct Delete {
    std::string path;
    ~Delete() { ::unlink(path.c_str()); }
  } cleanup{path};
  using Engine = AsyncDiskOptions::Engine;
  Json result;
  {
    auto file = File::open(path, FileMode::kWriteDirect);
    file->preallocate(size);
    auto disk = AsyncDisk::make({Engine::kAuto, kDepth});
    result["write_gb_per_s"] = pass(*disk, file, true, size).gb_per_s;
  }
  // In turns, as a disk's speed drifts.
  constexpr int kRounds = 7;
  std::vector<double> fio, ratios[2], rates[2], costs[2];
  const std::string names[2] = {"auto", "threads"};
  for (int round = 0; round < kRounds; ++round) {
    fio.push_back(fio_gb_per_s(path));
    for (int e = 0; e < 2; ++e) {
      auto file = File::open(path, FileMode::kReadDirect);
      auto disk = AsyncDisk::make({e == 0 ? Engine::kAuto : Engine::kThreads, kDepth});
      const Rate rate = pass(*disk, file, false, size);
      rates[e].push_back(rate.gb_per_s);
      costs[e].push_back(rate.cpu_s_per_gb);
      if (fio.back() > 0) ratios[e].push_back(rate.gb_per_s / fio.back());
      result[names[e]]["engine"] = disk->engine_name();
      result["direct"] = file->direct();
    }
  }
  if (median(fio) > 0) result["fio_gb_per_s"] = fio;
  for (int e = 0; e < 2; ++e) {
    Json& entry = result[names[e]];
    entry["read_gb_per_s"] = rates[e];
    entry["cpu_s_per_gb"] = median(costs[e]);
    if (!ratios[e].empty()) entry["ratio_to_fio"] = median(ratios[e]);
  }
  std::puts(result.dump(2).c_str());
  return 0;
}

}  // namespace
}  // namespace flexgen

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) {
    std::fprintf(stderr, "usage: io_bench FOLDER [SIZE]\n");
    return 2;
  }
  try {
    return flexgen::bench(argv[1], argc == 3 ? flexgen::parse_size_bytes(argv[2]) : 4 * flexgen::kGiB);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "io_bench: %s\n", error.what());
    return 1;
  }
}
