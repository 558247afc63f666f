// What repeats is sent once, as long as the first copy is there.

#include "backend/cuda/kept_uploads.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>

#include "backend/cuda/emulated_kernels.h"

namespace flexgen::kept_uploads_test {
namespace {

/// The real ring's places, and what uploads have spent. The least that a ring promises is kUploadLife, which the real one exceeds.
class RingRuntime : public DeviceRuntime {
 public:
  Stream stream() override { return {}; }
  std::byte* workspace() override { return nullptr; }
  std::byte* upload(const void* data, int64_t bytes) override {
    std::byte* at = memory.data() + places.next(bytes).at;
    std::memcpy(at, data, static_cast<size_t>(bytes));
    ends[at] = spent += upload_spends(bytes);
    ++num_uploads;
    return at;
  }
  void multiply(const MatrixProduct&) override {}
  void download(const void*, int64_t, void*) override {}
  void check_launch(const char*) override {}

  std::vector<std::byte> memory = std::vector<std::byte>(static_cast<size_t>(UploadPlaces::kBytes));
  UploadPlaces places;
  std::map<const std::byte*, int64_t> ends;  ///< how much was spent in all, with what was last put there
  int64_t spent = 0, num_uploads = 0;
};

std::vector<std::byte> bytes_of(int64_t count, uint8_t value) { return std::vector<std::byte>(static_cast<size_t>(count), std::byte{value}); }

TEST(KeptUploads, SendsWhatRepeatsOnce) {
  RingRuntime runtime;
  KeptUploads uploads(runtime);
  const std::byte* first = uploads.upload_once(bytes_of(100, 1));
  EXPECT_NE(uploads.upload_once(bytes_of(100, 2)), first);
  EXPECT_NE(uploads.upload_once(bytes_of(99, 1)), first);
  EXPECT_EQ(uploads.upload_once(bytes_of(100, 1)), first);
  EXPECT_EQ(runtime.num_uploads, 3);
  // What kernels may write to is never shared.
  const std::vector<std::byte> same = bytes_of(100, 1);
  EXPECT_NE(uploads.upload(same.data(), 100), first);
  EXPECT_EQ(uploads.upload_once(same), first);
  EXPECT_EQ(uploads.upload_once({}), nullptr);
}

TEST(KeptUploads, NeverGivesWhatMayBeGone) {
  RingRuntime runtime;
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
    ASSERT_LE(runtime.spent - runtime.ends.at(at), kUploadLife - kLargestUpload);
    ASSERT_EQ(0, std::memcmp(at, data.data(), data.size()));
  }
  EXPECT_LT(runtime.num_uploads, asked / 2);
}

/// Small ones spend more of the ring than their bytes.
TEST(KeptUploads, SmallOnesSpendWholePlaces) {
  RingRuntime runtime;
  KeptUploads uploads(runtime);
  const std::vector<std::byte> repeated = bytes_of(20, 1), other = bytes_of(20, 2);
  for (int i = 0; i < 200000; ++i) {
    uploads.upload(other.data(), 20);
    if (i % 1000 != 0) continue;
    const std::byte* at = uploads.upload_once(repeated);
    ASSERT_LE(runtime.spent - runtime.ends.at(at), kUploadLife - kLargestUpload);
    ASSERT_EQ(0, std::memcmp(at, repeated.data(), repeated.size())) << "after " << i;
  }
}

/// Whatever the sizes, an upload is there until others have spent kUploadLife.
TEST(UploadPlaces, LastAsLongAsPromised) {
  UploadPlaces places;
  std::mt19937 random(5);
  struct Upload {
    int64_t at, bytes, spent;
  };
  std::vector<Upload> all;
  int64_t spent = 0;
  for (int i = 0; i < 4000; ++i) {
    const int64_t bytes = 1 + static_cast<int64_t>(random()) % (i % 3 == 0 ? kLargestUpload : i % 3 == 1 ? kLargestUpload / 2 + 300 : 5000);
    const int64_t at = places.next(bytes).at;
    ASSERT_EQ(at % 256, 0);
    ASSERT_LE(at + upload_spends(bytes), UploadPlaces::kBytes);
    spent += upload_spends(bytes);
    for (const Upload& old : all)
      if (spent - old.spent <= kUploadLife) {
        ASSERT_TRUE(at + bytes <= old.at || old.at + old.bytes <= at) << "upload " << i;
      }
    all.push_back({at, bytes, spent});
    std::erase_if(all, [&](const Upload& old) { return spent - old.spent > kUploadLife; });
  }
}

TEST(KeptUploads, LargeOnesAreNotKept) {
  RingRuntime runtime;
  KeptUploads uploads(runtime);
  const std::byte* small = uploads.upload_once(bytes_of(10, 1));
  uploads.upload_once(bytes_of(kLargestUpload, 2));
  uploads.upload_once(bytes_of(kLargestUpload, 2));
  EXPECT_EQ(runtime.num_uploads, 3);
  EXPECT_NE(uploads.upload_once(bytes_of(10, 1)), small);
}

/// Copies of arguments that the layers of a step take: positions and tasks are the same for all, and a layer's append and attention share its pages.
TEST(KeptUploads, ALayerSendsItsPagesAlone) {
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
