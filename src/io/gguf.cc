#include "io/gguf.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <filesystem>
#include <optional>
#include <set>

#include "base/error.h"
#include "io/checked_json.h"
#include "io/whole_file.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kGgufMagic = "GGUF";
constexpr int64_t kMaxGgufHead = int64_t{1} << 28;  // the longest tokenizers take some 20 MB
constexpr int64_t kMaxGgufValues = 16'000'000;      // a value takes far more memory than it may take of the file
constexpr int64_t kMaxGgufTensors = 1'000'000;
constexpr int64_t kMaxGgufElements = int64_t{1} << 48;
constexpr int kMaxGgufDepth = 3;  // of lists
constexpr uint32_t kMaxGgufShape = 4;

struct GgmlType {
  uint32_t id;
  const char* name;
  std::optional<DType> dtype;
};
/// ggml's types, with ours where they are read.
constexpr GgmlType kGgmlTypes[]{// clang-format off
    {0, "F32", DType::kF32}, {1, "F16", DType::kF16}, {2, "Q4_0", DType::kQ4_0}, {3, "Q4_1", DType::kQ4_1}, {6, "Q5_0", DType::kQ5_0}, {7, "Q5_1", DType::kQ5_1},
    {8, "Q8_0", DType::kQ8_0}, {9, "Q8_1", {}}, {10, "Q2_K", DType::kQ2_K}, {11, "Q3_K", DType::kQ3_K}, {12, "Q4_K", DType::kQ4_K}, {13, "Q5_K", DType::kQ5_K},
    {14, "Q6_K", DType::kQ6_K}, {15, "Q8_K", {}}, {16, "IQ2_XXS", {}}, {17, "IQ2_XS", {}}, {18, "IQ3_XXS", {}}, {19, "IQ1_S", {}}, {20, "IQ4_NL", DType::kIQ4_NL},
    {21, "IQ3_S", {}}, {22, "IQ2_S", {}}, {23, "IQ4_XS", DType::kIQ4_XS}, {24, "I8", {}}, {25, "I16", {}}, {26, "I32", {}}, {27, "I64", {}}, {28, "F64", {}}, {29, "IQ1_M", {}},
    {30, "BF16", DType::kBF16}, {34, "TQ1_0", {}}, {35, "TQ2_0", {}}, {39, "MXFP4", DType::kMXFP4}, {40, "NVFP4", {}}, {41, "Q1_0", {}}};
                                // clang-format on

/// Types of metadata.
enum class ValueType : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kText, kList, kU64, kI64, kF64 };

/// Bytes of a value at least.
int64_t least_bytes(ValueType type) {
  switch (type) {
    case ValueType::kU8:
    case ValueType::kI8:
    case ValueType::kBool: return 1;
    case ValueType::kU16:
    case ValueType::kI16: return 2;
    case ValueType::kU32:
    case ValueType::kI32:
    case ValueType::kF32: return 4;
    case ValueType::kText:
    case ValueType::kU64:
    case ValueType::kI64:
    case ValueType::kF64: return 8;
    case ValueType::kList: return 12;
  }
  return 0;
}

/// Reads a head from its start to its end, through a buffer.
class GgufReader {
 public:
  explicit GgufReader(File& file) : file_(file), size_(file.size()) {}

  template <typename T>
  T number() {
    T value;
    bytes(&value, sizeof value);
    return value;
  }
  std::string text() {
    const auto length = number<uint64_t>();
    if (length > static_cast<uint64_t>(left())) refuse(fmt::format("a text of {} bytes in what is left, {}", length, left()));
    std::string text(static_cast<size_t>(length), '\0');
    bytes(text.data(), text.size());
    return text;
  }
  ValueType value_type() {
    const auto type = number<uint32_t>();
    if (type > static_cast<uint32_t>(ValueType::kF64)) refuse(fmt::format("a value of the unknown type {}", type));
    return static_cast<ValueType>(type);
  }
  /// `keep` false: read and checked, but not kept.
  Json value(ValueType type, bool keep, int depth = 0) {
    if (++values_ > kMaxGgufValues) refuse(fmt::format("more than {} values", kMaxGgufValues));
    switch (type) {
      case ValueType::kU8: return number<uint8_t>();
      case ValueType::kI8: return number<int8_t>();
      case ValueType::kU16: return number<uint16_t>();
      case ValueType::kI16: return number<int16_t>();
      case ValueType::kU32: return number<uint32_t>();
      case ValueType::kI32: return number<int32_t>();
      case ValueType::kF32: return number<float>();
      case ValueType::kU64: return number<uint64_t>();
      case ValueType::kI64: return number<int64_t>();
      case ValueType::kF64: return number<double>();
      case ValueType::kText: return text();
      case ValueType::kBool: {
        const auto byte = number<uint8_t>();
        if (byte > 1) refuse(fmt::format("a value {} that is to be true or false", byte));
        return byte == 1;
      }
      case ValueType::kList: return list(keep, depth);
    }
    return nullptr;
  }

  int64_t at() const { return at_; }
  [[noreturn]] void refuse(const std::string& why) const { fail_user("{}: {}, at byte {}; the file is broken, fetch it again", file_.path(), why, at_); }

 private:
  int64_t left() const { return std::min(size_, kMaxGgufHead) - at_; }
  Json list(bool keep, int depth) {
    if (depth == kMaxGgufDepth) refuse(fmt::format("lists nested deeper than {}", kMaxGgufDepth));
    const ValueType type = value_type();
    const auto count = number<uint64_t>();
    if (count > static_cast<uint64_t>(left() / least_bytes(type))) refuse(fmt::format("a list of {} values in {} bytes", count, left()));
    Json list = Json::array();
    for (uint64_t i = 0; i < count; ++i) {
      Json one = value(type, keep, depth + 1);
      if (keep) list.push_back(std::move(one));
    }
    return list;
  }
  void bytes(void* to, size_t count) {
    if (static_cast<int64_t>(count) > left()) {
      if (size_ > kMaxGgufHead) refuse(fmt::format("metadata of more than {} bytes", kMaxGgufHead));
      fail_user("{}: it ends within its head, at byte {}; it is truncated, fetch it again", file_.path(), size_);
    }
    auto* out = static_cast<char*>(to);
    while (count > 0) {
      if (at_ < first_ || at_ >= first_ + std::ssize(buffer_)) fill();
      const auto from = static_cast<size_t>(at_ - first_), some = std::min(count, buffer_.size() - from);
      buffer_.copy(out, some, from);
      out += some, count -= some, at_ += static_cast<int64_t>(some);
    }
  }
  void fill() {
    constexpr int64_t kPiece = 1 << 20;
    first_ = at_;
    buffer_.resize(static_cast<size_t>(std::min(kPiece, size_ - at_)));
    file_.read(first_, std::as_writable_bytes(std::span(buffer_)));
  }

  File& file_;
  int64_t size_, at_ = 0, first_ = 0, values_ = 0;
  std::string buffer_;
};

/// What is said of a tensor, but for its place in the file: `offset` counts from the data.
GgufTensor read_gguf_tensor(GgufReader& in, const std::string& file) {
  GgufTensor tensor;
  tensor.name = in.text();
  const auto refuse = [&](const std::string& why) {
    fail_user("{}: the tensor '{}' {}; the file is broken, fetch it again", file, printable(tensor.name), why);
  };
  const auto dimensions = in.number<uint32_t>();
  if (dimensions < 1 || dimensions > kMaxGgufShape) refuse(fmt::format("has {} dimensions", dimensions));
  int64_t elements = 1;
  for (uint32_t i = 0; i < dimensions; ++i) {
    const auto size = in.number<uint64_t>();
    if (size < 1 || size > static_cast<uint64_t>(kMaxGgufElements / elements)) refuse("has an absurd shape: no size of 0, and no more than 2^48 elements");
    elements *= static_cast<int64_t>(size);
    tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(size));  // the file has the innermost first
  }
  const auto type = in.number<uint32_t>();
  const auto* known = std::find_if(std::begin(kGgmlTypes), std::end(kGgmlTypes), [&](const GgmlType& one) { return one.id == type; });
  if (known == std::end(kGgmlTypes)) fail_user("{}: the tensor '{}' has the type {}, which is none that flexgen knows", file, printable(tensor.name), type);
  if (!known->dtype)
    fail_user("{}: the tensor '{}' is {}, which flexgen does not read; fetch a file in F16, BF16, Q8_0, Q4_K_M or another of the usual types", file,
              printable(tensor.name), known->name);
  tensor.dtype = *known->dtype;
  if (is_blocked(tensor.dtype) && tensor.shape.back() % quant_block(tensor.dtype).elements != 0)
    refuse(fmt::format("has rows of {} elements, and {} comes in blocks of {}", tensor.shape.back(), known->name, quant_block(tensor.dtype).elements));
  const auto offset = in.number<uint64_t>();
  if (offset > static_cast<uint64_t>(kMaxGgufElements) * 4) refuse(fmt::format("lies at {}", offset));
  tensor.offset = static_cast<int64_t>(offset);
  tensor.bytes = size_bytes(tensor.dtype, elements);
  return tensor;
}

[[noreturn]] void fail_field(const std::string& source, const std::string& name, const char* what) {
  fail_user("{}: the field '{}' is no {}; the file is broken, fetch it again", source, name, what);
}

}  // namespace

bool is_gguf(const std::string& path) {
  std::error_code failed;
  if (!std::filesystem::is_regular_file(path, failed)) return false;
  const std::shared_ptr<File> file = File::open(path, FileMode::kRead);
  std::string start(kGgufMagic.size(), '\0');
  if (file->size() < std::ssize(start)) return false;
  file->read(0, std::as_writable_bytes(std::span(start)));
  return start == kGgufMagic;
}

std::vector<std::string> gguf_parts(const std::string& path) {
  // NAME-00001-of-00003.gguf
  constexpr std::string_view kEnd = ".gguf", kBetween = "-of-";
  constexpr size_t kDigits = 5, kTail = 1 + kDigits + kBetween.size() + kDigits + kEnd.size();
  if (!path.ends_with(kEnd) || path.size() <= kTail) return {path};
  const std::string start = path.substr(0, path.size() - kTail);
  const std::string_view tail = std::string_view(path).substr(start.size());
  int number = 0, count = 0;
  const auto read = [&](size_t at, int& value) {
    const auto [end, error] = std::from_chars(tail.data() + at, tail.data() + at + kDigits, value);
    return error == std::errc() && end == tail.data() + at + kDigits && tail[at] != '-';
  };
  if (tail[0] != '-' || tail.substr(1 + kDigits, kBetween.size()) != kBetween || !read(1, number) || !read(1 + kDigits + kBetween.size(), count)) return {path};
  if (number < 1 || count < 1 || number > count)
    fail_user("{}: by its name it is part {} of {}, which there cannot be; give it the name that it was published with", path, number, count);
  const auto part = [&](int i) { return fmt::format("{}-{:05}-of-{:05}{}", start, i, count, kEnd); };
  if (number != 1) fail_user("{} is part {} of {}: give the first, --model '{}'", path, number, count, part(1));
  std::vector<std::string> parts;
  for (int i = 1; i <= count; ++i) {
    parts.push_back(part(i));
    if (!file_is_there(parts.back())) fail_user("{} is missing: the model has {} parts; fetch it", parts.back(), count);
  }
  return parts;
}

GgufHead read_gguf_head(File& file, bool with_lists) {
  GgufReader in(file);
  std::string magic(kGgufMagic.size(), '\0');
  for (char& c : magic) c = in.number<char>();
  if (magic != kGgufMagic) fail_user("{} is no GGUF", file.path());
  const auto version = in.number<uint32_t>();
  if (version != 2 && version != 3)
    fail_user("{}: GGUF version {}; flexgen reads 2 and 3{}", file.path(), version,
              version > 0xffffu ? ", with the least byte first"
              : version == 1    ? ": convert the model anew with llama.cpp"
                                : "");
  const auto num_tensors = in.number<uint64_t>(), num_fields = in.number<uint64_t>();
  if (num_tensors > static_cast<uint64_t>(kMaxGgufTensors)) in.refuse(fmt::format("{} tensors", num_tensors));

  GgufHead head;
  for (uint64_t i = 0; i < num_fields; ++i) {
    const std::string name = in.text();
    const ValueType type = in.value_type();
    if (head.metadata.contains(name)) in.refuse(fmt::format("the field '{}' twice", printable(name)));
    head.metadata[name] = in.value(type, with_lists);
  }
  const Json* alignment_field = gguf_field(head.metadata, "general.alignment");
  const int64_t alignment = alignment_field && alignment_field->is_number_unsigned() && *alignment_field <= 1u << 20 ? alignment_field->get<int64_t>()
                            : alignment_field                                                                        ? 0
                                                                                                                     : 32;
  if (alignment < 8 || !std::has_single_bit(static_cast<uint64_t>(alignment))) fail_field(file.path(), "general.alignment", "power of two from 8 on");

  std::set<std::string> names;
  for (uint64_t i = 0; i < num_tensors; ++i) {
    head.tensors.push_back(read_gguf_tensor(in, file.path()));
    if (!names.insert(head.tensors.back().name).second) in.refuse(fmt::format("the tensor '{}' twice", printable(head.tensors.back().name)));
  }
  head.data_start = (in.at() + alignment - 1) / alignment * alignment;
  std::sort(head.tensors.begin(), head.tensors.end(), [](const GgufTensor& a, const GgufTensor& b) { return a.offset < b.offset; });
  int64_t end = 0;
  for (GgufTensor& tensor : head.tensors) {
    const auto refuse = [&](const std::string& why) {
      fail_user("{}: the tensor '{}' {}; the file is broken, fetch it again", file.path(), printable(tensor.name), why);
    };
    if (tensor.offset % alignment != 0) refuse(fmt::format("lies at {}, which is no multiple of {}", tensor.offset, alignment));
    if (tensor.offset < end) refuse("overlaps with another");
    end = tensor.offset + tensor.bytes;
    if (end > file.size() - head.data_start)
      refuse(
          fmt::format("ends at byte {} of the data, but the file holds {}; the file is truncated", end, std::max<int64_t>(0, file.size() - head.data_start)));
    tensor.offset += head.data_start;
  }
  return head;
}

Json gguf_metadata(const std::string& path, bool with_lists) {
  return read_gguf_head(*File::open(gguf_parts(path).front(), FileMode::kRead), with_lists).metadata;
}

const Json* gguf_field(const Json& metadata, const std::string& name) {
  const auto found = metadata.find(name);
  return found == metadata.end() ? nullptr : &*found;
}

std::string gguf_text(const Json& metadata, const std::string& name, const std::string& source) {
  const Json* field = gguf_field(metadata, name);
  if (!field) fail_user("{}: the field '{}' is missing; convert the model anew with llama.cpp", source, name);
  if (!field->is_string()) fail_field(source, name, "text");
  return field->get<std::string>();
}

int64_t gguf_id_or(const Json& metadata, const std::string& name, int64_t fallback, const std::string& source) {
  const Json* field = gguf_field(metadata, name);
  if (!field) return fallback;
  if (!field->is_number_integer() || *field < 0 || *field >= 1 << 30) fail_field(source, name, "whole number from 0 on");
  return field->get<int64_t>();
}

int64_t gguf_token_or_none(const Json& metadata, const std::string& name, int64_t count, const std::string& source) {
  const std::string full_name = "tokenizer.ggml." + name;
  if (const Json* field = gguf_field(metadata, full_name)) {
    if (!field->is_number_integer() || (!field->is_number_unsigned() && *field < 0)) fail_field(source, full_name, "whole number from 0 on");
    if (const auto id = field->get<uint64_t>(); id < static_cast<uint64_t>(count)) return static_cast<int64_t>(id);
  }
  // Other kinds have one of llama.cpp's too, but it is Falcon's, and any token in another vocabulary.
  const Json* kind = gguf_field(metadata, "tokenizer.ggml.model");
  const int64_t usual = !kind || *kind != "llama" ? -1 : name == "bos_token_id" ? 1 : name == "eos_token_id" ? 2 : -1;
  return usual < count ? usual : -1;
}

bool gguf_flag_or(const Json& metadata, const std::string& name, bool fallback, const std::string& source) {
  const Json* field = gguf_field(metadata, name);
  if (!field) return fallback;
  if (!field->is_boolean()) fail_field(source, name, "true or false");
  return field->get<bool>();
}

}  // namespace flexgen
