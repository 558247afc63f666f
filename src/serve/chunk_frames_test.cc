#include "serve/chunk_frames.h"

#include <gtest/gtest.h>

#include <string>

namespace flexgen::chunk_frames_test {
namespace {

/// In pieces of every size: what was taken is the same.
bool is_framed(const std::string& body) {
  const bool whole = ChunkFrames().take(body);
  for (size_t piece = 1; piece < 4; ++piece) {
    ChunkFrames frames;
    bool good = true;
    for (size_t at = 0; at < body.size() && good; at += piece) good = frames.take(std::string_view(body).substr(at, piece));
    EXPECT_EQ(good, whole) << body << " in pieces of " << piece;
  }
  return whole;
}

TEST(ChunkFrames, BodiesInChunks) {
  for (const char* body : {"0\r\n\r\n", "1\r\na\r\n0\r\n\r\n", "2\r\n{}\r\n00\r\n\r\n", "A;name=value\r\n0123456789\r\n0\r\n\r\n",
                           "a ; x\r\n0123456789\r\n0\r\n\r\n", "3\r\na\r\n\r\n1\r\n\n\r\n0\r\n\r\n"})
    EXPECT_TRUE(is_framed(body)) << body;
}

TEST(ChunkFrames, WhatIsNoneIsTold) {
  for (const char* body :
       {"\r\n", "g\r\n", "-1\r\na", "+1\r\na\r\n", " 1\r\na\r\n", "0x1\r\na\r\n", "1\na\n0\n\n", "1\r\nab\r\n0\r\n\r\n", "2\r\na\r\n0\r\n\r\n", "1\r\na\n",
        "0\r\nName\r\n\r\n", "0\r\n: value\r\n\r\n", "0\r\nName : value\r\n\r\n", "0\r\n Name: value\r\n\r\n", "0\r\nName: value\n\n",
        "0\r\nGET / HTTP/1.1\r\n\r\n", "1;\n", "ffffffffffffffff\r\n", "1\r\naGET / HTTP/1.1\r\n\r\n"})
    EXPECT_FALSE(is_framed(body)) << body;
}

TEST(ChunkFrames, FieldsBehindTheBodyAreTold) {
  const std::string body = "1\r\na\r\n0\r\nX-Sum: a: b\r\nEmpty:\r\n\r\n";
  EXPECT_TRUE(is_framed(body));
  ChunkFrames frames;
  std::string without;
  for (char c : body) {
    ASSERT_TRUE(frames.take({&c, 1}));
    if (!frames.in_field()) without += c;
  }
  EXPECT_EQ(without, "1\r\na\r\n0\r\n\r\n");
  EXPECT_FALSE(frames.behind_body());
  EXPECT_FALSE(ChunkFrames().take("0\r\nA: " + std::string(100 << 10, 'x') + "\r\n\r\n"));
}

TEST(ChunkFrames, NoLineIsKeptForever) {
  ChunkFrames frames;
  EXPECT_TRUE(frames.take("1;"));
  EXPECT_FALSE(frames.take(std::string(1 << 20, 'x')));
}

}  // namespace
}  // namespace flexgen::chunk_frames_test
