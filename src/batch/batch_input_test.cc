#include "batch/batch_input.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <functional>
#include <numeric>
#include <set>
#include <tuple>

#include "base/error.h"
#include "base/log.h"
#include "base/sha256.h"
#include "batch/fake_runner.h"
#include "batch/line_order.h"
#include "io/packed_bytes.h"

namespace flexgen::batch_input_test {
namespace {

const ByteTokenizer kTokenizer;
const ModelLimits kLimits{256, 1 << 20, &kTokenizer};

/// Of the good lines that are wanted.
Workload workload_where(const BatchInput& input, const std::function<bool(const InputLine&)>& wanted, const ExpectedAnswers& expected = {}) {
  LineSet lines;
  for (int64_t i = 0; i < input.num_lines(); ++i) lines.add(input.line(i).good() && wanted(input.line(i)));
  return workload_of(input, LineOrder(input, lines, false, ""), expected);
}
const std::atomic<bool> kGoOn{false};

std::string line(const std::string& id, const std::string& body) {
  return R"({"custom_id":")" + id + R"(","method":"POST","url":"/v1/completions","body":{)" + body + "}}";
}

TEST(BatchInput, ReadsLinesInEveryShape) {
  TemporaryDirectory directory;
  std::string path = directory.file("in.jsonl");
  std::string text = "\xef\xbb\xbf" + line("a", R"("prompt":"xyz","n":2,"max_tokens":5,"top_p":0.9)") + "\r\n" + "\n  \t\r\n" + "broken\n" +
                     line("b", R"("prompt":["p","qq"],"temperature":0)") + "\n" + line("a", R"("prompt":"again")") + "\n" +
                     line("c", R"("prompt":"end","echo":true,"logprobs":1)");  // no line end
  write_text(path, text);
  BatchInput input = BatchInput::scan(path, kLimits, kGoOn);
  EXPECT_EQ(input.fingerprint(), Sha256::hex(Sha256::of(text)));
  ASSERT_EQ(input.num_lines(), 5);
  std::vector<int64_t> numbers;
  for (int64_t i = 0; i < input.num_lines(); ++i) numbers.push_back(input.line(i).number);
  EXPECT_THAT(numbers, testing::ElementsAre(1, 4, 5, 6, 7));

  EXPECT_EQ(input.line(0).num_sequences, 2);
  EXPECT_EQ(input.line(0).prompt_tokens, 6);
  EXPECT_EQ(std::get<BatchRequest>(input.read(input.line(0))).custom_id, "a");
  EXPECT_EQ(std::get<LineError>(input.read(input.line(1))).custom_id, "line-4");
  EXPECT_EQ(std::get<BatchRequest>(input.read(input.line(2))).prompts.size(), 2u);
  LineError duplicate = std::get<LineError>(input.read(input.line(3)));
  EXPECT_EQ(duplicate.code, "duplicate_custom_id");
  EXPECT_EQ(duplicate.custom_id, "line-6");
  EXPECT_THAT(duplicate.message, testing::HasSubstr("line 1"));
  EXPECT_TRUE(input.line(4).scored);

  Workload work = workload_where(input, [](const InputLine&) { return true; });
  EXPECT_EQ(work.num_sequences, 5);
  EXPECT_EQ(work.longest_sequence, 19);
  EXPECT_EQ(work.total_prompt_tokens, 6 + 3 + 3);
  EXPECT_EQ(work.total_generated_tokens, 10 + 32 + 16);
  EXPECT_TRUE(work.keeps_logits);
  EXPECT_TRUE(work.scores_prompts);
  EXPECT_TRUE(work.reads_logits);
  EXPECT_EQ(work.logprob_bytes, logprob_bytes(std::get<BatchRequest>(input.read(input.line(4))).params, 3));
  EXPECT_GE(work.logprob_bytes, 19 * static_cast<int64_t>(sizeof(TokenLogprob) + 8));
  EXPECT_FALSE(workload_where(input, [](const InputLine& line) { return line.number == 5; }).reads_logits);  // it is greedy
  const Workload last = workload_where(input, [](const InputLine& line) { return line.number == 7; });
  EXPECT_FALSE(last.keeps_logits);  // it draws from all tokens
  EXPECT_TRUE(last.reads_logits);

  // Two sequences of 5 tokens at most, two of 16, one of 16.
  auto expecting = [&](ExpectedAnswers expected) {
    const Workload some = workload_where(
        input, [](const InputLine&) { return true; }, expected);
    EXPECT_EQ(some.longest_sequence, work.longest_sequence);
    EXPECT_EQ(some.total_max_tokens, work.total_generated_tokens);
    return some.total_generated_tokens;
  };
  EXPECT_EQ(expecting({8, {}}), 2 * 5 + 2 * 8 + 8);
  EXPECT_EQ(expecting({100, {0.5f}}), 10 + 32 + 16);
  EXPECT_EQ(expecting({0, {0.8f, 0.25f}}), 2 * 4 + 2 * 4 + 13);  // line by line, in turn
  EXPECT_EQ(expecting({0, {0}}), 5);                             // a token at least
}

/// Ids, custom_ids or errors, and prompts of all lines.
std::vector<std::string> all_lines(const std::string& path, const std::string& directory = "") {
  const BatchInput input = BatchInput::scan(path, kLimits, kGoOn, directory);
  std::vector<std::string> all;
  for (int64_t i = 0; i < input.num_lines(); ++i) {
    const auto read = input.read(input.line(i));
    const auto* request = std::get_if<BatchRequest>(&read);
    all.push_back(
        request ? fmt::format("{} {} {} {}", record_id_text(input.line(i).id), request->custom_id, request->params.seed, request->prompts[0].tokens.size())
                : std::get<LineError>(read).message);
  }
  return all;
}

TEST(BatchInput, AnyFormGivesTheSameLines) {
  spdlog::set_level(spdlog::level::err);
  TemporaryDirectory directory;
  const std::string path = directory.file("in.jsonl");
  std::vector<std::string> requests;
  for (int i = 0; i < 3000; ++i)
    requests.push_back(i == 7 ? "{\"custom_id\":\"b\"}"
                              : line(fmt::format("{}", i), fmt::format(R"("prompt":"{}")", std::string(static_cast<size_t>(i % 700), 'x') + "y")));
  const auto joined = [&](const std::string& between) {
    std::string text = requests[0];
    for (size_t i = 1; i < requests.size(); ++i) text += between + requests[i];
    return text;
  };
  const std::string text = joined("\n") + "\n";
  ASSERT_GT(text.size(), size_t{1} << 20);
  write_text(path, text);
  const auto expected = all_lines(path);
  const std::string fingerprint = BatchInput::scan(path, kLimits, kGoOn).fingerprint();
  ASSERT_EQ(expected.size(), 3000u);
  const std::vector<std::pair<std::string, std::string>> forms{{"gzip", gzipped(text)},
                                                               {"zstd", zstd_packed(text)},
                                                               {"UTF-16", wide(u"\xfeff" + units(text), false)},
                                                               {"UTF-16 big", wide(u"\xfeff" + units(text), true)},
                                                               {"UTF-16 in gzip", gzipped(wide(u"\xfeff" + units(text), false))},
                                                               {"CR", joined("\r") + "\r"},
                                                               {"array", "[" + joined(", ") + "]"},
                                                               {"array in lines", "[\n" + joined(",\r\n") + "\n]\n"},
                                                               {"array in zstd", zstd_packed("[" + joined(",") + "]")}};
  for (const auto& [name, bytes] : forms) {
    write_text(path, bytes);
    EXPECT_EQ(all_lines(path, directory.path()), expected) << name;
    EXPECT_EQ(BatchInput::scan(path, kLimits, kGoOn).fingerprint(), fingerprint) << name;
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory.path()), std::filesystem::directory_iterator()), 1);  // nothing is left
  write_text(path, "id,prompt\n1,x\n");
  EXPECT_THROW(BatchInput::scan(path, kLimits, kGoOn), Error);
  write_text(path, gzipped(text).substr(0, 1000));
  EXPECT_THROW(BatchInput::scan(path, kLimits, kGoOn), Error);
}

// So that an answer finds its line again wherever that went.
TEST(BatchInput, IdsGoByContent) {
  TemporaryDirectory directory;
  const std::string path = directory.file("in.jsonl"), bare = R"({"prompt":"same"})";
  const auto ids = [&](const std::string& text) {
    write_text(path, text);
    const BatchInput input = BatchInput::scan(path, kLimits, kGoOn);
    std::vector<std::string> all;
    for (int64_t i = 0; i < input.num_lines(); ++i) all.push_back(record_id_text(input.line(i).id));
    return all;
  };
  const std::string a = line("a", R"("prompt":"x")"), b = line("b", R"("prompt":"x")");
  const auto first = ids(a + "\n" + b + "\nbroken\n" + bare + "\n" + bare + "\nbroken\n" + a + "\n" + bare);
  EXPECT_EQ(std::set(first.begin(), first.end()).size(), 8u);
  const auto moved = ids("\nnew\n" + b + "\n" + bare + "\n" + a + "\n" + bare + "\n");
  EXPECT_THAT(moved, testing::ElementsAre(testing::_, first[1], first[3], first[0], first[4]));
}

TEST(BatchInput, BareBodiesAreNamedByTheirLines) {
  TemporaryDirectory directory;
  const std::string path = directory.file("in.jsonl");
  write_text(path, "{\"prompt\":\"x\"}\n\n{\"prompt\":\"x\"}\n{\"prompt\":\"x\",\"custom_id\":\"mine\"}\n{\"prompt\":\"x\",\"seed\":5}\n" +
                       line("line-8", R"("prompt":"x")") + "\n" + line("line-3", R"("prompt":"x")") + "\n{\"prompt\":\"z\"}\n{\"prompt\":5}\n");
  const BatchInput input = BatchInput::scan(path, kLimits, kGoOn);
  ASSERT_EQ(input.num_lines(), 8);
  const auto request = [&](int64_t i) { return std::get<BatchRequest>(input.read(input.line(i))); };
  EXPECT_EQ(request(0).custom_id, "line-1");
  EXPECT_EQ(request(1).custom_id, "line-3");
  EXPECT_NE(request(0).params.seed, request(1).params.seed);  // the same prompt twice is drawn twice
  EXPECT_EQ(request(2).custom_id, "mine");
  EXPECT_EQ(request(3).params.seed, 5u);
  EXPECT_EQ(input.line(1).name, hash_of_name("line-3"));
  const auto error = [&](int64_t i) { return std::get<LineError>(input.read(input.line(i))); };
  EXPECT_THAT(error(5).message, testing::HasSubstr("'line-3' is that of line 3 already"));
  EXPECT_THAT(error(6).message, testing::HasSubstr("'line-8', which it would get, is that of line 6"));
  EXPECT_EQ(error(6).custom_id, "line-8#error");
  EXPECT_EQ(error(7).custom_id, "line-9");
}

TEST(BatchInput, ErrorKeysDoNotCollideWithRealIds) {
  TemporaryDirectory directory;
  std::string path = directory.file("in.jsonl");
  write_text(path, line("line-2", R"("prompt":"x")") + "\nbroken\n");
  BatchInput input = BatchInput::scan(path, kLimits, kGoOn);
  EXPECT_EQ(std::get<LineError>(input.read(input.line(1))).custom_id, "line-2#error");
}

TEST(BatchInput, ManyLinesAreIndexedInAFile) {
  TemporaryDirectory directory;
  const std::string path = directory.file("in.jsonl");
  constexpr int kLines = 20000;
  std::string text;
  for (int i = 0; i < kLines; ++i) text += line(fmt::format("{}", i % 7 == 3 ? i - 3 : i), fmt::format(R"("prompt":[1,2],"max_tokens":{})", i % 50 + 1)) + "\n";
  write_text(path, text);
  const BatchInput input = BatchInput::scan(path, kLimits, kGoOn, directory.path());
  ASSERT_EQ(input.num_lines(), kLines);
  for (int i = 0; i < kLines; ++i) {
    const InputLine entry = input.line(i);
    ASSERT_EQ(entry.number, i + 1);
    ASSERT_EQ(entry.good(), i % 7 != 3);
    if (entry.good()) {
      ASSERT_EQ(entry.max_tokens, i % 50 + 1);
    } else {
      ASSERT_EQ(entry.duplicate_of, i - 3 + 1);
    }
  }
  EXPECT_EQ(std::get<LineError>(input.read(input.line(17))).message, "custom_id '14' is that of line 15 already; only the first one is answered");
  // Nothing is left beside the input.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory.path()), std::filesystem::directory_iterator()), 1);
}

TEST(ExpectedAnswers, KeepsABoundedSample) {
  ExpectedAnswers expected;
  for (int i = 0; i < 100000; ++i) expected.add(static_cast<float>(i) / 100000);
  EXPECT_EQ(expected.num_known, 100000);
  EXPECT_LE(expected.shares.size(), ExpectedAnswers::kMaxShares);
  EXPECT_GT(expected.shares.size(), ExpectedAnswers::kMaxShares / 2 - 1);
  EXPECT_NEAR(std::accumulate(expected.shares.begin(), expected.shares.end(), 0.0) / static_cast<double>(expected.shares.size()), 0.5, 0.01);
}

TEST(LineSet, WalksThroughItsLinesInOrder) {
  TemporaryDirectory directory;
  const std::string path = directory.file("in.jsonl");
  std::string text;
  for (int i = 0; i < 1000; ++i) text += line(std::to_string(i), R"("prompt":[1],"n":2)") + "\n";
  write_text(path, text);
  const BatchInput input = BatchInput::scan(path, kLimits, kGoOn);
  LineSet set;
  std::vector<int64_t> wanted;
  for (int i = 0; i < 1000; ++i) {
    const bool in = i > 300 && (i < 310 || i % 97 == 0 || i == 999);
    set.add(in);
    if (in) wanted.push_back(i);
  }
  EXPECT_EQ(set.count(), static_cast<int64_t>(wanted.size()));
  LineWalk walk(input, set);
  std::vector<int64_t> walked;
  while (auto next = walk.next()) walked.push_back(*next);
  EXPECT_EQ(walked, wanted);
  EXPECT_EQ(walk.sequences(), 2 * set.count());
  EXPECT_FALSE(walk.next());
}

std::vector<LineToDo> in_order(const LineOrder& order) {
  std::vector<LineToDo> lines;
  for (int64_t i = 0; i < order.size(); ++i) lines.push_back(order[i]);
  return lines;
}

TEST(LineOrder, SharersStayTogetherAndTellWhatTheyShare) {
  TemporaryDirectory directory;
  const std::string path = directory.file("in.jsonl");
  const std::string head(40, 'h'), deep = head + std::string(40, 'd');
  auto prompt = [](const std::string& text) { return fmt::format(R"("prompt":"{}","max_tokens":4)", text); };
  write_text(path, line("0", prompt(deep + "a")) + "\n" + line("1", prompt("alone")) + "\n" + line("2", prompt(head + "b")) + "\n" +
                       line("bad", R"("prompt":7)") + "\n" + line("4", prompt(deep + "c")) + "\n" + line("5", prompt(deep + "d")) + "\n" +
                       line("6", prompt(deep + "e") + R"(,"logprobs":1,"echo":true)") + "\n");
  const BatchInput input = BatchInput::scan(path, kLimits, kGoOn);
  LineSet good, left;
  for (int64_t i = 0; i < input.num_lines(); ++i) {
    good.add(input.line(i).good());
    left.add(input.line(i).good() && i != 4);
  }
  const LineOrder order(input, good, true, "");
  const auto lines = in_order(order);
  std::vector<std::tuple<int64_t, int64_t, int64_t>> seen;
  for (const LineToDo& to_do : lines) seen.emplace_back(to_do.line, to_do.prefix_tokens, to_do.shared_tokens);
  // 80 tokens in common, of which 40 with line 2 too: in whole 16s. A prompt that is scored shares nothing.
  EXPECT_EQ(seen, (std::vector<std::tuple<int64_t, int64_t, int64_t>>{{0, 80, 0}, {4, 80, 80}, {5, 80, 80}, {2, 32, 32}, {1, 0, 0}, {6, 0, 0}}));
  const Workload work = workload_of(input, order);
  EXPECT_EQ(work.total_shared_tokens, 80 + 80 + 32);
  EXPECT_EQ(work.total_prefix_tokens, 80 + 80 + 80 + 32);
  EXPECT_EQ(workload_of(input, order, {}, 64).total_shared_tokens, 64 + 64);

  // What is done does not change what a line's usage tells, and the rest shares as before.
  const auto rest = in_order(LineOrder(input, left, true, ""));
  ASSERT_EQ(rest.size(), 5U);
  EXPECT_EQ(rest[1].line, 5);
  EXPECT_EQ(rest[1].shared_tokens, 80);
  for (const LineToDo& to_do : rest)
    for (const LineToDo& whole : lines)
      if (whole.line == to_do.line) {
        EXPECT_EQ(whole.usage_tokens, to_do.usage_tokens);
      }

  const auto plain = in_order(LineOrder(input, good, false, ""));
  EXPECT_EQ(plain[1].line, 1);
  EXPECT_EQ(plain[1].prefix_tokens + plain[2].shared_tokens, 0);
}

TEST(LineOrder, ChoicesAndPromptsOfALineShareToo) {
  TemporaryDirectory directory;
  const std::string path = directory.file("in.jsonl"), head(40, 'h');
  write_text(path, line("0", fmt::format(R"("prompt":"{}","n":3)", head)) + "\n" +
                       line("1", fmt::format(R"("prompt":["{0}a","{0}b","c"])", std::string(20, 'x'))) + "\n");
  const BatchInput input = BatchInput::scan(path, kLimits, kGoOn);
  EXPECT_EQ(input.line(0).inside_prefix, 32);
  EXPECT_EQ(input.line(0).inside_shared, 64);
  EXPECT_EQ(input.line(1).inside_prefix, 16);
  EXPECT_EQ(input.line(1).inside_shared, 16);
  LineSet all;
  all.add(true);
  all.add(false);
  const Workload work = workload_of(input, LineOrder(input, all, true, ""));
  EXPECT_EQ(work.total_prefix_tokens, 3 * 32);
  EXPECT_EQ(work.total_shared_tokens, 2 * 32);
  EXPECT_EQ(workload_of(input, LineOrder(input, all, false, "")).total_prefix_tokens, 0);
}

TEST(LineOrder, OfLinesThatAskForTheSameOneIsGivenOut) {
  TemporaryDirectory directory;
  const std::string path = directory.file("in.jsonl"), head(40, 'h');
  auto asked = [&](const std::string& id, const std::string& end, const std::string& more = R"(,"temperature":0)") {
    return line(id, fmt::format(R"("prompt":"{}{}"{})", head, end, more)) + "\n";
  };
  // 1 to 4 have all whole pages in common; 0, 2 and 6 are the same, whatever their seeds, and so would 5 be, were it not drawn.
  write_text(path, asked("0", "a") + asked("1", "b") + asked("2", "a", R"(,"seed":3,"temperature":0)") + asked("3", "b", R"(,"temperature":0,"echo":true)") +
                       asked("4", "c") + asked("5", "a", "") + asked("6", "a") + asked("6", "a"));
  const BatchInput input = BatchInput::scan(path, kLimits, kGoOn);
  EXPECT_EQ(input.line(0).same_as, 0);
  EXPECT_EQ(input.line(1).same_as, -1);
  EXPECT_EQ(input.line(2).same_as, 0);
  EXPECT_EQ(input.line(6).same_as, 0);
  EXPECT_FALSE(input.line(7).good());
  LineSet good, rest;
  for (int64_t i = 0; i < input.num_lines(); ++i) {
    good.add(input.line(i).good());
    rest.add(input.line(i).good() && i > 0);
  }
  const LineOrder order(input, good, true, "");
  std::vector<int64_t> given, same;
  for (const LineToDo& to_do : in_order(order)) given.push_back(to_do.line);
  for (int64_t i = 0; i < order.num_same(); ++i) same.push_back(order.same(i).line);
  EXPECT_EQ(given, (std::vector<int64_t>{0, 1, 3, 4, 5}));
  EXPECT_EQ(same, (std::vector<int64_t>{2, 6}));
  EXPECT_EQ(order[0].num_same, 2);
  EXPECT_EQ(order.same(0).usage_tokens, 32);
  const LineOrder without_the_first(input, rest, true, "");
  EXPECT_EQ(without_the_first[0].line, 2);
  EXPECT_EQ(without_the_first[0].num_same, 1);
  EXPECT_EQ(without_the_first[0].usage_tokens, 32);
  EXPECT_EQ(in_order(LineOrder(input, good, false, "")).size(), 7u);
}

TEST(BatchInput, LongLinesAreBounded) {
  TemporaryDirectory directory;
  std::string path = directory.file("in.jsonl");
  auto long_line = [](int64_t bytes) {
    std::string start = line("long", R"("prompt":")");
    start.resize(start.size() - 2);
    return start + std::string(static_cast<size_t>(bytes) - start.size() - 3, 'x') + "\"}}";
  };
  ModelLimits roomy{256, 1 << 30, &kTokenizer};
  for (int64_t bytes : {(int64_t{1} << 20) - 1, int64_t{1} << 20, (int64_t{1} << 20) + 1, kMaxLineBytes, kMaxLineBytes + 1, 2 * kMaxLineBytes}) {
    write_text(path, line("a", R"("prompt":"x")") + "\n" + long_line(bytes) + "\n" + line("b", R"("prompt":"x")") + "\n");
    BatchInput input = BatchInput::scan(path, roomy, kGoOn);
    ASSERT_EQ(input.num_lines(), 3);
    EXPECT_EQ(input.line(1).bytes, bytes);
    EXPECT_EQ(input.line(1).good(), bytes <= kMaxTextBytes) << bytes;  // the text is nearly all of it
    auto parsed = input.read(input.line(1));
    if (bytes > kMaxTextBytes) {
      EXPECT_EQ(std::get<LineError>(parsed).code, bytes > kMaxLineBytes ? "line_too_long" : "invalid_value");
    }
    EXPECT_EQ(std::get<BatchRequest>(input.read(input.line(2))).custom_id, "b");
  }
}

TEST(BatchInput, NoticesAChange) {
  TemporaryDirectory directory;
  std::string path = directory.file("in.jsonl");
  write_text(path, line("a", R"("prompt":"x")") + "\n");
  BatchInput input = BatchInput::scan(path, kLimits, kGoOn);
  std::fstream(path, std::ios::in | std::ios::out).seekp(15) << "Z";
  EXPECT_THROW(input.read(input.line(0)), Error);
}

TEST(BatchInput, RefusesWhatIsNoFile) {
  TemporaryDirectory directory;
  EXPECT_THROW(BatchInput::scan(directory.path(), kLimits, kGoOn), Error);
  EXPECT_THROW(BatchInput::scan(directory.file("missing"), kLimits, kGoOn), Error);
  mkfifo(directory.file("pipe").c_str(), 0600);
  EXPECT_THROW(BatchInput::scan(directory.file("pipe"), kLimits, kGoOn), Error);
}

TEST(BatchInput, EmptyFileAndStop) {
  TemporaryDirectory directory;
  std::string path = directory.file("in.jsonl");
  write_text(path, "");
  EXPECT_EQ(BatchInput::scan(path, kLimits, kGoOn).num_lines(), 0);
  write_text(path, "x\n");
  EXPECT_TRUE(BatchInput::scan(path, kLimits, std::atomic<bool>{true}).stopped());
}

}  // namespace
}  // namespace flexgen::batch_input_test
