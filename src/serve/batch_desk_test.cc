// Batches of the server, answered without a model.

#include "serve/batch_desk.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "batch/fake_runner.h"

namespace flexgen::batch_desk_test {
namespace {

using Json = nlohmann::json;

class Desk : public testing::Test {
 protected:
  Desk() {
    spdlog::set_level(spdlog::level::off);
    FileStore::Upload upload(files_);
    for (int i = 0; i < kLines; ++i)
      upload.write(fmt::format(R"({{"custom_id":"r{}","method":"POST","url":"/v1/completions","body":{{"prompt":"line {}"}}}})", i, i) + "\n");
    upload.write("broken\n");
    input_ = upload.finish("in.jsonl", "batch").id;
  }

  /// As the server answers, but for the model; `runner` says when to stop or fail.
  BatchOutcome answer(const BatchDesk::Work& work, FakeRunner& runner, const std::atomic<bool>& stop) {
    BatchFiles files{work.input, work.output};
    files.error_output = work.errors;
    files.before_start = work.begun;
    files.progress = work.progress;
    return run_batch(files, model_, runner, stop);
  }
  std::string create(BatchDesk& desk) {
    return Json::parse(desk.create({{"input_file_id", input_}, {"endpoint", "/v1/completions"}, {"completion_window", "24h"}}))["id"];
  }
  template <typename Condition>
  static void wait_for(Condition condition) {
    for (int i = 0; i < 2000 && !condition(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    ASSERT_TRUE(condition());
  }
  static Json counts(int total, int completed, int failed) { return {{"total", total}, {"completed", completed}, {"failed", failed}}; }

  static constexpr int kLines = 6;
  TemporaryDirectory directory_;
  FileStore files_{directory_.file("files")};
  const ByteTokenizer tokenizer_;
  BatchModel model_{{256, 1000, &tokenizer_}, "fake", "f00d", {{"backend", "fake"}}};
  std::string input_;
};

TEST_F(Desk, ABatchGoesOnAfterAFullDisk) {
  std::string id;
  {
    std::atomic<int> tries = 0;
    BatchDesk desk(directory_.file("batches"), files_, [&](const BatchDesk::Work& work, const std::atomic<bool>& stop) {
      FakeRunner runner;
      runner.fail_after = 2;  // Error{io}
      struct Count {
        std::atomic<int>& tries;
        ~Count() { ++tries; }
      } count{tries};
      return answer(work, runner, stop);
    });
    id = create(desk);
    const std::string second = create(desk);  // once it is begun, the first one is over
    wait_for([&] { return tries == 2; });
    EXPECT_EQ(Json::parse(desk.find(id))["status"], "in_progress");
    EXPECT_EQ(desk.num_unfinished(), 2);
  }
  BatchDesk desk(directory_.file("batches"), files_, [&](const BatchDesk::Work& work, const std::atomic<bool>& stop) {
    FakeRunner runner;
    return answer(work, runner, stop);
  });
  wait_for([&] { return desk.num_unfinished() == 0; });
  const Json batch = Json::parse(desk.find(id));
  EXPECT_EQ(batch["status"], "completed");
  EXPECT_EQ(batch["request_counts"], counts(kLines + 1, kLines, 1));
}

TEST_F(Desk, ABatchThatIsCancelledAfterARestartTellsWhatItHas) {
  std::string first, second;
  {
    std::atomic<int> tries = 0;
    BatchDesk desk(directory_.file("batches"), files_, [&](const BatchDesk::Work& work, const std::atomic<bool>& stop) {
      FakeRunner runner;
      runner.stop_after = 2;
      const BatchOutcome outcome = answer(work, runner, stop);
      ++tries;
      return outcome;
    });
    first = create(desk);
    second = create(desk);
    wait_for([&] { return tries == 2; });
  }
  std::atomic<bool> begun = false;
  std::string running;
  BatchDesk desk(directory_.file("batches"), files_, [&](const BatchDesk::Work& work, const std::atomic<bool>& stop) {
    running = std::filesystem::path(work.output).parent_path().filename();
    begun = true;
    while (!stop) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    FakeRunner runner;
    return answer(work, runner, stop);  // stopped before it has counted anything
  });
  wait_for([&] { return begun.load(); });
  const std::string waiting = running == first ? second : first;
  EXPECT_EQ(Json::parse(desk.cancel(waiting))["request_counts"], counts(kLines + 1, 2, 1));
  desk.cancel(running);
  wait_for([&] { return desk.num_unfinished() == 0; });
  const Json batch = Json::parse(desk.find(running));
  EXPECT_EQ(batch["status"], "cancelled");
  EXPECT_EQ(batch["request_counts"], counts(kLines + 1, 2, 1));
}

TEST_F(Desk, ABatchWhoseCancellingCannotBeWrittenGoesOn) {
  std::atomic<bool> begun = false, may_go = false, stopped = false;
  BatchDesk desk(directory_.file("batches"), files_, [&](const BatchDesk::Work& work, const std::atomic<bool>& stop) {
    begun = true;
    while (!may_go && !stop) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (stop) stopped = true;
    FakeRunner runner;
    return answer(work, runner, stop);
  });
  const std::string running = create(desk);
  wait_for([&] { return begun.load(); });
  const std::string waiting = create(desk);
  for (const std::string& id : {running, waiting}) {
    const std::string record = directory_.file("batches") + "/" + id + "/batch.json";
    std::filesystem::remove(record);
    std::filesystem::create_directories(record + "/taken");  // so that it cannot be written
    EXPECT_THROW(desk.cancel(id), Error);
    std::filesystem::remove_all(record);
    EXPECT_EQ(Json::parse(desk.find(id))["status"], "validating");
  }
  may_go = true;
  wait_for([&] { return desk.num_unfinished() == 0; });
  EXPECT_FALSE(stopped);
  for (const std::string& id : {running, waiting}) EXPECT_EQ(Json::parse(desk.find(id))["status"], "completed");
}

// That lasts a moment, and says nothing of the batch.
TEST_F(Desk, ABatchThatFindsNoDescriptorStaysAsItIs) {
  std::atomic<bool> may_go = false;
  std::atomic<int> tries = 0;
  BatchDesk desk(directory_.file("batches"), files_, [&](const BatchDesk::Work& work, const std::atomic<bool>& stop) {
    wait_for([&] { return may_go.load(); });  // the limit is the process's: what the test creates needs descriptors
    struct NoDescriptors {
      explicit NoDescriptors(std::atomic<int>& tries) : tries(tries) {
        getrlimit(RLIMIT_NOFILE, &before);
        const rlimit none{0, before.rlim_max};
        setrlimit(RLIMIT_NOFILE, &none);
      }
      ~NoDescriptors() {
        setrlimit(RLIMIT_NOFILE, &before);
        ++tries;
      }
      std::atomic<int>& tries;
      rlimit before{};
    } none(tries);
    FakeRunner runner;
    return answer(work, runner, stop);
  });
  const std::string id = create(desk);
  create(desk);  // once it is begun, the first one is over
  may_go = true;
  wait_for([&] { return tries == 2; });
  EXPECT_EQ(Json::parse(desk.find(id))["status"], "validating");
}

TEST_F(Desk, SpoiltRecordsAreLeftOut) {
  namespace fs = std::filesystem;
  const std::string folder = directory_.file("batches"), files = directory_.file("files");
  fs::create_directories(folder + "/batch_a/batch.json");
  fs::create_directories(folder + "/batch_b");
  fs::create_symlink("nowhere", folder + "/batch_b/batch.json");
  fs::create_directories(folder + "/batch_c");
  std::ofstream(folder + "/batch_c/batch.json") << Json{
      {"id", "batch_c"}, {"endpoint", "/v1/completions"}, {"input_file_id", "file-gone"}, {"status", "validating"}, {"created_at", 1}};
  fs::create_directories(files + "/file-a.json");
  fs::create_symlink("nowhere", files + "/file-b.json");
  ASSERT_EQ(mkfifo((files + "/file-c.json").c_str(), 0600), 0);
  std::ofstream(files + "/file-d.json") << R"({"filename":"a","purpose":"batch","created_at":1})";
  fs::create_directories(files + "/file-d.data");
  const std::string own = "file-0123456789abcdef01234567";
  std::ofstream(files + "/" + own + ".data") << "kept, as its record is there";
  fs::create_symlink("nowhere", files + "/" + own + ".json");

  const FileStore again(files);
  EXPECT_EQ(again.all().size(), 1u);
  EXPECT_TRUE(fs::exists(files + "/" + own + ".data"));
  BatchDesk desk(folder, files_, [&](const BatchDesk::Work&, const std::atomic<bool>&) { return BatchOutcome(); });
  const Json listed = Json::parse(desk.list("", 10))["data"];
  ASSERT_EQ(listed.size(), 1u);
  EXPECT_EQ(listed[0]["request_counts"], counts(0, 0, 0)) << "which cancelling adds to";
}

TEST_F(Desk, AFileThatIsAdoptedAgainIsAsItIsNow) {
  const std::string path = directory_.file("output.jsonl");
  const auto adopted = [&](const std::string& text) {
    std::ofstream(path) << text;
    const StoredFile file = files_.adopt("file-output-1", path, "output.jsonl", "batch_output");
    std::ifstream kept(files_.path(file.id));
    return std::pair(file.bytes, std::string(std::istreambuf_iterator<char>(kept), {}));
  };
  EXPECT_EQ(adopted("one\n"), std::pair(int64_t{4}, std::string("one\n")));
  EXPECT_EQ(adopted("one\ntwo\n"), std::pair(int64_t{8}, std::string("one\ntwo\n")));  // grown
  std::filesystem::remove(path);
  EXPECT_EQ(adopted("two\none\n"), std::pair(int64_t{8}, std::string("two\none\n")));  // another in its place
  std::filesystem::remove(path);
  EXPECT_EQ(files_.adopt("file-output-1", path, "output.jsonl", "batch_output").bytes, 8);
}

TEST_F(Desk, NothingIsLeftOfAnUploadThatCannotBeKept) {
  const std::string folder = directory_.file("files");
  {
    FileStore::Upload upload(files_);
    upload.write("text");
    std::string own;
    for (const auto& entry : std::filesystem::directory_iterator(folder))
      if (const std::string name = entry.path().stem().string(); name != input_) own = name;
    std::filesystem::create_directories(folder + "/" + own + ".json/taken");  // so that its record cannot be written
    EXPECT_THROW(upload.finish("in.jsonl", "batch"), Error);
  }
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    EXPECT_TRUE(entry.path().extension() != ".data" || entry.path().stem() == input_) << entry.path();
}

}  // namespace
}  // namespace flexgen::batch_desk_test
