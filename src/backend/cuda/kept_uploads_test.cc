// What repeats is sent once, as long as the first copy is there.

#include "backend/cuda/kept_uploads.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <memory>
#include <random>

#include "backend/cuda/emulated_kernels.h"

namespace flexgen::kept_uploads_test {
namespace {

/// Remembers every upload, and what is left of it.
class CountingRuntime : public DeviceRuntime {
 public:
  Stream stream() override { return {}; }
  std::byte* workspace() override { return nullptr; }
  std::byte* upload(const void* data, int64_t bytes) override {
    auto& memory = uploads.emplace_back(std::make_unique<std::vector<std::byte>>(static_cast<size_t>(bytes)));
    std::memcpy(memory->data(), data, static_cast<size_t>(bytes));
    ends[memory->data()] = uploaded += bytes;
    return memory->data();
  }
  void multiply(const MatrixProduct&) override {}
  void download(const void*, int64_t, void*) override {}
  void check_launch(const char*) override {}

  std::vector<std::unique_ptr<std::vector<std::byte>>> uploads;
  std::map<const std::byte*, int64_t> ends;  ///< how much was uploaded in all, with this one
  int64_t uploaded = 0;
};

std::vector<std::byte> bytes_of(int64_t count, uint8_t value) { return std::vector<std::byte>(static_cast<size_t>(count), std::byte{value}); }

TEST(KeptUploads, SendsWhatRepeatsOnce) {
  CountingRuntime runtime;
  KeptUploads uploads(runtime);
  const std::byte* first = uploads.upload_once(bytes_of(100, 1));
  EXPECT_NE(uploads.upload_once(bytes_of(100, 2)), first);
  EXPECT_NE(uploads.upload_once(bytes_of(99, 1)), first);
  EXPECT_EQ(uploads.upload_once(bytes_of(100, 1)), first);
  EXPECT_EQ(runtime.uploads.size(), 3u);
  // What kernels may write to is never shared.
  const std::vector<std::byte> same = bytes_of(100, 1);
  EXPECT_NE(uploads.upload(same.data(), 100), first);
  EXPECT_EQ(uploads.upload_once(same), first);
  EXPECT_EQ(uploads.upload_once({}), nullptr);
}

TEST(KeptUploads, NeverGivesWhatMayBeGone) {
  CountingRuntime runtime;
  KeptUploads uploads(runtime);
  std::mt19937 random(3);
  int64_t asked = 0;
  for (int i = 0; i < 3000; ++i) {
    const std::vector<std::byte> data = bytes_of(static_cast<int64_t>(1000 + random() % 10 * 4000), static_cast<uint8_t>(random() % 4));
    if (random() % 5 == 0) {
      uploads.upload(data.data(), std::ssize(data));
      continue;
    }
    ++asked;
    const std::byte* at = uploads.upload_once(data);
    // With the largest upload still to come before it is read.
    ASSERT_LE(runtime.uploaded - runtime.ends.at(at), kUploadLife - kLargestUpload);
    ASSERT_EQ(0, std::memcmp(at, data.data(), data.size()));
  }
  EXPECT_LT(std::ssize(runtime.uploads), asked / 2);
}

TEST(KeptUploads, LargeOnesAreNotKept) {
  CountingRuntime runtime;
  KeptUploads uploads(runtime);
  const std::byte* small = uploads.upload_once(bytes_of(10, 1));
  uploads.upload_once(bytes_of(kLargestUpload, 2));
  uploads.upload_once(bytes_of(kLargestUpload, 2));
  EXPECT_EQ(runtime.uploads.size(), 3u);
  EXPECT_NE(uploads.upload_once(bytes_of(10, 1)), small);
}

/// Copies of arguments that the layers of a step take: positions and tasks are the same for all, and a layer's append and attention share its pages.
TEST(KeptUploads, ALayerSendsItsPagesAlone) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer does not follow the emulated threads' stacks";
#endif
  int64_t num_uploads = 0;
  auto kernels = make_emulated_cuda_kernels(DType::kBF16, &num_uploads);
  const KvGeometry geometry{DType::kBF16, 4, 2, 64, 16};
  const int64_t rows = 5, layers = 6;
  std::vector<float> q(static_cast<size_t>(rows * 4 * 64), 0.5f), k(static_cast<size_t>(rows * 2 * 64), 0.25f), v = k;
  std::vector<std::byte> out(static_cast<size_t>(rows * 4 * 64 * 2));
  const int32_t positions[] = {0, 1, 2, 0, 1};
  const std::vector<float> frequencies(32, 0.1f);
  std::vector<std::vector<std::byte>> pages(static_cast<size_t>(2 * layers), std::vector<std::byte>(static_cast<size_t>(geometry.page_bytes())));
  for (int64_t layer = 0; layer < layers; ++layer) {
    std::byte* mine[] = {pages[static_cast<size_t>(2 * layer)].data(), pages[static_cast<size_t>(2 * layer + 1)].data()};
    const AttentionSlot slots[] = {{0, 3, 0, mine}, {3, 2, 0, mine + 1}};
    kernels->rope(q.data(), rows, 4, 64, positions, {frequencies});
    kernels->rope(k.data(), rows, 2, 64, positions, {frequencies});
    kernels->append_kv(k.data(), v.data(), slots, geometry);
    kernels->attention(q.data(), slots, geometry, {0.125f}, out.data());
  }
  EXPECT_EQ(num_uploads, 3 + layers);
}

}  // namespace
}  // namespace flexgen::kept_uploads_test
