#include "batch/kept_record.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/checked_json.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxDepth = 16;  // a record has 9
constexpr size_t kBufferBytes = 4096;
/// No text of a record is so long; a file of something else may have a line of any length.
constexpr int64_t kMaxTextBytes = int64_t{256} << 20;
constexpr std::string_view kChecksum = "checksum";

/// Every step is a bijection of the state, so that one changed byte always gives another hash.
uint64_t mixed(uint64_t h) {
  h = (h ^ h >> 33) * 0xff51afd7ed558ccdu;
  h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53u;
  return h ^ h >> 33;
}
uint64_t text_hash(std::string_view text) {  // FNV-1a
  uint64_t h = 0xcbf29ce484222325u;
  for (unsigned char c : text) h = (h ^ c) * 0x100000001b3u;
  return mixed(h ^ text.size());
}

/// Hashes what a JSON object says: the order of members, spaces, escapes and the way a number is written do not count, nor
/// whether a member is null or left out. And picks out what a record tells.
class RecordReader : public nlohmann::json_sax<Json> {
 public:
  /// `any`: an object with any members, of which only the hash is wanted.
  explicit RecordReader(bool any = false) : any_(any) {}

  bool null() override { return value(Kind::kNull, 0); }
  bool boolean(bool is) override { return value(Kind::kBoolean, is); }
  bool number_integer(number_integer_t number) override { return take_integer(number); }
  bool number_unsigned(number_unsigned_t number) override { return take_integer(number); }
  bool number_float(number_float_t number, const string_t&) override { return take_number(number); }
  bool string(string_t& text) override {
    switch (place_) {
      case Place::kId: return parse_id(text) && value(Kind::kText, text_hash(text));
      case Place::kCustomId: record.name = hash_of_name(text); break;
      case Place::kModel: record.model = text.substr(0, 4096); break;
      case Place::kChecksum: checksum_ = text; break;
      case Place::kRequestId: request_id_ = text.substr(0, 64); break;
      default: break;
    }
    return value(Kind::kText, text_hash(text));
  }
  bool binary(binary_t&) override { return refuse("holds binary data"); }
  bool start_object(std::size_t) override { return enter(true); }
  bool start_array(std::size_t) override { return enter(false); }
  bool end_object() override { return leave(Kind::kObject); }
  bool end_array() override { return leave(Kind::kArray); }
  bool key(string_t& name) override {
    Frame& top = frames_[depth_ - 1];
    top.key = text_hash(name);
    place_ = Place::kOther;
    if (depth_ == 1 && (!any_ || name == kChecksum)) {
      static constexpr std::array<std::pair<std::string_view, Place>, 5> kFields{
          {{"id", Place::kId}, {"custom_id", Place::kCustomId}, {"response", Place::kResponse}, {"error", Place::kError}, {kChecksum, Place::kChecksum}}};
      for (const auto& [field, place] : kFields)
        if (name == field) place_ = place;
      if (place_ == Place::kOther) {
        place_ = Place::kUnknown;
        unknown_ = printable(name);
        return true;
      }
      if (seen_[static_cast<size_t>(place_)]) return refuse(fmt::format("has the field '{}' twice", name));
      seen_[static_cast<size_t>(place_)] = true;
    } else if (top.place == Place::kResponse) {
      place_ = name == "body" ? Place::kBody : name == "request_id" ? Place::kRequestId : Place::kOther;
    } else if (top.place == Place::kBody) {
      place_ = name == "usage" ? Place::kUsage : name == "created" ? Place::kCreated : name == "model" ? Place::kModel : Place::kOther;
    } else if (top.place == Place::kUsage && name == "completion_tokens") {
      place_ = Place::kTokens;
    } else if (top.place == Place::kError && name == "line") {
      place_ = Place::kErrorLine;
    }
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    broken_syntax_ = true;
    return refuse(position <= 1 ? "is not JSON" : fmt::format("is not JSON (at its byte {})", position));
  }

  /// Once all of the line was read.
  void check() {
    if (!has_id_) return static_cast<void>(refuse("has no id of a record (batch_req_ and 24 hex digits)"));
    if (!has_custom_id_) return static_cast<void>(refuse("has no custom_id"));
    if (has_response_ == has_error_) return static_cast<void>(refuse("has neither a response nor an error, or both"));
    record.has_checksum = has_checksum_;
    if (record.has_checksum && checksum_ != hex()) {
      refuse("is damaged: what it says does not fit its checksum");
      problem_.kind = NoRecord::kDamaged;
      return;
    }
    if (has_response_ && record.answer_tokens < 0) refuse("has a response without usage.completion_tokens, which every answer has");
    if (!record.has_checksum && names_another()) refuse(fmt::format("has the response of another line: its request_id is '{}'", printable(request_id_)));
  }
  bool broken_syntax() const { return broken_syntax_; }
  std::string hex() const { return fmt::format("{:016x}", record.content); }
  std::optional<NoRecord> problem() const { return problem_.reason.empty() ? std::nullopt : std::optional(problem_); }

  KeptRecord record;

 private:
  enum class Place {
    kOther,
    kUnknown,
    kTop,
    kId,
    kCustomId,
    kResponse,
    kError,
    kChecksum,
    kRequestId,
    kBody,
    kCreated,
    kModel,
    kUsage,
    kTokens,
    kErrorLine,
    kCount
  };
  enum class Kind { kNull, kBoolean, kNumber, kInteger, kText, kArray, kObject };
  struct Frame {
    bool object = false;
    Place place = Place::kOther;
    uint64_t hash = 0, key = 0;
  };

  bool parse_id(const std::string& text) {
    constexpr size_t kDigits = 2 * std::tuple_size_v<RecordId>;
    const auto wrong = [&] { return refuse(fmt::format("has the id '{}'; a record's is batch_req_ and 24 hex digits", printable(text))); };
    if (!text.starts_with(kRecordIdPrefix) || text.size() != kRecordIdPrefix.size() + kDigits) return wrong();
    for (size_t i = 0; i < kDigits; ++i) {
      const char c = text[kRecordIdPrefix.size() + i];
      const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
      if (digit < 0) return wrong();
      record.id[i / 2] = static_cast<uint8_t>(i % 2 ? record.id[i / 2] << 4 | digit : digit);
    }
    has_id_ = true;
    id_digits_ = text.substr(kRecordIdPrefix.size());
    return true;
  }
  /// Whether the response has a request_id as we write it, of another record.
  bool names_another() const {
    constexpr std::string_view kPrefix = "req_";
    return request_id_.starts_with(kPrefix) && request_id_.size() == kPrefix.size() + id_digits_.size() && !request_id_.ends_with(id_digits_);
  }
  /// As a floating-point number, whose bits it has in another tool's output, unless that rounds it.
  template <typename Integer>
  bool take_integer(Integer integer) {
    const auto number = static_cast<double>(integer);
    const bool exact = std::abs(number) < 9e15;
    return exact ? take_number(number) : value(Kind::kInteger, static_cast<uint64_t>(integer));
  }
  bool take_number(double number) {
    const bool whole = std::floor(number) == number && std::abs(number) < 1e15;
    if (place_ == Place::kTokens && whole && number >= 0) record.answer_tokens = static_cast<int64_t>(number);
    if (place_ == Place::kErrorLine && whole && number > 0) record.error_line = static_cast<int64_t>(number);
    if (place_ == Place::kCreated && whole) record.created = static_cast<int64_t>(number);
    return value(Kind::kNumber, std::bit_cast<uint64_t>(number == 0 ? 0.0 : number));  // -0 is 0
  }
  bool value(Kind kind, uint64_t bits) {
    if (depth_ == 0) return refuse("is no JSON object");
    if (place_ == Place::kUnknown && kind != Kind::kNull) return refuse_unknown();  // a null says nothing
    if (depth_ == 1) {
      has_checksum_ |= place_ == Place::kChecksum && kind != Kind::kNull;
      has_custom_id_ |= place_ == Place::kCustomId && kind == Kind::kText;
      has_response_ |= place_ == Place::kResponse && kind == Kind::kObject;
      has_error_ |= place_ == Place::kError && kind == Kind::kObject;
    }
    Frame& top = frames_[depth_ - 1];
    const uint64_t hash = mixed(bits + static_cast<uint64_t>(kind) * 0x9e3779b97f4a7c15u);
    if (!top.object) top.hash = mixed(top.hash + hash);
    else if (kind != Kind::kNull && !(depth_ == 1 && place_ == Place::kChecksum)) top.hash += mixed(mixed(hash) + top.key);
    place_ = Place::kOther;
    return true;
  }
  bool enter(bool object) {
    if (depth_ == 0 && !object) return refuse("is no JSON object");
    if (place_ == Place::kUnknown) return refuse_unknown();
    if (depth_ == kMaxDepth) return refuse("is nested deeper than a record");
    frames_[depth_] = {object, depth_ == 0 ? Place::kTop : place_, 0, 0};
    ++depth_;
    place_ = Place::kOther;
    return true;
  }
  bool leave(Kind kind) {
    const Frame done = frames_[--depth_];
    place_ = done.place;
    if (depth_ > 0) return value(kind, done.hash);
    record.content = mixed(done.hash);
    return true;
  }
  bool refuse_unknown() { return refuse(fmt::format("has a field '{}', which no record has", unknown_)); }
  bool refuse(std::string reason) {
    if (problem_.reason.empty()) problem_ = {NoRecord::kForeign, std::move(reason)};
    return false;
  }

  const bool any_;
  std::array<Frame, kMaxDepth> frames_{};
  size_t depth_ = 0;
  Place place_ = Place::kOther;  ///< of the value that comes next
  std::array<bool, static_cast<size_t>(Place::kCount)> seen_{};
  bool has_id_ = false, has_custom_id_ = false, has_response_ = false, has_error_ = false, has_checksum_ = false;
  bool broken_syntax_ = false;
  std::string checksum_, unknown_, id_digits_, request_id_;
  NoRecord problem_;
};

/// The bytes of a line for the parser, which asks for one at a time.
class LineBytes {
 public:
  explicit LineBytes(ByteSource& source) : source_(source) {}
  bool at_end() {
    if (next_ < end_) return false;
    if (stopped_) return true;
    next_ = 0;
    before_ += static_cast<int64_t>(end_);
    end_ = source_.read(buffer_.data(), buffer_.size());
    if (end_ == 0) asked_past_end_ = stopped_ = true;
    return end_ == 0 || too_long_;
  }
  char current() const { return buffer_[next_]; }
  void advance() {
    since_quote_ = buffer_[next_] == '"' ? 0 : since_quote_ + 1;
    ++next_;
    if (since_quote_ > kMaxTextBytes) {
      too_long_ = stopped_ = true;
      next_ = end_ = 0;
    }
  }
  /// How many bytes up to the last one that was taken, if that is a NUL byte; else 0. It ends the JSON for the parser, as the end of the line does.
  int64_t ended_by_nul() const { return next_ > 0 && buffer_[next_ - 1] == '\0' ? before_ + static_cast<int64_t>(next_) : 0; }
  bool asked_past_end() const { return asked_past_end_; }
  bool too_long() const { return too_long_; }

 private:
  ByteSource& source_;
  std::string buffer_ = std::string(kBufferBytes, '\0');
  size_t next_ = 0, end_ = 0;
  int64_t before_ = 0;  ///< bytes before those in the buffer
  int64_t since_quote_ = 0;
  bool stopped_ = false, asked_past_end_ = false, too_long_ = false;
};

/// An input iterator over them; the default one is the end.
class ByteIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = char;
  ByteIterator() = default;
  explicit ByteIterator(LineBytes& bytes) : bytes_(&bytes) {}
  char operator*() const { return bytes_->current(); }
  ByteIterator& operator++() {
    bytes_->advance();
    return *this;
  }
  ByteIterator operator++(int) {
    ByteIterator before = *this;
    bytes_->advance();
    return before;
  }
  friend bool operator==(const ByteIterator& a, const ByteIterator& b) { return a.over() == b.over(); }
  friend bool operator!=(const ByteIterator& a, const ByteIterator& b) { return !(a == b); }

 private:
  bool over() const { return !bytes_ || bytes_->at_end(); }
  LineBytes* bytes_ = nullptr;
};

class TextSource : public ByteSource {
 public:
  explicit TextSource(std::string_view text) : text_(text) {}
  size_t read(char* data, size_t room) override {
    const size_t count = text_.copy(data, room);
    text_.remove_prefix(count);
    return count;
  }

 private:
  std::string_view text_;
};

}  // namespace

std::variant<KeptRecord, NoRecord> read_record(ByteSource& line) {
  LineBytes bytes(line);
  RecordReader reader;
  const bool whole = Json::sax_parse(ByteIterator(bytes), ByteIterator(), &reader);
  if (bytes.too_long()) return NoRecord{NoRecord::kForeign, "is longer than any record"};
  if (const int64_t at = bytes.ended_by_nul(); at > 0 && (whole || reader.broken_syntax()))
    return NoRecord{NoRecord::kForeign, fmt::format("holds zero bytes (after a power cut?), the first at its byte {}", at)};
  if (whole) reader.check();
  std::optional<NoRecord> problem = reader.problem();
  if (!problem) return std::move(reader.record);
  // A parser that fails at the end of the line, and not before, wants more of it.
  if (reader.broken_syntax() && bytes.asked_past_end()) *problem = {NoRecord::kTorn, "ends before its JSON does"};
  return *problem;
}

std::variant<KeptRecord, NoRecord> read_record(std::string_view line) {
  TextSource source(line);
  return read_record(source);
}

namespace {

std::string checksum_of(ByteSource& json) {
  LineBytes bytes(json);
  RecordReader reader(true);
  if (!Json::sax_parse(ByteIterator(bytes), ByteIterator(), &reader)) {
    if (auto problem = reader.problem()) fail_user("it {}", problem->reason);
  }
  if (bytes.ended_by_nul() > 0) fail_user("it holds zero bytes");
  return reader.hex();
}

constexpr std::string_view kSealStart = R"(,"checksum":")", kSealEnd = R"("})";
constexpr size_t kDigits = 16;
static_assert(kSealStart.size() + kDigits + kSealEnd.size() == kSealBytes);

std::string seal(const std::string& checksum) { return fmt::format("{}{}{}\n", kSealStart, checksum, kSealEnd); }

}  // namespace

bool is_seal(std::string_view end) { return end.size() == kSealBytes && end.starts_with(kSealStart) && end.ends_with(kSealEnd); }

std::string content_checksum(std::string_view json) {
  TextSource source(json);
  return checksum_of(source);
}

std::string with_checksum(std::string record) {
  FLEXGEN_CHECK(record.ends_with("}\n"));
  const std::string checksum = content_checksum(record);
  record.resize(record.size() - 2);
  return record + seal(checksum);
}

SealedRecord::SealedRecord(RecordText& record) : record_(record) {
  class Counted : public ByteSource {
   public:
    explicit Counted(RecordText& text) : text_(text) {}
    size_t read(char* data, size_t room) override {
      const size_t count = text_.read(data, room);
      bytes += static_cast<int64_t>(count);
      return count;
    }
    int64_t bytes = 0;

   private:
    RecordText& text_;
  } counted(record);
  end_ = seal(checksum_of(counted));
  record.rewind();
  bytes_ = counted.bytes - 2;
}

size_t SealedRecord::read(char* data, size_t room) {
  size_t count = 0;
  while (count < room && at_ < bytes_) {
    const size_t more = record_.read(data + count, static_cast<size_t>(std::min(static_cast<int64_t>(room - count), bytes_ - at_)));
    FLEXGEN_CHECK(more > 0);
    count += more;
    at_ += static_cast<int64_t>(more);
  }
  const size_t of_end = end_.copy(data + count, room - count, end_at_);
  end_at_ += of_end;
  return count + of_end;
}

void SealedRecord::rewind() {
  record_.rewind();
  at_ = 0;
  end_at_ = 0;
}

}  // namespace flexgen
