#include "io/unpack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "io/packed_bytes.h"

namespace flexgen::unpack_test {
namespace {

using testing::HasSubstr;

std::string sample(size_t bytes) {
  std::string text;
  for (size_t i = 0; text.size() < bytes; ++i) text += fmt::format("line {} of {}\n", i, i * i % 977);
  text.resize(bytes);
  return text;
}

using Unpacker = std::unique_ptr<ByteSource> (*)(ByteSource&, const std::string&);

std::string unpacked(Unpacker unpacker, const std::string& bytes, size_t piece, size_t room) {
  TextBytes packed(bytes, piece);
  return all_of(*unpacker(packed, "FILE"), room);
}
std::string error_of(Unpacker unpacker, const std::string& bytes) {
  try {
    unpacked(unpacker, bytes, std::string::npos, 1 << 16);
  } catch (const Error& error) {
    return error.what();
  }
  return "none";
}

TEST(Unpack, GivesTheTextInPiecesOfAnySize) {
  for (size_t bytes : {0, 1, 100, 300'000, 1'200'000}) {
    const std::string text = sample(bytes);
    for (auto [piece, room] : {std::pair<size_t, size_t>{std::string::npos, 1 << 20}, {1000, 777}, {1, 3}}) {
      if (piece == 1 && bytes > 100) continue;
      EXPECT_EQ(unpacked(gunzip, gzipped(text), piece, room), text) << bytes;
      EXPECT_EQ(unpacked(unzstd, zstd_packed(text), piece, room), text) << bytes;
    }
  }
}

TEST(Unpack, SeveralPartsAreOneText) {
  const std::string a = sample(5000), b = sample(700'000);
  EXPECT_EQ(unpacked(gunzip, gzipped(a) + gzipped("") + gzipped(b), 100, 1000), a + b);
  EXPECT_EQ(unpacked(gunzip, gzipped(a) + std::string(600, '\0'), 100, 1000), a);
  EXPECT_EQ(unpacked(unzstd, zstd_packed(a) + zstd_packed("") + zstd_packed(b), 100, 1000), a + b);
}

TEST(Unpack, WhatIsCutOffOrDamagedIsNoEnd) {
  const std::string text = sample(100'000), gz = gzipped(text), zst = zstd_packed(text);
  for (size_t cut : {gz.size() - 1, gz.size() - 8, gz.size() / 2, size_t{5}}) EXPECT_THAT(error_of(gunzip, gz.substr(0, cut)), HasSubstr("cut off")) << cut;
  for (size_t cut : {zst.size() - 1, zst.size() / 2, size_t{5}}) EXPECT_THAT(error_of(unzstd, zst.substr(0, cut)), HasSubstr("cut off")) << cut;
  std::string flipped = gz;
  flipped[flipped.size() - 6] ^= 1;  // in its checksum
  EXPECT_THAT(error_of(gunzip, flipped), HasSubstr("damaged"));
  EXPECT_THAT(error_of(unzstd, zst + std::string(1000, 'x')), HasSubstr("damaged"));
  // A frame of zstd --long=31: its head asks for a window of 2 GiB. Nothing is damaged.
  EXPECT_THAT(error_of(unzstd, std::string("\x28\xb5\x2f\xfd\x00\xa8", 6) + std::string(20, '\0')), HasSubstr("--long"));
  EXPECT_THAT(error_of(gunzip, gz + "notes"), HasSubstr("behind its gzip data"));
}

TEST(Unpack, Utf16BecomesUtf8) {
  const std::u16string text = u"\xfeff{\"é\": \"日本 \xd83d\xde00\"}\n\xfeff";
  for (const bool big : {false, true})
    for (const size_t piece : {1, 2, 3, 1000}) {
      TextBytes bytes(wide(text, big), piece);
      EXPECT_EQ(all_of(*utf8_of_utf16(bytes, big, "FILE"), 3), "{\"é\": \"日本 😀\"}\n\xef\xbb\xbf");
    }
  for (const std::string& broken : {wide(u"a\xd83d", false), wide(u"a\xd83dz", false), wide(u"a\xde00", false), wide(u"ab", false) + "c"}) {
    TextBytes bytes(broken);
    EXPECT_THROW(all_of(*utf8_of_utf16(bytes, false, "FILE")), Error);
  }
}

}  // namespace
}  // namespace flexgen::unpack_test
