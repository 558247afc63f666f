#include "cli/named_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "base/error.h"
#include "cli/command_definitions.h"
#include "io/same_file.h"
#include "io/test_folder.h"

namespace flexgen::named_files_test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::string refusal(const NamedFiles& named) {
  try {
    check_named_files(named);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::string refusal_of(CommandDefinition& command) { return refusal(command.named_files()); }

std::vector<CLI::Option*> file_flags(CommandDefinition& command) {
  std::vector<CLI::Option*> flags;
  for (CLI::Option* option : command.app.get_options())
    if (command.file_uses.contains(option)) flags.push_back(option);
  return flags;
}

bool writes(const CommandDefinition& command, const CLI::Option* option) { return command.file_uses.at(option) != FileUse::kRead; }

/// What the words of a command come to; what they say is parsed as it is, and not checked.
std::vector<NamedFile> files_of(const std::string& command, std::vector<std::string> words) {
  for (const auto& definition : define_commands())
    if (definition->app.get_name() == command) {
      std::reverse(words.begin(), words.end());
      definition->app.parse(words);
      return definition->named_files().files;
    }
  return {};
}

// A flag whose type is not among these names a file: file() defines it.
TEST(NamedFiles, EveryFlagSaysWhatBecomesOfItsFile) {
  const std::set<std::string> others{"",      "TEXT",  "TEXT,...", "NAME",        "NAME,...",          "NAME[,NAME]", "SIZE",  "ADDRESS", "KEY",
                                     "ID",    "LEVEL", "DIR",      "DIR|GGUF|ID", "DIR|GGUF|ID|SHAPE", "N",           "N,...", "G,...",   "K",
                                     "P",     "S",     "X",        "I/N",         "N:N:...",           "N|A:B",       "A[:B]", "G:C:D",   "WHERE",
                                     "WHICH", "JSON"};
  for (const auto& command : define_commands())
    for (const CLI::Option* option : command->app.get_options())
      EXPECT_NE(command->file_uses.contains(option), others.contains(option->get_type_name()))
          << command->app.get_name() << " " << option->get_name() << " " << option->get_type_name();
}

TEST(NamedFiles, WhatOneFlagWritesNoOtherMayName) {
  int pairs = 0;
  for (const auto& command : define_commands())
    for (CLI::Option* written : file_flags(*command))
      for (CLI::Option* other : file_flags(*command)) {
        if (other == written || !writes(*command, written)) continue;
        written->add_result("no-such-folder/x");
        other->add_result("no-such-folder/../no-such-folder/x");
        EXPECT_THAT(refusal_of(*command), HasSubstr("of which nothing would be left"))
            << command->app.get_name() << " " << written->get_name() << " " << other->get_name();
        written->clear();
        other->clear();
        ++pairs;
      }
  EXPECT_GT(pairs, 100);
}

TEST(NamedFiles, NoFlagWritesOverTheModel) {
  TestFolder folder;
  const std::string config = folder.put("config.json", "{}"), answers = folder.put("answers.jsonl", "");
  for (const auto& command : define_commands())
    for (CLI::Option* written : file_flags(*command)) {
      CLI::Option* model = command->app.get_option_no_throw("--model");
      if (!model || !writes(*command, written) || command->file_uses.at(written) == FileUse::kAddedTo) continue;
      model->add_result(folder.path());
      written->add_result(config);
      EXPECT_THAT(refusal_of(*command), HasSubstr("a file of a model")) << command->app.get_name() << " " << written->get_name();
      written->clear();
      written->add_result(answers);
      EXPECT_EQ(refusal_of(*command), "") << command->app.get_name() << " " << written->get_name();
      written->clear();
      model->clear();
    }
}

TEST(NamedFiles, WordsThatNameNoFile) {
  EXPECT_EQ(files_of("generate", {"-m", "m", "-", "--json", "--hardware", "generic", "--expert-statistics", "auto"}).size(), 0U);
  EXPECT_EQ(files_of("generate", {"-m", "m", "-", "--json=auto", "--hardware", "auto", "--expert-statistics", "generic"}).size(), 3U);
}

TEST(NamedFiles, NothingIsWrittenToADash) {
  for (const auto& command : define_commands())
    for (CLI::Option* option : file_flags(*command)) {
      option->add_result("-");
      EXPECT_EQ(refusal_of(*command).find(" -: what it writes goes to a file") != std::string::npos, writes(*command, option))
          << command->app.get_name() << " " << option->get_name();
      option->clear();
    }
}

// Of what lies beside an output nothing is lost either.
TEST(NamedFiles, BesideAnOutput) {
  TestFolder folder;
  const std::string in = folder.put("in.jsonl", ""), out = folder.file("out.jsonl");
  const auto refused = [&](const std::string& command, std::vector<std::string> words, const std::string& flag, const std::string& file) {
    words.push_back(flag + "=" + file);
    return !refusal({files_of(command, words), "", ""}).empty();
  };
  const std::vector<std::string> batch{"-m", "m", "-i", in, "-o", out}, map{"-m", "m", "-i", in, "-o", out, "--prompt-template", "x", "--chat"};
  for (const char* end : {"", ".job", ".input", ".removed"}) {
    for (const char* flag : {"--json", "--trace", "--error-output"}) EXPECT_TRUE(refused("run-batch", batch, flag, out + end)) << flag << end;
    // The kept requests are read alone where others come from a file.
    for (const char* flag : {"--chat-template", "--config"})
      EXPECT_EQ(refused("run-batch", batch, flag, out + end), std::string(end) != ".input") << flag << end;
    for (const char* flag : {"--json", "--trace"}) EXPECT_TRUE(refused("map", map, flag, out + ".answers.jsonl" + end)) << flag << end;
  }
  for (const char* end : {".lines.jsonl", ".written"})
    for (const char* flag : {"--json", "--trace", "--chat-template", "--examples"}) EXPECT_TRUE(refused("map", map, flag, out + end)) << flag << end;
  EXPECT_FALSE(refused("run-batch", {"-m", "m", "-o", out}, "--input", out + ".input")) << "a job may go on with the requests that it keeps";
  EXPECT_TRUE(refused("run-batch", {"-m", "m", "-o", out, "-i", "-"}, "--chat-template", out + ".input")) << "which are written";
  EXPECT_TRUE(refused("run-batch", {"-m", "m", "-i", in, "-o", out, "--error-output", "e"}, "--json", "e.removed"));
  EXPECT_FALSE(refused("run-batch", batch, "--json", out + ".json"));
}

TEST(NamedFiles, OfShards) {
  TestFolder folder;
  const std::string in = folder.put("in.jsonl", ""), out = folder.file("out.jsonl"), own = folder.put("out.0-of-2.jsonl", ""),
                    other = folder.put("out.1-of-2.jsonl", "");
  const auto said = [&](const std::string& command, const std::vector<std::string>& words) { return refusal({files_of(command, words), "", ""}); };
  for (const std::string& path : {own, other, own + ".job", other + ".job"}) {
    EXPECT_THAT(said("run-batch", {"-m", "m", "-i", in, "-o", out, "--shard", "0/2", "--json=" + path}), HasSubstr("nothing would be left")) << path;
    EXPECT_THAT(said("merge", {"-i", in, "-o", out, "--json=" + path}), HasSubstr("that is a file of a shard too")) << path;
    EXPECT_THAT(said("merge", {"-i", in, "-o", out, "--json=" + path, own, other}), HasSubstr("nothing would be left")) << path;
  }
  EXPECT_EQ(said("run-batch", {"-m", "m", "-i", in, "-o", out, "--shard", "0/2"}), "");
  EXPECT_EQ(said("merge", {"-i", in, "-o", out}), "");
  EXPECT_EQ(said("merge", {"-i", in, "-o", out, own, other}), "");
  EXPECT_THAT(said("merge", {"-i", in, "-o", own, own, other}), HasSubstr("nothing would be left"));
}

TEST(NamedFiles, LinksAreFollowed) {
  TestFolder folder;
  const std::string there = folder.put("there", "x"), missing = folder.file("missing");
  fs::create_symlink(there, folder.file("soft"));
  fs::create_hard_link(there, folder.file("hard"));
  fs::create_symlink("missing", folder.file("to_missing"));
  fs::create_symlink(folder.path(), folder.file("folder"));
  for (const char* name : {"soft", "hard", "folder/there", "folder/soft"}) EXPECT_TRUE(is_same_file(there, folder.file(name))) << name;
  for (const char* name : {"to_missing", "folder/missing", "folder/to_missing"}) EXPECT_TRUE(is_same_file(missing, folder.file(name))) << name;
  EXPECT_FALSE(is_same_file(there, missing));
  EXPECT_FALSE(is_same_file(missing, folder.file("other")));
  EXPECT_FALSE(is_same_file("/dev/null", "/dev/null"));
}

}  // namespace
}  // namespace flexgen::named_files_test
