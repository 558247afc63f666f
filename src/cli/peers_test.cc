// Other programs, played by scripts of the shell: what is asked of them, and what becomes of their answers.

#include "cli/peers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "io/test_folder.h"

namespace flexgen::peers_test {
namespace {

using testing::HasSubstr;

class Peers : public testing::Test {
 protected:
  /// A Python that does this instead: $1 is -c, $2 the script, then its arguments.
  void python_is(const std::string& text) {
    flags_.python = folder_.put("python", "#!/bin/sh\n" + text + "\n");
    std::filesystem::permissions(flags_.python, std::filesystem::perms::owner_all);
  }
  void SetUp() override {
    flags_.names = {"accelerate"};
    job_.model = "opt-6.7b";
    job_.directory = folder_.path().string();
    job_.prompts = {{1, 2, 3}, {4, 5}};
    job_.max_tokens = {7, 8};
    job_.cpu_bytes = 1 << 30;
  }
  TestFolder folder_;
  PeerFlags flags_;
  PeerJob job_;
};

TEST_F(Peers, TheJobGoesThereAndTheResultComesBack) {
  python_is(
      "cp \"$5\" " + folder_.file("seen.json") +
      "\necho loading\n"
      "echo 'RESULT {\"name\": \"accelerate\", \"version\": \"1.2\", \"settings\": \"all on cpu\", \"batch\": 8, \"batches\": 4, \"batches_run\": 1, \"run_s\": 5, \"time_s\": 20}'");
  const PeerResult result = run_peer(flags_, "accelerate", job_);
  EXPECT_EQ(result.time_s, 20);
  std::ifstream in(folder_.file("seen.json"));
  const auto seen = nlohmann::json::parse(in);
  EXPECT_EQ(seen["prompts"], nlohmann::json({{1, 2, 3}, {4, 5}}));
  EXPECT_EQ(seen["max_tokens"], nlohmann::json({7, 8}));
  EXPECT_EQ(seen["cpu_memory_bytes"], 1 << 30);
  EXPECT_FALSE(std::filesystem::exists(seen["offload_directory"].get<std::string>()));  // nothing of it stays
  const std::string table = peers_table(2, 15, {result});
  EXPECT_THAT(table, HasSubstr("accelerate 1.2"));
  EXPECT_THAT(table, HasSubstr("10.0x"));
  EXPECT_THAT(table, HasSubstr("batches of 8, 1 of 4 run"));
  EXPECT_EQ(peers_json({result}, 15)[0]["generated_tokens_per_s"], 0.75);
}

TEST_F(Peers, WhatFailsIsSaid) {
  auto message = [](auto call) -> std::string {
    try {
      call();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  python_is("echo loading; exit 4");
  EXPECT_THAT(message([&] { run_peer(flags_, "accelerate", job_); }), HasSubstr("status 4"));
  python_is("echo no result");
  EXPECT_THAT(message([&] { run_peer(flags_, "accelerate", job_); }), HasSubstr("--peers accelerate"));
  flags_.python = "/nowhere/python";
  EXPECT_THAT(message([&] { check_peers(flags_); }), HasSubstr("--peer-python /nowhere/python: No such file"));
}

TEST_F(Peers, APythonWithoutThemIsToldWhatToInstall) {
  // -S: without site-packages.
  python_is("shift; exec python3 -S -c \"$@\"");
  try {
    check_peers(flags_);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("has no accelerate, transformers, torch; install with: "));
    EXPECT_THAT(error.what(), HasSubstr("-m pip install accelerate transformers torch"));
  }
}

}  // namespace
}  // namespace flexgen::peers_test
