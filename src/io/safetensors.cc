// The safetensors format, read side: 8 bytes little-endian header length, a JSON header, the tensors' bytes without
// holes. Everything in a header is a claim by a stranger until it is checked here.

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "io/checked_json.h"
#include "io/checkpoint.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;

constexpr int kMaxDepth = 4;  // {"tensor": {"shape": [..]}} takes three
constexpr int64_t kMaxElements = int64_t{1} << 48;

/// Bits an element takes; 0 for a dtype the format does not know.
int dtype_bits(const std::string& name) {
  static constexpr std::pair<std::string_view, int> kBits[] = {
      {"F64", 64},    {"I64", 64},        {"U64", 64},        {"C64", 64},    {"F32", 32},    {"I32", 32}, {"U32", 32},    {"F16", 16},
      {"BF16", 16},   {"I16", 16},        {"U16", 16},        {"I8", 8},      {"U8", 8},      {"BOOL", 8}, {"F8_E4M3", 8}, {"F8_E5M2", 8},
      {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4}};
  for (const auto& [known, bits] : kBits)
    if (known == name) return bits;
  return 0;
}

std::optional<DType> usable_dtype(const std::string& name) {
  if (name == "F32") return DType::kF32;
  if (name == "F16") return DType::kF16;
  if (name == "BF16") return DType::kBF16;
  return std::nullopt;
}

/// The checks of one tensor's entry; messages name file and tensor.
class EntryReader {
 public:
  EntryReader(const std::string& file_name, const std::string& tensor, const Json& entry) : file_name_(file_name), tensor_(tensor), entry_(entry) {
    if (!entry.is_object()) refuse("is not described by an object");
  }

  std::string dtype() const {
    const Json& value = member("dtype");
    if (!value.is_string()) refuse("has a dtype that is no text");
    return value.get<std::string>();
  }
  std::vector<int64_t> shape() const {
    const Json& value = member("shape");
    if (!value.is_array()) refuse("has a shape that is no list");
    std::vector<int64_t> shape;
    for (const Json& size : value) {
      if (!size.is_number_unsigned() || size.get<uint64_t>() > static_cast<uint64_t>(kMaxElements))
        refuse("has an absurd shape: its sizes must be integers from 0 to 2^48");
      shape.push_back(size.get<int64_t>());
    }
    return shape;
  }
  std::pair<int64_t, int64_t> offsets(int64_t data_bytes) const {
    const Json& value = member("data_offsets");
    if (!value.is_array() || value.size() != 2 || !value[0].is_number_unsigned() || !value[1].is_number_unsigned())
      refuse("has data_offsets that are not two non-negative integers");
    const auto begin = value[0].get<uint64_t>(), end = value[1].get<uint64_t>();
    if (begin > end) refuse(fmt::format("has data_offsets that run backwards ({} to {})", begin, end));
    if (end > static_cast<uint64_t>(std::max<int64_t>(data_bytes, 0)))
      refuse(fmt::format("ends at byte {} of the data, but the file holds {}; the file is truncated", end, data_bytes));
    return {static_cast<int64_t>(begin), static_cast<int64_t>(end)};
  }
  [[noreturn]] void refuse(const std::string& why) const {
    fail_user("{}: tensor '{}' {}; the file is broken, fetch it again", file_name_, printable(tensor_), why);
  }

 private:
  const Json& member(const char* key) const {
    auto found = entry_.find(key);
    if (found == entry_.end()) refuse(fmt::format("has no {}", key));
    return *found;
  }

  const std::string& file_name_;
  const std::string& tensor_;
  const Json& entry_;
};

int64_t count_elements(const EntryReader& reader, const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (int64_t size : shape) {
    if (size == 0) return 0;
    if (count > kMaxElements / size) reader.refuse("has an absurd shape: more than 2^48 elements");
    count *= size;
  }
  return count;
}

struct Range {
  int64_t begin, end;
  std::string name;
};

/// The tensors must tile the data: no overlap, no hole (a hole could hide anything), no tail.
void check_tiling(std::vector<Range> ranges, int64_t data_bytes, const std::string& file_name) {
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  int64_t end = 0;
  for (const Range& range : ranges) {
    if (range.begin != end)
      fail_user("{}: tensor '{}' begins at byte {} of the data, where {}: {} was expected; the file is broken, fetch it again", file_name,
                printable(range.name), range.begin, range.begin < end ? "it overlaps another tensor" : "it leaves a hole", end);
    end = range.end;
  }
  if (end != data_bytes)
    fail_user("{}: the header describes {} bytes of tensors, the file holds {}; it is truncated or broken, fetch it again", file_name, end, data_bytes);
}

}  // namespace

std::map<std::string, TensorLocation> parse_safetensors_header(const std::string& header, int64_t data_start, int64_t file_bytes, const std::string& file_name,
                                                               std::map<std::string, TensorLocation>* coded) {
  if (header.empty() || header.front() != '{') fail_user("{}: the safetensors header is not a JSON object; the file is broken or of another format", file_name);
  const Json json = parse_checked_json(header, kMaxDepth, file_name, "the safetensors header");
  const int64_t data_bytes = file_bytes - data_start;
  std::vector<Range> ranges;
  std::map<std::string, TensorLocation> tensors;
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") {
      const bool texts = entry.is_object() && std::all_of(entry.begin(), entry.end(), [](const Json& value) { return value.is_string(); });
      if (!texts) fail_user("{}: __metadata__ of the safetensors header is not a map of texts; the file is broken", file_name);
      continue;
    }
    const EntryReader reader(file_name, name, entry);
    const std::string dtype = reader.dtype();
    const int bits = dtype_bits(dtype);
    if (bits == 0) reader.refuse(fmt::format("has the unknown dtype '{}'", printable(dtype)));
    TensorLocation location;
    location.shape = reader.shape();
    const int64_t count = count_elements(reader, location.shape);
    const auto [begin, end] = reader.offsets(data_bytes);
    if (count * bits % 8 != 0 || end - begin != count * bits / 8)
      reader.refuse(fmt::format("takes {} bytes where its shape and dtype {} need {} bits", end - begin, dtype, count * bits));
    ranges.push_back({begin, end, name});
    location.offset = data_start + begin;
    location.bytes = end - begin;
    if (const std::optional<DType> usable = usable_dtype(dtype)) {
      location.dtype = *usable;
      tensors.emplace(name, std::move(location));
    } else if (coded != nullptr) {
      location.stored_as = dtype;
      coded->emplace(name, std::move(location));
    }
  }
  check_tiling(std::move(ranges), data_bytes, file_name);
  return tensors;
}

}  // namespace flexgen
