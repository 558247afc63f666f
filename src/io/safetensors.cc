// The safetensors format: 8 bytes little-endian header length, a JSON header, the tensors' bytes without holes.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/units.h"
#include "io/checkpoint.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;

/// Bits an element takes; 0 for a dtype the format does not know.
int dtype_bits(const std::string& name) {
  static const std::map<std::string, int> kBits{
      {"F64", 64}, {"I64", 64}, {"U64", 64}, {"C64", 64},    {"F32", 32},     {"I32", 32},     {"U32", 32},
      {"F16", 16}, {"BF16", 16}, {"I16", 16}, {"U16", 16},   {"I8", 8},       {"U8", 8},       {"BOOL", 8},
      {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4}};
  auto found = kBits.find(name);
  return found == kBits.end() ? 0 : found->second;
}

/// Parses with a bound on the nesting (the format has three levels) and without duplicate keys.
Json parse_checked(const std::string& text, const std::string& file_name) {
  std::vector<std::set<std::string>> keys;
  std::string problem;
  auto watch = [&](int depth, Json::parse_event_t event, Json& value) {
    if (depth > 8) problem = "is nested too deep";
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end && !keys.empty()) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.empty() && !keys.back().insert(value.get<std::string>()).second)
      problem = fmt::format("names '{}' twice", value.get<std::string>());
    if (!problem.empty()) throw Error(ErrorKind::kUser, "");
    return true;
  };
  try {
    return Json::parse(text, watch);
  } catch (const Error&) {
    fail_user("{}: the safetensors header {}; the file is broken, fetch it again", file_name, problem);
  } catch (const std::exception& error) {
    fail_user("{}: the safetensors header is not JSON ({}); the file is broken, fetch it again", file_name, error.what());
  }
}

}  // namespace

std::map<std::string, TensorLocation> parse_safetensors_header(const std::string& header, int64_t data_start,
                                                               int64_t file_bytes, const std::string& file_name) {
  Json json = parse_checked(header, file_name);
  if (!json.is_object()) fail_user("{}: the safetensors header is not an object; fetch the file again", file_name);
  const int64_t data_bytes = file_bytes - data_start;
  struct Range {
    int64_t begin, end;
    std::string name;
  };
  std::vector<Range> ranges;
  std::map<std::string, TensorLocation> tensors;
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") {
      bool texts = entry.is_object() && std::all_of(entry.begin(), entry.end(), [](const Json& v) { return v.is_string(); });
      if (!texts) fail_user("{}: __metadata__ of the safetensors header is not a map of strings", file_name);
      continue;
    }
    auto refuse = [&](const std::string& why) {
      fail_user("{}: tensor '{}' {}; the file is broken, fetch it again", file_name, name, why);
    };
    if (!entry.is_object() || !entry.contains("dtype") || !entry["dtype"].is_string() || !entry.contains("shape") ||
        !entry["shape"].is_array() || !entry.contains("data_offsets") || !entry["data_offsets"].is_array() ||
        entry["data_offsets"].size() != 2)
      refuse("has no proper dtype, shape and data_offsets");
    const auto dtype = entry["dtype"].get<std::string>();
    const int bits = dtype_bits(dtype);
    if (bits == 0) refuse(fmt::format("has the unknown dtype '{}'", dtype));
    TensorLocation location;
    int64_t count = 1;
    bool zero = false;
    for (const Json& size : entry["shape"]) {
      if (!size.is_number_unsigned() || size.get<uint64_t>() > (uint64_t{1} << 48)) refuse("has an absurd shape");
      auto dimension = size.get<int64_t>();
      zero = zero || dimension == 0;
      if (dimension > 0 && count > (int64_t{1} << 48) / dimension) refuse("has an absurd shape");
      if (dimension > 0) count *= dimension;
      location.shape.push_back(dimension);
    }
    if (zero) count = 0;
    int64_t range[2];
    for (size_t i = 0; i < 2; ++i) {
      const Json& offset = entry["data_offsets"][i];
      if (!offset.is_number_unsigned() || offset.get<uint64_t>() > static_cast<uint64_t>(std::max<int64_t>(data_bytes, 0)))
        refuse(fmt::format("has data_offsets beyond the end of the file ({} bytes of data)", data_bytes));
      range[i] = offset.get<int64_t>();
    }
    if (range[0] > range[1]) refuse("has data_offsets that run backwards");
    if ((count * bits) % 8 != 0 || range[1] - range[0] != count * bits / 8)
      refuse(fmt::format("takes {} bytes where its shape and dtype {} need {}", range[1] - range[0], dtype, count * bits / 8));
    if (range[1] > range[0]) ranges.push_back({range[0], range[1], name});
    if (dtype != "F32" && dtype != "F16" && dtype != "BF16") continue;  // indexed as absent
    location.dtype = dtype == "F32" ? DType::kF32 : dtype == "F16" ? DType::kF16 : DType::kBF16;
    location.offset = data_start + range[0];
    location.bytes = range[1] - range[0];
    tensors.emplace(name, std::move(location));
  }
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  int64_t end = 0;
  for (const Range& range : ranges) {
    if (range.begin < end) fail_user("{}: tensor '{}' overlaps another; the file is broken, fetch it again", file_name, range.name);
    if (range.begin > end) fail_user("{}: there is a hole before tensor '{}'; the file is broken, fetch it again", file_name, range.name);
    end = range.end;
  }
  if (end != data_bytes)
    fail_user("{}: the header describes {} bytes of tensors, the file holds {}; it is truncated or broken, fetch it again",
              file_name, end, data_bytes);
  return tensors;
}

struct SafetensorsWriter::State {
  static constexpr int64_t kBuffer = 8 * kMiB;
  std::string path, partial;
  int descriptor = -1;
  std::byte* buffer = nullptr;
  int64_t filled = 0, written = 0, total = 0;
  bool direct = false;

  ~State() {
    if (descriptor >= 0) {
      ::close(descriptor);
      ::unlink(partial.c_str());  // close() was not reached: leave nothing that looks like a checkpoint
    }
    std::free(buffer);
  }
  [[noreturn]] void fail(const char* what) const { fail_io("{}: {}: {}", partial, what, std::strerror(errno)); }
  void flush(int64_t bytes) {
    for (int64_t done = 0; done < bytes;) {
      ssize_t n = pwrite(descriptor, buffer + done, static_cast<size_t>(bytes - done), written + done);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail("cannot write");
      done += n;
    }
    written += bytes;
    filled = 0;
  }
  void append(const std::byte* data, int64_t bytes) {
    while (bytes > 0) {
      int64_t size = std::min(bytes, kBuffer - filled);
      std::memcpy(buffer + filled, data, static_cast<size_t>(size));
      filled += size;
      data += size;
      bytes -= size;
      if (filled == kBuffer) flush(kBuffer);
    }
  }
};

SafetensorsWriter::SafetensorsWriter(const std::string& path, const std::vector<TensorToWrite>& tensors)
    : state_(std::make_unique<State>()) {
  nlohmann::ordered_json header;
  int64_t at = 0;
  for (const TensorToWrite& tensor : tensors) {
    int64_t count = 1;
    for (int64_t size : tensor.shape) count *= size;
    int64_t bytes = size_bytes(tensor.dtype, count);
    std::string dtype(dtype_name(tensor.dtype));
    std::transform(dtype.begin(), dtype.end(), dtype.begin(), [](unsigned char c) { return std::toupper(c); });
    header[tensor.name] = {{"dtype", dtype}, {"shape", tensor.shape}, {"data_offsets", {at, at + bytes}}};
    at += bytes;
  }
  std::string text = header.is_null() ? "{}" : header.dump();
  text.resize(static_cast<size_t>(round_up(static_cast<int64_t>(text.size()), 8)), ' ');
  State& state = *state_;
  state.path = path;
  state.partial = path + ".partial";
  state.total = 8 + static_cast<int64_t>(text.size()) + at;
  state.buffer = static_cast<std::byte*>(std::aligned_alloc(4096, static_cast<size_t>(State::kBuffer)));
  FLEXGEN_CHECK(state.buffer != nullptr);
  constexpr int kFlags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC;
  state.descriptor = ::open(state.partial.c_str(), kFlags | O_DIRECT, 0644);
  state.direct = state.descriptor >= 0;
  if (state.descriptor < 0) state.descriptor = ::open(state.partial.c_str(), kFlags, 0644);
  if (state.descriptor < 0) state.fail("cannot create");
  uint64_t length = text.size();
  state.append(reinterpret_cast<const std::byte*>(&length), 8);
  state.append(reinterpret_cast<const std::byte*>(text.data()), static_cast<int64_t>(text.size()));
}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::append(const void* data, int64_t bytes) {
  state_->append(static_cast<const std::byte*>(data), bytes);
}

void SafetensorsWriter::close() {
  State& state = *state_;
  FLEXGEN_CHECK(state.written + state.filled == state.total, "{} of {} bytes", state.written + state.filled, state.total);
  if (state.filled > 0) {  // direct writes come in whole sectors; the file is cut to size after
    int64_t padded = state.direct ? round_up(state.filled, 4096) : state.filled;
    std::memset(state.buffer + state.filled, 0, static_cast<size_t>(padded - state.filled));
    state.flush(padded);
  }
  if (ftruncate(state.descriptor, state.total) != 0 || fsync(state.descriptor) != 0) state.fail("cannot finish");
  ::close(state.descriptor);
  state.descriptor = -1;
  if (std::rename(state.partial.c_str(), state.path.c_str()) != 0) state.fail("cannot rename");
}

}  // namespace flexgen
