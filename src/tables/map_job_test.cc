// Tables as jobs, without a model: the records are written by hand.

#include "tables/map_job.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "io/test_folder.h"
#include "io/whole_file.h"

namespace flexgen::map_job_test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

const std::atomic<bool> kGoOn{false};

class MapJobs : public testing::Test {
 protected:
  MapOptions options_of(const std::string& input, const std::string& table) {
    MapOptions options;
    options.input = folder_.put(input, table);
    options.output = folder_.file("out." + input);
    options.prompt_template = "{{ q }}";
    options.sampling_json = "{}";
    return options;
  }
  /// As far as to the records, each with the answer "x".
  void answer(MapJob& job, int rows) {
    ASSERT_TRUE(job.write_lines(kGoOn));
    job.keep_lines();
    std::string records;
    for (int i = 0; i < rows; ++i)
      records += R"({"response": {"body": {"choices": [{"text": "x"}]}}, "error": null})"
                 "\n";
    write_whole_file(job.files().answers, records);
  }

  TestFolder folder_;
};

TEST_F(MapJobs, ATableThatChangesMeanwhileIsToldWhateverItLost) {
  struct Case {
    std::string name, before, after;
  };
  for (const auto& [name, before, after] : std::initializer_list<Case>{{"a.csv", "q,right\n1,x\n2,x\n", "q\n1\n2\n"},
                                                                       {"b.csv", "q,right\n1,x\n2,x\n", "right,q\nx,1\nx,2\n"},
                                                                       {"c.jsonl", R"({"q": 1, "right": "x"})", R"({"q": 1})"},
                                                                       {"d.csv", "q,right\n1,x\n2,x\n", "q,right\n1,x\n2,y\n"}}) {
    MapOptions options = options_of(name, before);
    options.answer_column = "right";
    MapJob job(options, "");
    answer(job, name == "c.jsonl" ? 1 : 2);
    folder_.put(name, after);
    EXPECT_THAT(error_of(ErrorKind::kUser, [&] { job.write_table(); }), AllOf(HasSubstr(name), HasSubstr("changed while its rows were answered"))) << name;
    EXPECT_FALSE(file_is_there(options.output)) << name;
    folder_.put(name, before);
    EXPECT_EQ(job.write_table().metrics->right(), name == "c.jsonl" ? 1 : 2);
  }
}

TEST_F(MapJobs, WhatIsRightMustBeAnObjectWhereTheAnswerIsOne) {
  for (const auto& [name, table] :
       {std::pair{"t.csv", "q,right\n1,\"{\"\"a\"\": 1}\"\n2,1\n"}, {"t.jsonl", "{\"q\": 1, \"right\": {\"a\": 1}}\n{\"q\": 2, \"right\": [1]}\n"}}) {
    MapOptions options = options_of(name, table);
    options.json_schema = folder_.put("schema.json", R"({"type": "object", "properties": {"a": {"type": "integer"}}})");
    options.answer_column = "right";
    MapJob job(options, "");
    EXPECT_THAT(error_of(ErrorKind::kUser, [&] { job.write_lines(kGoOn); }), AllOf(HasSubstr("row 2: 'right'"), HasSubstr("is no JSON object")));
    EXPECT_THAT(error_of(ErrorKind::kUser, [&] { job.shown_prompts(2); }), HasSubstr("row 2: 'right'"));
    EXPECT_THAT(job.shown_prompts(1), HasSubstr("row 1:\n1\n"));
  }
}

TEST_F(MapJobs, ASchemaMayReferToTheObjectThatItIs) {
  MapOptions options = options_of("t.csv", "q\n1\n");
  options.json_schema =
      folder_.put("schema.json", R"({"$ref": "#/$defs/A", "$defs": {"A": {"type": "object", "properties": {"a": {}, "next": {"$ref": "#/$defs/A"}}}}})");
  EXPECT_NO_THROW(MapJob(options, ""));
  options.json_schema = folder_.put("none.json", R"({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}})");
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { MapJob(options, ""); }), HasSubstr("an object with properties"));
}

}  // namespace
}  // namespace flexgen::map_job_test
