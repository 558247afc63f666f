#pragma once
// For tests: the same text in other forms, and what a source gives.

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "io/byte_source.h"

namespace flexgen {

inline std::string gzipped(std::string_view text) {
  z_stream stream{};
  deflateInit2(&stream, Z_BEST_COMPRESSION, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string packed(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  deflate(&stream, Z_FINISH);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

inline std::string zstd_packed(std::string_view text) {
  std::string packed(ZSTD_compressBound(text.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), text.data(), text.size(), 3));
  return packed;
}

/// Of ASCII, or of units that are given.
inline std::string wide(std::u16string_view text, bool big_endian) {
  std::string bytes;
  for (char16_t unit : text) {
    const char low = static_cast<char>(unit & 0xff), high = static_cast<char>(unit >> 8);
    bytes += {big_endian ? high : low, big_endian ? low : high};
  }
  return bytes;
}
inline std::u16string units(std::string_view ascii) { return {ascii.begin(), ascii.end()}; }

/// Gives at most `piece` bytes at a time.
class TextBytes : public ByteSource {
 public:
  explicit TextBytes(std::string text, size_t piece = std::string::npos) : text_(std::move(text)), piece_(piece) {}
  size_t read(char* data, size_t room) override {
    const size_t count = text_.copy(data, std::min(room, piece_), at_);
    at_ += count;
    return count;
  }

 private:
  std::string text_;
  size_t piece_, at_ = 0;
};

inline std::string all_of(ByteSource& source, size_t piece = 1 << 16) {
  std::string text, buffer(piece, '\0');
  while (const size_t count = source.read(buffer.data(), buffer.size())) text.append(buffer, 0, count);
  return text;
}

}  // namespace flexgen
