#pragma once
// ChunkFrames: whether bytes are a body in chunks (RFC 9112, 7.1), seen as they are read. The HTTP library takes the first chunk that is not framed right for the end of the body, and what follows it for the
// next request; it keeps a line of any length, and refuses fields behind the body (trailers), which clients and proxies may send and which say nothing to flexgen: they are seen here alone.

#include <cstdint>
#include <string_view>

namespace flexgen {

class ChunkFrames {
 public:
  /// Of the next bytes. False: they are no such body, and nothing after them is looked at. Not thread-safe.
  bool take(std::string_view bytes) {
    for (size_t at = 0; at < bytes.size();) {
      if (state_ != State::kData) {
        if (!take_one(bytes[at++])) return false;
        continue;
      }
      const size_t count = left_ < bytes.size() - at ? static_cast<size_t>(left_) : bytes.size() - at;
      left_ -= count;
      at += count;
      if (left_ == 0) state_ = State::kDataCr;
    }
    return true;
  }
  /// Fields may come next: bytes are to be taken one by one.
  bool behind_body() const { return state_ == State::kLastCr || state_ == State::kName || state_ == State::kValue || state_ == State::kFieldLf; }
  /// Whether the last byte that was taken is one of such a field.
  bool in_field() const { return in_field_; }

 private:
  enum class State { kSize, kExtension, kSizeLf, kData, kDataCr, kDataLf, kLastCr, kLastLf, kName, kValue, kFieldLf, kEnd };
  static constexpr int kMaxDigits = 15, kMaxExtension = 4096, kMaxFields = 64 << 10;

  static int digit_of(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    const char lower = static_cast<char>(c | 0x20);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
  }
  /// Of a field's name: RFC 9110's token.
  static bool is_name(char c) {
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
  }
  bool expect(char c, char wanted, State next) {
    state_ = next;
    return c == wanted;
  }
  bool take_one(char c) {
    switch (state_) {
      case State::kSize:
        if (const int digit = digit_of(c); digit >= 0) {
          left_ = left_ * 16 + static_cast<uint64_t>(digit);
          return ++digits_ <= kMaxDigits;
        }
        if (digits_ == 0) return false;
        state_ = c == '\r' ? State::kSizeLf : State::kExtension;
        return c == '\r' || c == ';' || c == ' ' || c == '\t';
      case State::kExtension:
        if (c == '\r') state_ = State::kSizeLf;
        return c != '\n' && ++extension_ <= kMaxExtension;
      case State::kSizeLf: digits_ = 0; return expect(c, '\n', left_ == 0 ? State::kLastCr : State::kData);
      case State::kDataCr: return expect(c, '\r', State::kDataLf);
      case State::kDataLf: return expect(c, '\n', State::kSize);
      case State::kLastCr:
        in_field_ = c != '\r';
        state_ = in_field_ ? State::kName : State::kLastLf;
        return !in_field_ || (is_name(c) && ++fields_ <= kMaxFields);
      case State::kLastLf: return expect(c, '\n', State::kEnd);
      case State::kName:
        if (c == ':') state_ = State::kValue;
        return (c == ':' || is_name(c)) && ++fields_ <= kMaxFields;
      case State::kValue:
        if (c == '\r') state_ = State::kFieldLf;
        return c != '\n' && c != '\0' && ++fields_ <= kMaxFields;
      case State::kFieldLf: return expect(c, '\n', State::kLastCr);
      case State::kData:
      case State::kEnd: return true;
    }
    return false;
  }

  State state_ = State::kSize;
  uint64_t left_ = 0;  ///< bytes of the chunk
  int digits_ = 0;
  int64_t extension_ = 0;  ///< bytes of all extensions
  int64_t fields_ = 0;     ///< bytes of all fields
  bool in_field_ = false;
};

}  // namespace flexgen
