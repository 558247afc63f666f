// How much is read at a time: where a disk takes requests in their order, a write waits for all that is in flight.

#include <gtest/gtest.h>

#include <atomic>

#include "base/units.h"
#include "engine/engine.h"
#include "generation/list_source.h"
#include "generation/test_jobs.h"
#include "io/faulty_file.h"
#include "io/test_folder.h"
#include "model/dummy_checkpoint.h"

namespace flexgen::spilled_reads_test {
namespace {

struct InFlight {
  std::atomic<int64_t> bytes = 0, most = 0;
};

class WatchedFile : public FaultyFile {
 public:
  WatchedFile(std::shared_ptr<File> file, InFlight& reads) : FaultyFile(std::move(file), std::make_shared<FaultPlan>()), reads_(reads) {}
  int before_transfer(bool write, int64_t /*offset*/, int64_t* bytes) override {
    if (write) return 0;
    const int64_t now = reads_.bytes += *bytes;
    for (int64_t most = reads_.most; now > most && !reads_.most.compare_exchange_weak(most, now);) {
    }
    return 0;
  }
  void after_transfer(bool write, int64_t /*offset*/, int64_t bytes) override {
    if (!write) reads_.bytes -= bytes;
  }

 private:
  InFlight& reads_;
};

struct WatchedFiles : FileSystem {
  std::shared_ptr<File> open(const std::string& path, FileMode mode) override { return std::make_shared<WatchedFile>(File::open(path, mode), reads); }
  InFlight reads;
};

int64_t most_in_flight(double cache_on_disk) {
  WatchedFiles files;
  EngineOptions options;
  options.model_directory = process_folder() + "/spilled-reads";
  ensure_dummy_checkpoint(options.model_directory,
                          R"({"model_type": "llama", "hidden_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 4096, "vocab_size": 300, "max_position_embeddings": 256, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "tie_word_embeddings": false, "eos_token_id": 5, "bos_token_id": 1})",
                          DType::kBF16, 3, nullptr);
  options.load_tokenizer = false;
  options.threads = 1;
  options.budgets = {256 * kMiB, kGiB};
  options.disk_directory = process_folder();
  options.files = &files;
  options.policy.weights = {0, 0, 1};
  options.policy.kv_cache = {0, 1 - cache_on_disk, cache_on_disk};
  options.policy.activations = {0, 1, 0};
  const auto requests = random_requests(7, 4, {8, 20}, {3, 5}, 300);
  Workload workload;
  for (const Request& request : requests) workload.add(static_cast<int64_t>(request.prompt.size()), request.params.max_tokens, false, false);
  Engine engine(options);
  engine.prepare(workload);
  ListSource source(requests);
  NoSink sink;
  engine.run(source, sink, std::atomic<bool>{false});
  return files.reads.most;
}

TEST(SpilledReads, LeaveRoomForWrites) {
  const int64_t beside_writes = most_in_flight(1), alone = most_in_flight(0);
  EXPECT_LE(beside_writes, 4 * kMiB + kMiB / 4);  // and some rows that are looked up
  EXPECT_GT(alone, 6 * kMiB);
}

}  // namespace
}  // namespace flexgen::spilled_reads_test
