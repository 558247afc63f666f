#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "batch/byte_tokenizer.h"
#include "io/test_folder.h"
#include "io/whole_file.h"
#include "tables/choice_prompt.h"
#include "tables/csv.h"
#include "tables/judged_value.h"
#include "tables/metrics.h"
#include "tables/row_prompt.h"
#include "tables/shots.h"
#include "tables/table_reader.h"
#include "tables/table_writer.h"
#include "text/jinja/json_values.h"

namespace flexgen::tables_test {
namespace {

using Rows = std::vector<std::vector<std::string>>;

/// Gives few bytes at a time, so that every place is once the end of a piece.
class SlowText : public ByteSource {
 public:
  SlowText(std::string text, size_t most) : text_(std::move(text)), most_(most) {}
  size_t read(char* data, size_t room) override {
    const size_t count = text_.copy(data, std::min(room, most_), at_);
    at_ += count;
    return count;
  }

 private:
  std::string text_;
  size_t most_, at_ = 0;
};

Rows rows_of(const std::string& text, char delimiter = ',', size_t piece = 1) {
  SlowText source(text, piece);
  CsvReader reader(source, delimiter, "t.csv");
  Rows rows{reader.columns()};
  for (std::vector<std::string> row; reader.read(&row);) rows.push_back(row);
  return rows;
}

std::string why_not(const std::string& text, char delimiter = ',') {
  try {
    rows_of(text, delimiter);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Csv, ReadsWhatTheStandardHas) {
  const Rows expected{{"a", "b"}, {"1", "x, y"}, {"", "line\r\nend \"q\""}, {" s ", ""}};
  const std::string text = "a,b\n1,\"x, y\"\n\"\",\"line\r\nend \"\"q\"\"\"\n s ,\n";
  EXPECT_EQ(rows_of(text), expected);
  EXPECT_EQ(rows_of(text, ',', 1 << 20), expected);
  EXPECT_EQ(rows_of("\xef\xbb\xbf"
                    "a,b\r\n1,\"x, y\"\r\n\"\",\"line\r\nend \"\"q\"\"\"\r\n\r\n s ,"),
            expected);
  EXPECT_EQ(rows_of("a\tb\n5\" disk\t,\n", '\t'), (Rows{{"a", "b"}, {"5\" disk", ","}}));
  EXPECT_EQ(rows_of("a\n\nx\n"), (Rows{{"a"}, {""}, {"x"}})) << "in one column a blank line is an empty field";
  EXPECT_EQ(rows_of("a,b\r1,2\r"), (Rows{{"a", "b"}, {"1", "2"}}));
}

TEST(Csv, OneColumnMayHaveNoName) {  // as pandas writes a table with its index
  EXPECT_EQ(rows_of(",b\n0,x\n"), (Rows{{"", "b"}, {"0", "x"}}));
  EXPECT_EQ(rows_of(csv_row({"a", ""}, {}) + csv_row({"1", "2"}, {})), (Rows{{"a", ""}, {"1", "2"}}));
}

TEST(Csv, NamesTheRowThatIsWrong) {
  EXPECT_THAT(why_not("a,b\n1,2\n3\n"), testing::HasSubstr("t.csv row 2 (line 3) has 1 fields"));
  EXPECT_THAT(why_not("a,b\n\"1\n\n\",2\n3,4,5\n"), testing::HasSubstr("row 2 (line 5) has 3 fields"));
  EXPECT_THAT(why_not("a,b\n1,\"2\n3,4\n"), testing::HasSubstr("row 1 (line 2): a double quote is opened that nothing closes"));
  EXPECT_THAT(why_not("a,b\n1,\"2\"x\n"), testing::HasSubstr("row 1 (line 2): text comes after the double quote that closes field 2"));
  EXPECT_THAT(why_not("a,b\n1,2\"\n"), testing::HasSubstr("field 2 has a double quote"));
  EXPECT_THAT(why_not("a,b\n1,\xff\n"), testing::HasSubstr("row 1 (line 2): column 2 is not UTF-8"));
  EXPECT_THAT(why_not("a,b,a\n"), testing::HasSubstr("two columns are named 'a'"));
  EXPECT_THAT(why_not(",b,\n"), testing::HasSubstr("column 3 of the header is not the only one without a name"));
  EXPECT_THAT(why_not("\na\n"), testing::HasSubstr("the first line is empty"));
  EXPECT_THAT(why_not(""), testing::HasSubstr("is empty"));
  EXPECT_THAT(why_not("a,b\n1,\"" + std::string(kMaxRowBytes, 'x')), testing::HasSubstr("has more than 64.0 MiB"));
}

TEST(Csv, WhatIsWrittenIsReadAsItWas) {
  for (const char delimiter : {',', '\t'})
    for (const bool crlf : {false, true}) {
      const CsvForm form{delimiter, crlf, false};
      const Rows rows{{"a", "b"}, {"", "\t,"}, {"\"", "x\ny\r\nz\r"}, {"\xc3\xa4", " "}};
      std::string text;
      for (const auto& row : rows) text += csv_row(row, form);
      EXPECT_EQ(rows_of(text, delimiter), rows);
    }
  EXPECT_EQ(csv_row({""}, {}), "\"\"\n");
  EXPECT_EQ(rows_of(csv_row({"\xef\xbb\xbf"
                             "a"},
                            {})),
            (Rows{{"\xef\xbb\xbf"
                   "a"}}))
      << "a name that begins as a byte order mark does";
}

TEST(Tables, RowsOfJsonInAnyForm) {
  TestFolder folder;
  const std::string first = R"({"a": 1})", second = R"({"a": [2, {"b": null}]})";
  for (const std::string& text : {first + "\n" + second, "[" + first + ", " + second + "]", "[\n  " + first + ",\n  {\n\"a\": [2,\n {\"b\": null}]}\n]\n",
                                  "\xef\xbb\xbf[" + first + "," + second + "]", first + second, first + "\r" + second}) {
    TableReader table(folder.put("t.json", text), TableKind::kJsonl);
    TableRow row;
    std::string rows;
    while (table.next(&row)) rows += fmt::format("{}:{};", row.number, cell_text(*value_of(row, {}, "a")));
    EXPECT_EQ(rows, R"(1:1;2:[2, {"b": null}];)") << text;
  }
  TableReader broken(folder.put("t.json", "[" + first + ", " + second), TableKind::kJsonl);
  TableRow row;
  EXPECT_THROW(while (broken.next(&row)), Error);
  EXPECT_EQ(table_kind_of("t.json.gz", "-i", true), TableKind::kJsonl);
  EXPECT_THROW(table_kind_of("t.json", "-o", false), Error);
}

TEST(Tables, WhatIsNoTableIsNamed) {
  using namespace std::string_literals;
  TestFolder folder;
  for (const auto& [text, what] :
       std::initializer_list<std::pair<std::string, const char*>>{{"\xff\xfe\0\0a\0\0\0,\0\0\0b\0\0\0"s, "is no table: it is in UTF-32; write it as UTF-8"},
                                                                  {"\xfd\x37zXZ\0x"s, "is no table: it is compressed with xz; unpack it"},
                                                                  {"PAR1....PAR1", "is a Parquet file"},
                                                                  {"version https://git-lfs.github.com/spec/v1\noid x\n", "Git LFS pointer"}})
    for (const TableKind kind : {TableKind::kCsv, TableKind::kJsonl}) try {
        TableReader(folder.put("t.csv", text), kind);
        ADD_FAILURE() << what;
      } catch (const Error& error) {
        EXPECT_THAT(error.what(), testing::HasSubstr(what));
      }
  // A row of JSON that says two things of one column.
  for (const auto& [text, what] :
       std::initializer_list<std::pair<std::string, const char*>>{{R"({"a": 1, "b": {"c": 1, "c": 2}})", "row 1 (line 1): it has 'c' twice"},
                                                                  {R"({"a": 1, "a": 1})", "it has 'a' twice; rename one"},
                                                                  {R"({"a": {"0": "x", "1": "y"}, "b": {"0": 1, "1": 2}})", "orient=\"records\""},
                                                                  {R"({"a": NaN})", "JSON has no NaN and no Infinity, so write null"},
                                                                  {R"({"a": 1e999})", "the number 1e999 is out of range"}})
    try {
      TableReader table(folder.put("t.jsonl", text), TableKind::kJsonl);
      TableRow row;
      while (table.next(&row)) {
      }
      ADD_FAILURE() << what;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(what));
    }
}

// pandas' orient="index", or columns with names of rows; the same as a row among others is one.
TEST(Tables, AnObjectThatIsTheWholeTableIsNoRow) {
  TestFolder folder;
  const std::string text = R"({"de": {"text": "x", "n": 1}, "en": {"n": 2, "text": "y"}})";
  TableRow row;
  TableReader alone(folder.put("t.json", text), TableKind::kJsonl);
  ASSERT_TRUE(alone.next(&row));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { alone.next(&row); }), testing::HasSubstr("holds the table by columns"));
  TableReader two(folder.put("t.json", text + "\n" + text), TableKind::kJsonl);
  EXPECT_TRUE(two.next(&row) && two.next(&row));
  EXPECT_FALSE(two.next(&row));
  TableReader other(folder.put("t.json", R"({"a": {"x": 1}, "b": {"y": 1}})"), TableKind::kJsonl);
  EXPECT_TRUE(other.next(&row));
  EXPECT_FALSE(other.next(&row));
  // Rows that have a nested column.
  for (const std::string rows : {R"({"doc": {"title": "t", "text": "x"}})",
                                 R"({"doc": {"text": "a"}})"
                                 "\n"
                                 R"({"doc": null})"
                                 "\n"
                                 R"({"doc": "x"})"
                                 "\n{}\n"
                                 R"({"doc": {}})",
                                 R"({"labels": {"0": "no", "1": "yes"}})"
                                 "\n"
                                 R"({"labels": {"0": "no", "1": "yes"}})"}) {
    TableReader nested(folder.put("t.json", rows), TableKind::kJsonl);
    int64_t count = 0;
    while (nested.next(&row)) ++count;
    EXPECT_EQ(count, 1 + std::count(rows.begin(), rows.end(), '\n')) << rows;
  }
}

TEST(Tables, KindsGoByTheName) {
  EXPECT_EQ(table_kind_of("a.b.CSV", "-i", false), TableKind::kCsv);
  EXPECT_EQ(table_kind_of("t.jsonl.zst", "-i", true), TableKind::kJsonl);
  EXPECT_THROW(table_kind_of("t.csv.gz", "-o", false), Error);
  try {
    table_kind_of("t.parquet", "--input", true);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("tools/parquet_table.py"));
  }
}

/// The rows of `text` once they were read and written with an answer.
std::string answered(const TestFolder& folder, const std::string& name, const std::string& text, const std::string& output,
                     const std::vector<std::string>& columns = {}) {
  TableReader table(folder.put(name, text), table_kind_of(name, "-i", true));
  RewrittenFile file(folder.file(output), ::write);
  const bool header = table_kind_of(name, "-i", true) != TableKind::kJsonl;
  TableWriter writer(file, table_kind_of(output, "-o", false), header ? table.form() : CsvForm(), header ? table.columns() : columns, {"answer"});
  for (TableRow row; table.next(&row);) writer.add(row, {row.number % 2 ? jinja::Value("ja, \"so\"") : jinja::Value()});
  file.finish();
  file.replace();
  return read_whole_file(folder.file(output));
}

TEST(Tables, RowsStayAsTheyWere) {
  const TestFolder folder;
  EXPECT_EQ(answered(folder, "t.csv", "a,b\r\n1,\"x\ny\"\r\n2,\r\n", "o.csv"), "a,b,answer\r\n1,\"x\ny\",\"ja, \"\"so\"\"\"\r\n2,,\r\n");
  EXPECT_EQ(answered(folder, "t.jsonl", "{\"n\": 1.50, \"l\": [1, {}]}\n\n{}\n", "o.jsonl"),
            "{\"n\": 1.50, \"l\": [1, {}], \"answer\": \"ja, \\\"so\\\"\"}\n{\"answer\": null}\n");
  EXPECT_EQ(answered(folder, "t.jsonl", "{\"n\": 1.5, \"l\": [1]}\n{\"s\": \"x\", \"n\": null}\n", "o.tsv", {"n", "l", "s"}),
            "n\tl\ts\tanswer\n1.5\t[1]\t\t\"ja, \"\"so\"\"\"\n\t\tx\t\n");
  EXPECT_EQ(answered(folder, "t.jsonl", "{\"n\": 1.50, \"l\": [44846436436264362643, 8871049.19807971049]}\n", "o.csv", {"n", "l"}),
            "n,l,answer\n1.50,\"[44846436436264362643, 8871049.19807971049]\",\"ja, \"\"so\"\"\"\n");
  EXPECT_EQ(answered(folder, "t.tsv", "a\tb\n1\t2\n", "o.jsonl"), "{\"a\": \"1\", \"b\": \"2\", \"answer\": \"ja, \\\"so\\\"\"}\n");
}

Shots shots_of(const TestFolder& folder, const std::string& text, int64_t count, bool balanced, uint64_t seed = 0, bool with_spares = false) {
  TableReader table(folder.put("ex.csv", text), TableKind::kCsv);
  return choose_shots(table, "label", {count, balanced, seed, with_spares});
}

TEST(Tables, ExamplesAreChosenOnceAndAlike) {
  const TestFolder folder;
  std::string text = "q,label\n";
  for (int i = 0; i < 200; ++i) text += fmt::format("{},{}\n", i, i % 20 == 0 ? "yes" : "no");
  const auto numbers = [&](const Shots& shots) {
    std::vector<int64_t> found;
    for (const Shot& shot : shots.shots) found.push_back(shot.row.number);
    return found;
  };
  EXPECT_EQ(numbers(shots_of(folder, text, 6, false)), numbers(shots_of(folder, text, 6, false)));
  EXPECT_NE(numbers(shots_of(folder, text, 6, false)), numbers(shots_of(folder, text, 6, false, 1)));
  int yes = 0;
  const Shots balanced = shots_of(folder, text, 5, true);
  for (const Shot& shot : balanced.shots) yes += shot.answer == "yes";
  EXPECT_EQ(balanced.shots.size(), 5u);
  EXPECT_EQ(yes, 2);
  EXPECT_THROW(shots_of(folder, text, 30, true), Error) << "there are ten of yes";
  EXPECT_THROW(shots_of(folder, text, 1, true), Error);
  EXPECT_THROW(shots_of(folder, text, 201, false), Error);
}

TEST(Tables, PromptsShowExamples) {
  const TestFolder folder;
  const Shots shots = shots_of(folder, "q,label\n1,one\n", 1, false);
  TableReader table(folder.put("t.csv", "q,a b\n2,z\n"), TableKind::kCsv);
  TableRow row;
  ASSERT_TRUE(table.next(&row));
  EXPECT_EQ(RowPrompts("{{ q }}:", "p", shots, "").text(table, row), "1: one\n\n2:");
  EXPECT_EQ(RowPrompts("{% for e in examples %}{{ e.q }}={{ e.label }};{% endfor %}{{ q }}{{ row['a b'] }}", "p", shots, "").text(table, row), "1=one;2z");
  const std::vector<Message> messages = RowPrompts("{{ q }}?", "p", shots, "Be short.").messages(table, row);
  ASSERT_EQ(messages.size(), 4u);
  EXPECT_EQ(messages[2].role + messages[2].content, "assistantone");
  try {
    RowPrompts("{{ q }}\n{{ qq }}", "p.j2", Shots(), "").text(table, row);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::AllOf(testing::HasSubstr("t.csv row 1: p.j2 line 2: 'qq' is undefined"), testing::HasSubstr("q, a b")));
  }
}

TEST(Tables, NoRowIsAnExampleOfItsOwn) {
  const TestFolder folder;
  std::string text = "q,label\n";
  for (int i = 1; i <= 8; ++i) text += fmt::format("{},{}{}\n", i, i % 2 ? "odd" : "even", i);
  std::string balanced = "q,label\n";
  for (int i = 1; i <= 8; ++i) balanced += fmt::format("{},{}\n", i, i % 2 ? "odd" : "even");
  for (const auto& [content, is_balanced] : {std::pair{text, false}, std::pair{balanced, true}}) {
    const Shots shots = shots_of(folder, content, 4, is_balanced, 0, true), apart = shots_of(folder, content, 4, is_balanced);
    EXPECT_EQ(shots.spares.size(), is_balanced ? 2u : 1u);
    const RowPrompts before("{{ q }}:", "p", shots, ""), inside("{% for e in examples %}{{ e.q }}: {{ e.label }}\n\n{% endfor %}{{ q }}:", "p", shots, "");
    const RowPrompts of_another("{{ q }}:", "p", apart, "");
    TableReader table(folder.file("ex.csv"), TableKind::kCsv);
    TableRow row;
    int own = 0;
    while (table.next(&row)) {
      const std::string shown = before.text(table, row), own_line = fmt::format("{}: {}\n", row.cells[0], row.cells[1]);
      EXPECT_THAT(shown, testing::Not(testing::HasSubstr(own_line)));
      EXPECT_EQ(std::count(shown.begin(), shown.end(), ':'), 5) << shown;
      if (is_balanced) {
        EXPECT_EQ(shown.find("odd", shown.find("odd") + 1), shown.rfind("odd")) << "as many of each as ever: " << shown;
        EXPECT_EQ(shown.find("even", shown.find("even") + 1), shown.rfind("even")) << shown;
      }
      EXPECT_EQ(inside.text(table, row), shown);
      EXPECT_EQ(before.messages(table, row).size(), 9u);
      // Rows that are no examples have those that they would have anyway.
      const std::string otherwise = of_another.text(table, row);
      if (otherwise.find(own_line) == std::string::npos) EXPECT_EQ(shown, otherwise);
      else ++own;
    }
    EXPECT_EQ(own, 4);
  }
  EXPECT_THROW(shots_of(folder, text, 8, false, 0, true), Error) << "for some there are seven others";
  EXPECT_THROW(shots_of(folder, balanced, 8, true, 0, true), Error);
}

TEST(Tables, APromptThatLosesItsBeginningKeepsItsFirstToken) {
  const ByteTokenizer tokenizer(true);
  const ChoicePrompts prompts({"a", "b"}, tokenizer, 5, Truncation::kLeft);
  for (const bool chat : {false, true}) {
    const auto tokens = prompts.fields(chat ? "<s>0123456789 " : "0123456789 ", chat)["prompt"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer.decode(tokens, false), "<s>89 ") << chat;
  }
}

/// Takes no 'z', as one does that has neither a token for it nor an unknown one.
class NoZTokenizer : public ByteTokenizer {
 public:
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const override {
    if (text.find('z') != std::string_view::npos) fail_user("the character 'z' is not in the vocabulary");
    return ByteTokenizer::encode(text, add_special_tokens);
  }
};

TEST(Tables, APromptThatNothingCanBeAskedOfIsALineThatIsRefused) {
  const NoZTokenizer tokenizer;
  const ChoicePrompts prompts({"a", "b"}, tokenizer, 50, Truncation::kRefuse);
  EXPECT_EQ(prompts.fields("az", false), (nlohmann::ordered_json{{"prompt", "az"}, {"add_special_tokens", true}}));
  EXPECT_EQ(prompts.fields("az", true), (nlohmann::ordered_json{{"prompt", "az"}, {"add_special_tokens", false}}));
  EXPECT_EQ(prompts.fields("", true), (nlohmann::ordered_json{{"prompt", nlohmann::ordered_json::array()}}));
  EXPECT_THROW(ChoicePrompts({"a", "z"}, tokenizer, 50, Truncation::kRefuse).fields("a", false), Error) << "no row can be asked for such a choice";
}

/// Puts a token behind each text, as one does whose add_eos_token is true.
class EndingTokenizer : public ByteTokenizer {
 public:
  EndingTokenizer() : ByteTokenizer(true) {}
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const override {
    std::vector<int32_t> tokens = ByteTokenizer::encode(text, add_special_tokens);
    if (add_special_tokens) tokens.push_back(256);
    return tokens;
  }
};

TEST(Tables, WhatIsPutBehindATextIsNoPartOfAChoice) {
  const EndingTokenizer tokenizer;
  for (const bool chat : {false, true}) {
    const nlohmann::json asked = ChoicePrompts({"a", "b"}, tokenizer, 50, Truncation::kRefuse).fields("q ", chat);
    EXPECT_EQ(asked["logprob_token_ids"].dump(), "[97,98]");
    EXPECT_EQ(asked["prompt"].dump(), chat ? "[113,32]" : "[256,113,32]");
  }
}

TEST(Tables, ManyChoicesAreScoredOneByOne) {
  const ByteTokenizer tokenizer;
  std::vector<std::string> names;
  for (int c = 1; c < 130; ++c) names.emplace_back(1, static_cast<char>(c));  // each is one token
  const ChoicePrompts many(names, tokenizer, 100, Truncation::kRefuse);
  const nlohmann::json asked = many.fields("q ", false);
  ASSERT_EQ(asked["prompt"].size(), 129u) << "a line may name 128 token ids";
  EXPECT_FALSE(asked.contains("logprob_token_ids"));
  nlohmann::json answers;
  for (int i = 0; i < 129; ++i) answers.push_back({{"index", i}, {"logprobs", {{"token_logprobs", {nullptr, -1.0, i == 128 ? -0.5 : -2.0}}}}});
  EXPECT_EQ(many.chosen(asked, answers), names.back());
  names.pop_back();
  EXPECT_EQ(ChoicePrompts(names, tokenizer, 100, Truncation::kRefuse).fields("q ", false)["logprob_token_ids"].size(), 128u);
}

TEST(Tables, ValuesAreJudgedByWhatTheySay) {
  const auto judged = [](const std::string& json) { return judged_text(jinja::parse_json_value(json, 1000, nullptr, jinja::Digits::kAsWritten)); };
  const std::vector<std::vector<std::string>> alike{{"100", "100.00", "1e2", "1.0E+2", "0.1e3"},
                                                    {"0", "-0", "0.0", "-0e7"},
                                                    {"1.5", "1.50", "15e-1", "1.500000000000000000000"},
                                                    {"0.7", "0.70", "0.69999999999999996"},
                                                    {"-12345678901234567890", "-12345678901234567890.0", "-1.234567890123456789e19"},
                                                    {"12345678901234567891"},
                                                    {"9007199254740993"},
                                                    {"9007199254740992", "9007199254740992.0"},
                                                    {"0.1000000000000000055", "0.10000000000000000550"},
                                                    {"0.1", "1e-1"},
                                                    {"1e300", "10e299"},
                                                    {R"({"a": 1, "b": [0.5, "x "]})", R"({"b":[0.50,"x "],"a":1.0})"},
                                                    {R"({"a": 1, "b": [0.5, "x"]})"},
                                                    {R"({"a": 1, "b": ["x ", 0.5]})"},
                                                    {R"({"a": 1})"},
                                                    {"[]"},
                                                    {"{}"},
                                                    {"true"},
                                                    {R"(" x")", R"("x")"},
                                                    {"null", R"("")"}};
  std::map<std::string, size_t> group_of;
  for (size_t i = 0; i < alike.size(); ++i)
    for (const std::string& json : alike[i]) EXPECT_EQ(group_of.emplace(judged(json), i).first->second, i) << json;
  EXPECT_EQ(group_of.size(), alike.size());

  const TestFolder folder;
  TableReader table(folder.put("t.jsonl", "{\"n\": 1.50, \"o\": {\"a\": 0.70, \"b\": null}, \"t\": true}\n"), TableKind::kJsonl);
  TableRow row;
  ASSERT_TRUE(table.next(&row));
  const auto right = [&](const char* name) { return *value_as_written(row, {}, name); };
  EXPECT_EQ(cell_text(right("n")), "1.50");
  EXPECT_EQ(judged_answer("1.5"), judged_json(right("n")));
  EXPECT_EQ(judged_answer(" {\"b\":null,\"a\":0.7}"), judged_json(right("o")));
  EXPECT_EQ(judged_answer("true"), judged_json(right("t")));
  for (const char* answer : {"\"1.5\"", "1.51", "about 1.5", "", "{}"}) EXPECT_NE(judged_answer(answer), judged_json(right("n"))) << answer;
  EXPECT_NE(judged_answer(judged_json(right("o"))), judged_json(right("o"))) << "has commas that JSON has not";
}

TEST(Tables, MetricsAsTheyAreDefined) {
  // scikit-learn: accuracy_score, precision_recall_fscore_support of these.
  const std::vector<std::pair<std::string, std::optional<std::string>>> answers{{"yes", "yes"}, {"yes", "no"}, {"no", "no"},
                                                                                {"no", "yes"},  {"no", "no"},  {"yes", std::nullopt}};
  Metrics binary("yes"), macro("");
  for (const auto& [expected, answer] : answers) {
    binary.add(expected, answer);
    macro.add(expected, answer);
  }
  EXPECT_DOUBLE_EQ(binary.accuracy(), 0.5);
  EXPECT_DOUBLE_EQ(binary.scores()->precision, 0.5);
  EXPECT_DOUBLE_EQ(binary.scores()->recall, 1.0 / 3);
  EXPECT_DOUBLE_EQ(binary.scores()->f1, 0.4);
  EXPECT_DOUBLE_EQ(macro.scores()->precision, (0.5 + 2.0 / 3) / 2);
  EXPECT_DOUBLE_EQ(macro.scores()->f1, (0.4 + 2.0 / 3) / 2);
  EXPECT_EQ(macro.json()["right"], 3);
  // A label that the model alone gives has 0 of all three.
  Metrics invented("");
  invented.add("yes", "yes");
  invented.add("no", "perhaps");
  EXPECT_EQ(invented.scores()->labels, 3u);
  EXPECT_DOUBLE_EQ(invented.scores()->precision, 1.0 / 3);
  EXPECT_DOUBLE_EQ(invented.scores()->recall, 1.0 / 3);
  Metrics other("maybe");
  other.add("yes", "yes");
  EXPECT_FALSE(other.scores());
  EXPECT_THAT(other.sentence(), testing::HasSubstr("no row has the right answer 'maybe'"));
}

}  // namespace
}  // namespace flexgen::tables_test
