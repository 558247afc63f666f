#include "io/unpack.h"

#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <cstdint>

#include "base/error.h"

namespace flexgen {
namespace {

constexpr size_t kBufferBytes = 256 << 10;

[[noreturn]] void fail_cut_off(const std::string& path, const char* format) {
  fail_user("{} ends in the middle of its {} data: it was cut off; copy it again", path, format);
}
[[noreturn]] void fail_damaged(const std::string& path, const char* format, const char* why) {
  fail_user("the {} data of {} is damaged ({}); copy it again, or look after the disk", format, path, why);
}

class Gunzip : public ByteSource {
 public:
  Gunzip(ByteSource& packed, const std::string& path) : packed_(packed), path_(path) {
    if (inflateInit2(&stream_, 15 + 16) != Z_OK) fail_io("there is no memory to unpack {}", path);
  }
  ~Gunzip() override { inflateEnd(&stream_); }
  Gunzip(const Gunzip&) = delete;
  Gunzip& operator=(const Gunzip&) = delete;

  size_t read(char* data, size_t room) override {
    stream_.next_out = reinterpret_cast<Bytef*>(data);
    stream_.avail_out = static_cast<uInt>(std::min<size_t>(room, kBufferBytes));
    const uInt wanted = stream_.avail_out;
    while (stream_.avail_out == wanted && !over_) {
      if (stream_.avail_in == 0 && !refill()) {
        if (!between_) fail_cut_off(path_, "gzip");
        over_ = true;
        break;
      }
      if (between_) {
        begin_member();
        continue;
      }
      const int result = inflate(&stream_, Z_NO_FLUSH);
      if (result == Z_STREAM_END) between_ = true;
      else if (result != Z_OK && result != Z_BUF_ERROR) fail_damaged(path_, "gzip", stream_.msg ? stream_.msg : zError(result));
    }
    return wanted - stream_.avail_out;
  }

 private:
  bool refill() {
    stream_.avail_in = static_cast<uInt>(packed_.read(buffer_.data(), buffer_.size()));
    stream_.next_in = reinterpret_cast<Bytef*>(buffer_.data());
    return stream_.avail_in > 0;
  }
  /// A member may follow another, and zeros the last one, as gzip itself has it.
  void begin_member() {
    while (stream_.avail_in > 0 && *stream_.next_in == 0 && any_) ++stream_.next_in, --stream_.avail_in;
    if (stream_.avail_in == 0) return;
    if (any_ && *stream_.next_in != 0x1f) fail_user("{} has something behind its gzip data; unpack it (gunzip), and give the text", path_);
    if (any_ && inflateReset(&stream_) != Z_OK) fail_damaged(path_, "gzip", "a member cannot be begun");
    any_ = true;
    between_ = false;
  }

  ByteSource& packed_;
  std::string path_;
  z_stream stream_{};
  std::string buffer_ = std::string(kBufferBytes, '\0');
  bool between_ = true, any_ = false, over_ = false;  ///< between two members
};

class Unzstd : public ByteSource {
 public:
  Unzstd(ByteSource& packed, const std::string& path) : packed_(packed), path_(path), stream_(ZSTD_createDStream()) {
    if (!stream_) fail_io("there is no memory to unpack {}", path);
  }
  ~Unzstd() override { ZSTD_freeDStream(stream_); }
  Unzstd(const Unzstd&) = delete;
  Unzstd& operator=(const Unzstd&) = delete;

  size_t read(char* data, size_t room) override {
    ZSTD_outBuffer out{data, room, 0};
    while (out.pos == 0) {
      if (in_.pos == in_.size) {
        in_ = {buffer_.data(), packed_.read(buffer_.data(), buffer_.size()), 0};
        // More may be waiting to come out: ask once without input.
        if (in_.size == 0 && (left_ == 0 || asked_at_end_)) {
          if (left_ != 0) fail_cut_off(path_, "zstd");
          return 0;
        }
        asked_at_end_ = in_.size == 0;
      }
      left_ = ZSTD_decompressStream(stream_, &out, &in_);
      if (ZSTD_isError(left_) && ZSTD_getErrorCode(left_) == ZSTD_error_frameParameter_windowTooLarge)
        fail_user("{} was compressed with a window of more than 128 MiB (zstd --long), which takes too much memory; unpack it (zstd -d --long=31)", path_);
      if (ZSTD_isError(left_)) fail_damaged(path_, "zstd", ZSTD_getErrorName(left_));
    }
    asked_at_end_ = false;
    return out.pos;
  }

 private:
  ByteSource& packed_;
  std::string path_;
  ZSTD_DStream* stream_;
  std::string buffer_ = std::string(kBufferBytes, '\0');
  ZSTD_inBuffer in_{nullptr, 0, 0};
  size_t left_ = 0;  ///< 0: at the end of a frame
  bool asked_at_end_ = false;
};

class Utf8OfUtf16 : public ByteSource {
 public:
  Utf8OfUtf16(ByteSource& wide, bool big_endian, const std::string& path) : wide_(wide), big_endian_(big_endian), path_(path) {}

  size_t read(char* data, size_t room) override {
    while (at_ == text_.size()) {
      text_.clear();
      at_ = 0;
      if (!convert()) return 0;
    }
    const size_t count = text_.copy(data, room, at_);
    at_ += count;
    return count;
  }

 private:
  bool convert() {
    const size_t got = wide_.read(buffer_.data() + kept_, buffer_.size() - kept_), filled = kept_ + got;
    if (got == 0 && (kept_ > 0 || high_ != 0)) fail_user("{} ends in the middle of a UTF-16 character: it was cut off; copy it again", path_);
    for (size_t i = 0; i + 1 < filled; i += 2) take(unit(i));
    kept_ = filled % 2;
    if (kept_ > 0) buffer_[0] = buffer_[filled - 1];
    return got > 0;
  }
  uint32_t unit(size_t at) const {
    const auto first = static_cast<unsigned char>(buffer_[at]), second = static_cast<unsigned char>(buffer_[at + 1]);
    return big_endian_ ? static_cast<uint32_t>(first << 8 | second) : static_cast<uint32_t>(second << 8 | first);
  }
  void take(uint32_t unit) {
    const bool low = unit >= 0xdc00 && unit < 0xe000;
    if (low != (high_ != 0)) fail_user("{} is UTF-16, but has half a character (a lone surrogate) at byte {}; write it as UTF-8", path_, bytes_);
    const bool first = bytes_ == 0;
    bytes_ += 2;
    if (unit >= 0xd800 && unit < 0xdc00) {
      high_ = unit;
      return;
    }
    const uint32_t code = low ? 0x10000 + ((high_ - 0xd800) << 10) + (unit - 0xdc00) : unit;
    high_ = 0;
    if (!first || code != 0xfeff) put(code);
  }
  void put(uint32_t code) {
    const auto add = [&](uint32_t byte) { text_ += static_cast<char>(byte); };
    if (code < 0x80) return add(code);
    if (code < 0x800) {
      add(0xc0 | code >> 6);
    } else {
      if (code < 0x10000) {
        add(0xe0 | code >> 12);
      } else {
        add(0xf0 | code >> 18);
        add(0x80 | (code >> 12 & 0x3f));
      }
      add(0x80 | (code >> 6 & 0x3f));
    }
    add(0x80 | (code & 0x3f));
  }

  ByteSource& wide_;
  bool big_endian_;
  std::string path_;
  std::string buffer_ = std::string(kBufferBytes, '\0'), text_;
  size_t kept_ = 0, at_ = 0;  ///< bytes of half a unit in the buffer; of text_ that were given
  uint32_t high_ = 0;         ///< the first half of a pair of surrogates
  int64_t bytes_ = 0;         ///< that were taken
};

}  // namespace

std::unique_ptr<ByteSource> gunzip(ByteSource& packed, const std::string& path) { return std::make_unique<Gunzip>(packed, path); }
std::unique_ptr<ByteSource> unzstd(ByteSource& packed, const std::string& path) { return std::make_unique<Unzstd>(packed, path); }
std::unique_ptr<ByteSource> utf8_of_utf16(ByteSource& wide, bool big_endian, const std::string& path) {
  return std::make_unique<Utf8OfUtf16>(wide, big_endian, path);
}

}  // namespace flexgen
