#include "model/prepared_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <thread>

#include "base/error.h"
#include "base/open_files.h"
#include "base/units.h"
#include "io/aligned_buffer.h"
#include "io/directory_lock.h"
#include "io/faulty_file.h"
#include "io/test_folder.h"
#include "model/decoded_rows.h"
#include "model/dummy_checkpoint.h"
#include "model/test_code_checkpoints.h"
#include "tensor/group_quant.h"

namespace flexgen::prepared_weights_test {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfig = R"({"model_type": "llama", "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 6,
  "num_key_value_heads": 2, "intermediate_size": 176, "vocab_size": 331, "max_position_embeddings": 256, "hidden_act": "silu",
  "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false, "eos_token_id": 5, "bos_token_id": 1})";

std::string bytes_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// relative path -> content, of all files below.
std::map<std::string, std::string> contents(const fs::path& folder) {
  std::map<std::string, std::string> all;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) all[fs::relative(entry.path(), folder).string()] = bytes_of(entry.path());
  return all;
}

std::vector<std::byte> read_weight(const Model& model, const WeightSpec& weight) {
  std::vector<std::byte> data(static_cast<size_t>(weight.bytes()));
  File::open(model.files()[static_cast<size_t>(weight.file)], FileMode::kRead)->read(weight.offset, data);
  return data;
}

class PreparedWeights : public testing::Test {
 protected:
  PreparedWeights() : kernels_(make_reference_kernels()), checkpoint_((folder_.path() / "checkpoint").string()) {
    ensure_dummy_checkpoint(checkpoint_, kConfig, DType::kBF16, 11, nullptr);
  }
  std::unique_ptr<Model> prepared(const std::string& name, DType dtype, FileSystem& files, GroupRange range = GroupRange::kMinMax,
                                  std::function<void(int64_t, int64_t)> progress = nullptr) {
    std::unique_ptr<Model> model = Model::load(checkpoint_);
    use_prepared_weights(*model, *kernels_, files, {dtype, range, (folder_.path() / name).string(), 1 << 20, std::move(progress)});
    return model;
  }
  TestFolder folder_;
  std::unique_ptr<Kernels> kernels_;
  std::string checkpoint_;
  FileSystem real_;
};

TEST_F(PreparedWeights, HoldEveryMatrixRowByRow) {
  const std::unique_ptr<Model> plain = Model::load(checkpoint_);
  for (DType dtype : {DType::kInt4, DType::kInt8, DType::kF16}) {
    const std::unique_ptr<Model> model = prepared("a", dtype, real_);
    ASSERT_EQ(model->weights().size(), plain->weights().size());
    int matrices = 0;
    for (size_t i = 0; i < model->weights().size(); ++i) {
      const WeightSpec &from = plain->weights()[i], &to = model->weights()[i];
      if (from.always_resident) {
        EXPECT_EQ(to.dtype, from.dtype);
        EXPECT_EQ(to.offset, from.offset);
        continue;
      }
      ++matrices;
      ASSERT_EQ(to.dtype, dtype);
      const auto source = read_weight(*plain, from), data = read_weight(*model, to);
      for (int64_t row = 0; row < from.rows; ++row) {
        std::vector<float> x(static_cast<size_t>(from.cols));
        for (int64_t c = 0; c < from.cols; ++c) x[static_cast<size_t>(c)] = load_float(source.data(), from.dtype, row * from.cols + c);
        std::vector<std::byte> expected(static_cast<size_t>(to.row_bytes()));
        store_row(x.data(), from.cols, dtype, expected.data());
        ASSERT_TRUE(std::equal(expected.begin(), expected.end(), data.begin() + row * to.row_bytes())) << to.name << " row " << row;
      }
    }
    EXPECT_EQ(matrices, 2 + 2 * 7);
  }
}

/// Weights as they are shipped quantized, in blocks of all sizes: each row becomes what its elements would.
TEST_F(PreparedWeights, ShippedFormatsAreQuantizedAgain) {
  for (const char* name : {"fp8", "fp8-modelopt", "int8-channel", "packed4", "packed4-zeros", "packed8", "nvfp4", "mxfp4", "gptq", "gptq8-v2", "awq",
                           "mixed-gptq", "fused-gptq8-v2", "fused-awq"}) {
    const std::string fixture = quantized_checkpoint(name);
    const std::unique_ptr<Model> plain = Model::load(fixture);
    std::vector<std::shared_ptr<File>> files;
    for (const std::string& path : plain->files()) files.push_back(real_.open(path, FileMode::kReadDirect));
    for (int64_t memory : {16 * kKiB, 8 * kMiB})
      for (DType dtype : {DType::kBF16, DType::kInt4}) {
        SCOPED_TRACE(fmt::format("{} as {}, {} bytes of memory", name, dtype_name(dtype), memory));
        const std::unique_ptr<Model> model = Model::load(fixture);
        use_prepared_weights(*model, *kernels_, real_,
                             {dtype, GroupRange::kMinMax, (folder_.path() / fmt::format("shipped-{}", memory)).string(), memory, nullptr});
        const std::unique_ptr<Model> imagined = Model::load(fixture);
        imagine_prepared_weights(*imagined, dtype);
        int matrices = 0;
        for (size_t i = 0; i < model->weights().size(); ++i) {
          const WeightSpec &from = plain->weights()[i], &to = model->weights()[i];
          if (!from.codes) continue;
          ++matrices;
          ASSERT_EQ(to.dtype, dtype);
          EXPECT_EQ(to.codes, nullptr);
          EXPECT_EQ(imagined->weights()[i].stored_bytes(), to.stored_bytes());
          const auto data = read_weight(*model, to);
          DecodedRows decoded(from, files, 64 * kMiB);
          int64_t rows = 0;
          while (const auto next = decoded.next())
            for (int64_t row = 0; row < next->count; ++row, ++rows) {
              std::vector<std::byte> expected(static_cast<size_t>(to.row_bytes()));
              store_row(next->values + row * from.cols, from.cols, dtype, expected.data());
              ASSERT_TRUE(std::equal(expected.begin(), expected.end(), data.begin() + rows * to.row_bytes())) << to.name << " row " << rows;
            }
          EXPECT_EQ(rows, from.rows);
        }
        EXPECT_GE(matrices, 13);
      }
  }
}

/// Matrices that are stored transposed, in panels and pieces of all sizes: as if they had been stored the usual way.
TEST_F(PreparedWeights, TransposedMatricesAreTurned) {
  const char* config = R"({"model_type": "gpt2", "n_embd": 80, "n_layer": 2, "n_head": 4, "n_inner": 2004, "n_positions": 64, "vocab_size": 331})";
  for (DType stored : {DType::kF32, DType::kBF16}) {
    checkpoint_ = (folder_.path() / fmt::format("gpt2-{}", dtype_name(stored))).string();
    ensure_dummy_checkpoint(checkpoint_, config, stored, 12, nullptr);
    const std::unique_ptr<Model> plain = Model::load(checkpoint_);
    EXPECT_TRUE(has_turned_weights(*plain));
    for (int64_t memory : {64 * kKiB, 512 * kKiB, 8 * kMiB})
      for (std::optional<DType> dtype : {std::optional<DType>(), std::optional(DType::kF16), std::optional(DType::kInt4)}) {
        SCOPED_TRACE(fmt::format("{} as {}, {} bytes of memory", dtype_name(stored), dtype ? dtype_name(*dtype) : "itself", memory));
        std::unique_ptr<Model> model = Model::load(checkpoint_);
        std::pair<int64_t, int64_t> told;
        use_prepared_weights(
            *model, *kernels_, real_,
            {dtype, GroupRange::kMinMax, (folder_.path() / fmt::format("turned-{}", memory)).string(), memory, [&](int64_t done, int64_t total) {
               told = {done, total};
             }});
        EXPECT_FALSE(has_turned_weights(*model));
        EXPECT_GT(told.first, 0);
        EXPECT_EQ(told.first, told.second);
        std::unique_ptr<Model> imagined = Model::load(checkpoint_);
        imagine_prepared_weights(*imagined, dtype);
        int turned = 0;
        for (size_t i = 0; i < model->weights().size(); ++i) {
          const WeightSpec &from = plain->weights()[i], &to = model->weights()[i];
          EXPECT_EQ(imagined->weights()[i].bytes(), to.bytes());
          EXPECT_EQ(imagined->weights()[i].turned_of, 0);
          if (from.turned_of == 0) {
            EXPECT_EQ(to.dtype, from.always_resident || !dtype ? stored : *dtype);
            continue;
          }
          ++turned;
          ASSERT_EQ(to.dtype, dtype.value_or(stored));
          std::vector<std::byte> source(static_cast<size_t>(size_bytes(stored, (from.cols - 1) * from.turned_of + from.rows)));
          File::open(plain->files()[static_cast<size_t>(from.file)], FileMode::kRead)->read(from.offset, source);
          const auto data = read_weight(*model, to);
          for (int64_t row = 0; row < from.rows; ++row) {
            std::vector<float> x(static_cast<size_t>(from.cols));
            for (int64_t c = 0; c < from.cols; ++c) x[static_cast<size_t>(c)] = load_float(source.data(), stored, c * from.turned_of + row);
            std::vector<std::byte> expected(static_cast<size_t>(to.row_bytes()));
            store_row(x.data(), from.cols, to.dtype, expected.data());
            ASSERT_TRUE(std::equal(expected.begin(), expected.end(), data.begin() + row * to.row_bytes())) << to.name << " row " << row;
          }
        }
        EXPECT_EQ(turned, 2 * 6);
      }
  }
}

TEST_F(PreparedWeights, EveryBackendMakesTheSameFiles) {
  auto all = [&](const char* name) {
    for (DType dtype : {DType::kInt4, DType::kInt8})
      for (GroupRange range : {GroupRange::kMinMax, GroupRange::kMse}) prepared(name, dtype, real_, range);
  };
  all("reference");
  kernels_ = make_cpu_kernels({2, DType::kF32});
  all("cpu");
  EXPECT_EQ(contents(folder_.path() / "cpu").size(), 4 * 4u);
  EXPECT_EQ(contents(folder_.path() / "reference"), contents(folder_.path() / "cpu"));
}

TEST_F(PreparedWeights, AnInterruptedRunGoesOnToTheSameFiles) {
  prepared("whole", DType::kInt4, real_);
  const auto whole = contents(folder_.path() / "whole");
  ASSERT_EQ(whole.size(), 4u);  // embedding, two blocks, head
  for (int64_t skip : {0, 1, 2, 3, 5}) {
    SCOPED_TRACE(skip);
    const std::string name = "cut" + std::to_string(skip);
    auto plan = std::make_shared<FaultPlan>();
    Fault fault;
    fault.operation = FileOperation::kWrite;
    fault.error = ENOSPC;
    fault.path_part = "part-";
    fault.skip = skip;
    plan->add(fault);
    FaultyFileSystem faulty(plan);
    bool failed = false;
    try {
      prepared(name, DType::kInt4, faulty);
    } catch (const Error& error) {
      failed = true;
      EXPECT_THAT(error.what(), testing::HasSubstr("part-"));
    }
    EXPECT_EQ(failed, plan->injected() > 0);
    prepared(name, DType::kInt4, real_);
    EXPECT_EQ(contents(folder_.path() / name), whole);
  }
}

TEST_F(PreparedWeights, AKilledRunGoesOnToTheSameFiles) {
  prepared("whole", DType::kInt4, real_, GroupRange::kMse);
  const auto whole = contents(folder_.path() / "whole");
  int killed = 0;
  for (int survives = 0;; survives += 2, ++killed) {  // so many calls of progress
    const std::string name = "killed" + std::to_string(survives);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      int calls = 0;
      prepared(name, DType::kInt4, real_, GroupRange::kMse, [&](int64_t, int64_t) {
        if (calls++ == survives) kill(getpid(), SIGKILL);
      });
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) break;  // there were not that many
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
    EXPECT_NE(contents(folder_.path() / name), whole) << survives;
    prepared(name, DType::kInt4, real_, GroupRange::kMse);
    EXPECT_EQ(contents(folder_.path() / name), whole) << survives;
  }
  EXPECT_GE(killed, 5);
}

/// Another machine, whose locks are not seen here, makes the same parts in the same folder and is first with one.
TEST_F(PreparedWeights, APartThatAnotherHasFinishedIsTaken) {
  prepared("other", DType::kInt4, real_);
  const auto whole = contents(folder_.path() / "other");
  const std::string part = std::next(whole.begin())->first;
  const fs::path theirs = folder_.path() / "mine" / part;
  struct stat before {
  }, after{};
  bool came = false;
  auto other_is_first = [&](int64_t, int64_t) {
    if (came || !fs::exists(folder_.path() / "mine" / whole.begin()->first)) return;  // while the second is made
    came = true;
    fs::copy_file(folder_.path() / "other" / part, theirs);
    ASSERT_EQ(stat(theirs.c_str(), &before), 0);
  };
  prepared("mine", DType::kInt4, real_, GroupRange::kMinMax, other_is_first);
  ASSERT_TRUE(came);
  EXPECT_EQ(contents(folder_.path() / "mine"), whole);
  ASSERT_EQ(stat(theirs.c_str(), &after), 0);
  EXPECT_EQ(after.st_ino, before.st_ino) << "they may be reading it";
}

TEST_F(PreparedWeights, AJobSaysThatItWaitsForAnother) {
  prepared("a", DType::kInt4, real_);
  const auto whole = contents(folder_.path() / "a");
  const fs::path parts = (folder_.path() / "a" / whole.begin()->first).parent_path();
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  auto said = [] { return testing::internal::GetCapturedStderr() + testing::internal::GetCapturedStdout(); };
  auto other = std::make_unique<DirectoryLock>(parts.string(), 0, [](bool) {});
  prepared("a", DType::kInt4, real_);  // all is there: nothing to wait for
  EXPECT_EQ(said(), "");
  fs::remove(folder_.path() / "a" / whole.begin()->first);
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  std::thread waiting([&] { prepared("a", DType::kInt4, real_); });
  std::this_thread::sleep_for(std::chrono::milliseconds(600));
  EXPECT_NE(contents(folder_.path() / "a"), whole);
  other.reset();
  waiting.join();
  EXPECT_THAT(said(), testing::HasSubstr("another process prepares weights"));
  EXPECT_EQ(contents(folder_.path() / "a"), whole);
}

TEST_F(PreparedWeights, WhatIsNotWholeIsMadeAgain) {
  prepared("a", DType::kInt8, real_);
  const auto whole = contents(folder_.path() / "a");
  for (const auto& [path, content] : whole) {
    fs::resize_file(folder_.path() / "a" / path, content.size() - 1);
    prepared("a", DType::kInt8, real_);
    EXPECT_EQ(contents(folder_.path() / "a"), whole);
    std::fstream(folder_.path() / "a" / path, std::ios::in | std::ios::out).put('x');  // the header's length
    prepared("a", DType::kInt8, real_);
    EXPECT_EQ(contents(folder_.path() / "a"), whole);
  }
}

/// Reads all matrices as a run would: by direct reads of whole sectors, a few at a time.
void read_all(const Model& model, FileSystem& files) {
  for (size_t i = 0; i < model.files().size(); ++i) {
    const std::shared_ptr<File> file = model.open_file(i, files);
    AlignedBuffer buffer(5 * kDirectAlignment);
    for (const WeightSpec& weight : model.weights()) {
      if (weight.file != static_cast<int>(i)) continue;
      const int64_t end = round_up(weight.offset + weight.bytes(), kDirectAlignment);
      for (int64_t at = round_down(weight.offset, kDirectAlignment); at < end; at += buffer.bytes()) {
        const int64_t bytes = std::min({buffer.bytes(), end - at, file->size() - at});
        file->read(at, {buffer.data(), static_cast<size_t>(bytes)});
      }
    }
  }
}

/// What read_all() has against prepared files; then they are made anew.
std::string complaint(const std::function<std::unique_ptr<Model>()>& prepare) {
  std::string text;
  FileSystem files;
  try {
    read_all(*prepare(), files);
  } catch (const Error& error) {
    text = error.what();
  }
  read_all(*prepare(), files);
  return text;
}

TEST_F(PreparedWeights, DamagedBytesAreFoundAndTheFileIsMadeAnew) {
  auto prepare = [&] { return prepared("a", DType::kInt4, real_); };
  read_all(*prepare(), real_);
  const auto whole = contents(folder_.path() / "a");
  const std::unique_ptr<Model> model = prepare();
  auto overwrite = [&](const std::string& path, const std::string& content, size_t from, size_t count) {
    std::fstream file(folder_.path() / "a" / path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(from));
    file.write(content.data(), static_cast<std::streamsize>(count));
  };
  for (const auto& [path, content] : whole) {
    SCOPED_TRACE(path);
    const size_t data = 8 + *reinterpret_cast<const uint64_t*>(content.data());
    ASSERT_EQ(data % 4096, 0u);
    std::vector<std::pair<size_t, std::string>> damages{{data, std::string(content.size() - data, '\0')}};  // zeros
    for (size_t at :
         {data, data + 4095, data + 4096, (data + content.size()) / 2, content.size() - 13, content.size() - 1}) {  // a bit; the last ones are of the sums
      std::string flipped(1, static_cast<char>(content[at] ^ 4));
      damages.emplace_back(at, flipped);
    }
    if (content.size() >= data + 3 * 4096)
      damages.emplace_back(data, content.substr(data + 4096, 4096) + content.substr(data, 4096));  // two sectors change places
    for (const auto& [at, bytes] : damages) {
      SCOPED_TRACE(at);
      overwrite(path, bytes, at, bytes.size());
      EXPECT_THAT(complaint(prepare), testing::AllOf(testing::HasSubstr(path), testing::HasSubstr("It was removed")));
      EXPECT_EQ(contents(folder_.path() / "a"), whole);
    }
  }
}

/// A unit of experts has a file of its own, and all are open while a job runs.
/// For the plan: of experts that nobody chooses the sums stay in memory, whether the files are there yet or not.
TEST_F(PreparedWeights, SaysWhatCheckingExpertsTakes) {
  checkpoint_ = (folder_.path() / "mixture").string();
  ensure_dummy_checkpoint(
      checkpoint_,
      R"({"model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "moe_intermediate_size": 64, "head_dim": 32,
    "num_attention_heads": 2, "num_key_value_heads": 2, "num_experts": 8, "num_experts_per_tok": 2, "mlp_only_layers": [0], "vocab_size": 128, "max_position_embeddings": 64})",
      DType::kBF16, 11, nullptr);
  const std::unique_ptr<Model> plain = Model::load(checkpoint_), made = prepared("a", DType::kInt8, real_);
  EXPECT_EQ(plain->expert_checking_bytes(), 0);
  int64_t bytes = 0;
  for (const LayerSpec& layer : made->layers())
    if (layer.kind == LayerKind::kExperts)
      for (size_t file = 0; file < made->files().size(); ++file)
        if (made->weights()[static_cast<size_t>(layer.uses.front().weight)].file == static_cast<int>(file))
          bytes += made->open_file(file, real_)->size() / 4096 * 4;
  EXPECT_GE(made->expert_checking_bytes(), bytes - 64);
  EXPECT_LE(made->expert_checking_bytes(), bytes + bytes / 2 + 64);
  const std::unique_ptr<Model> imagined = Model::load(checkpoint_);
  imagine_prepared_weights(*imagined, DType::kInt8);
  EXPECT_EQ(imagined->expert_checking_bytes(), made->expert_checking_bytes());
}

TEST_F(PreparedWeights, MoreFilesThanMayBeOpenAreRefusedBeforeTheyAreMade) {
  rlimit usual{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &usual), 0);
  const rlimit low{static_cast<rlim_t>(num_open_files() + 33), usual.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  const std::string text = error_of(ErrorKind::kUser, [&] { prepared("a", DType::kInt8, real_); });
  EXPECT_THAT(text, testing::AllOf(testing::HasSubstr("files of prepared weights"),
                                   testing::HasSubstr(fmt::format("may have {} files open (ulimit -n)", low.rlim_cur))));
  EXPECT_FALSE(fs::exists(folder_.path() / "a"));
  // What flexgen does at its start.
  raise_open_files();
  rlimit raised{};
  getrlimit(RLIMIT_NOFILE, &raised);
  EXPECT_EQ(raised.rlim_cur, std::min<rlim_t>(usual.rlim_max, 1 << 20));
  EXPECT_EQ(raised.rlim_max, usual.rlim_max);
  prepared("a", DType::kInt8, real_);
  setrlimit(RLIMIT_NOFILE, &usual);
}

TEST_F(PreparedWeights, AnotherModelsFilesAreNotTaken) {
  auto prepare = [&] { return prepared("a", DType::kInt8, real_); };
  prepare();
  const auto whole = contents(folder_.path() / "a");
  const std::string first = checkpoint_;
  checkpoint_ = (folder_.path() / "another").string();
  ensure_dummy_checkpoint(checkpoint_, kConfig, DType::kBF16, 12, nullptr);
  prepared("b", DType::kInt8, real_);
  const auto others = contents(folder_.path() / "b");
  checkpoint_ = first;
  ASSERT_EQ(others.size(), whole.size());
  auto other = others.begin();
  for (const auto& [path, content] : whole) {
    SCOPED_TRACE(path);
    ASSERT_EQ(other->second.size(), content.size());
    const size_t data = 8 + *reinterpret_cast<const uint64_t*>(content.data());
    // The other's whole file, and its data and sums under this one's header.
    for (size_t head : {size_t{0}, data}) {
      std::ofstream(folder_.path() / "a" / path, std::ios::binary) << content.substr(0, head) << other->second.substr(head);
      const std::string text = complaint(prepare);
      EXPECT_EQ(text.empty(), head == 0) << text;
      EXPECT_EQ(contents(folder_.path() / "a"), whole);
    }
    ++other;
  }
  // One layer's file in the place of another's.
  fs::copy_file(folder_.path() / "a" / std::next(whole.begin())->first, folder_.path() / "a" / std::next(whole.begin(), 2)->first,
                fs::copy_options::overwrite_existing);
  prepare();
  EXPECT_EQ(contents(folder_.path() / "a"), whole);
}

// Rows between the samples that a fingerprint has of each tensor.
TEST_F(PreparedWeights, AnEditInPlaceMakesThemAnew) {
  const std::unique_ptr<Model> before = prepared("a", DType::kInt8, real_);
  const auto whole = contents(folder_.path() / "a");
  const std::unique_ptr<Model> plain = Model::load(checkpoint_);
  const fs::path file = plain->files().front();
  const auto written = fs::last_write_time(file);
  for (const WeightSpec& weight : plain->weights()) {
    if (weight.name.find("layers.1.mlp.up_proj") == std::string::npos) continue;
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(weight.offset + weight.row_bytes());
    const int old = stream.peek();
    stream.seekp(weight.offset + weight.row_bytes());
    stream.put(static_cast<char>(old ^ 1));
  }
  fs::last_write_time(file, written + std::chrono::seconds(1));
  const std::unique_ptr<Model> after = prepared("a", DType::kInt8, real_);
  EXPECT_EQ(after->fingerprint(), before->fingerprint());
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_.path() / "a"), fs::directory_iterator()), 2);
  const auto both = contents(folder_.path() / "a");
  EXPECT_TRUE(std::includes(both.begin(), both.end(), whole.begin(), whole.end()));  // a copy with other times, which shares the folder, keeps its own
  fs::last_write_time(file, written);
  prepared("a", DType::kInt8, real_);
  EXPECT_TRUE(contents(folder_.path() / "a") == both);
}

TEST_F(PreparedWeights, AnInfiniteWeightIsRefusedByName) {
  const std::unique_ptr<Model> plain = Model::load(checkpoint_);
  for (const WeightSpec& weight : plain->weights()) {
    if (weight.name.find("layers.1.mlp.up_proj") == std::string::npos) continue;
    std::fstream file(plain->files().front(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(weight.offset + 2 * 1000);
    const uint16_t infinity = 0x7f80;
    file.write(reinterpret_cast<const char*>(&infinity), 2);
  }
  try {
    prepared("a", DType::kInt4, real_);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("layers.1.mlp.up_proj.weight"));
  }
}

}  // namespace
}  // namespace flexgen::prepared_weights_test
