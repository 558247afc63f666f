#include "base/nearest.h"

#include <gtest/gtest.h>

namespace flexgen::nearest_test {
namespace {

TEST(Nearest, Edits) {
  EXPECT_EQ(edit_distance("", ""), 0);
  EXPECT_EQ(edit_distance("abc", ""), 3);
  EXPECT_EQ(edit_distance("model", "modle"), 1);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
}

TEST(Nearest, Names) {
  const std::vector<std::string> flags{"--model", "--input", "--cpu-memory", "--gpu-memory", "--kv-cache", "--kv-cache-dtype"};
  EXPECT_EQ(nearest_name("--modle", flags), "--model");
  EXPECT_EQ(nearest_name("--cpu_memory", flags), "--cpu-memory");
  EXPECT_EQ(nearest_name("--CPU-MEMORY", flags), "--cpu-memory");
  EXPECT_EQ(nearest_name("--kv-cache-dtyp", flags), "--kv-cache-dtype");
  EXPECT_EQ(nearest_name("--cpu-m", flags), "--cpu-memory") << "a beginning";
  EXPECT_EQ(nearest_name("--tensor-parallel-size", flags), "");
  EXPECT_EQ(nearest_name("--x", flags), "");
  EXPECT_EQ(nearest_name("cdua", {"cpu", "cuda", "reference"}), "cuda");
  EXPECT_EQ(nearest_name("tpu", {"gpu", "cpu"}), "gpu");
  EXPECT_EQ(nearest_name(std::string(100000, 'a'), flags), "") << "not measured at length";
}

TEST(Nearest, Question) {
  EXPECT_EQ(did_you_mean("genrate", {"generate", "bench"}), "; did you mean generate?");
  EXPECT_EQ(did_you_mean("zzz", {"generate", "bench"}), "");
}

}  // namespace
}  // namespace flexgen::nearest_test
