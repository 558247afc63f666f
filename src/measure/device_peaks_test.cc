#include "measure/device_peaks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <memory>

#include "base/units.h"

namespace flexgen::device_peaks_test {
namespace {

/// Another device, whose memory in use is counted.
class CountedDevice : public Device {
 public:
  explicit CountedDevice(std::unique_ptr<Device> device) : device_(std::move(device)) {}

  std::string name() const override { return device_->name(); }
  int64_t total_bytes() const override { return device_->total_bytes(); }
  int64_t free_bytes() const override { return device_->free_bytes(); }
  std::byte* allocate(int64_t bytes) override {
    std::byte* const memory = device_->allocate(bytes);
    sizes_[memory] = bytes;
    used_ += bytes;
    most_used_ = std::max(most_used_, used_);
    return memory;
  }
  void deallocate(std::byte* memory) noexcept override {
    used_ -= sizes_[memory];
    device_->deallocate(memory);
  }
  void pin(std::span<std::byte> ram) override { device_->pin(ram); }
  void unpin(std::span<std::byte> ram) noexcept override { device_->unpin(ram); }
  std::unique_ptr<Lane> make_compute_lane(std::string lane_name, Trace* trace) override { return device_->make_compute_lane(std::move(lane_name), trace); }
  std::unique_ptr<Lane> make_copy_lane(std::string lane_name, Trace* trace) override { return device_->make_copy_lane(std::move(lane_name), trace); }
  std::unique_ptr<Kernels> make_kernels(DType compute_dtype) override { return device_->make_kernels(compute_dtype); }
  DType best_compute_dtype(DType weights) const override { return device_->best_compute_dtype(weights); }

  int64_t most_used() const { return most_used_; }

 private:
  std::unique_ptr<Device> device_;
  std::map<std::byte*, int64_t> sizes_;
  int64_t used_ = 0, most_used_ = 0;
};

void expect_speeds(const DevicePeaks& peaks) {
  for (const double speed : {peaks.matmul_flops_per_s, peaks.memory_bytes_per_s, peaks.h2d_bytes_per_s, peaks.d2h_bytes_per_s, peaks.visit_flops_per_s}) {
    EXPECT_GT(speed, 0);
    EXPECT_TRUE(std::isfinite(speed));
  }
}

/// --gpu-memory covers what measuring takes too, however little it leaves.
TEST(DevicePeaks, TakeNoMoreThanTheirRoom) {
  const auto model =
      Model::of_shape(parse_config(R"({"model_type": "llama", "hidden_size": 512, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4,
    "intermediate_size": 1536, "vocab_size": 64, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "eos_token_id": 2, "bos_token_id": 1,
    "tie_word_embeddings": false, "hidden_act": "silu"})",
                                   "", "test"),
                      DType::kF32);
  int64_t before = 0;
  for (const int64_t room : {256 * kKiB, 3 * kMiB, 24 * kMiB}) {
    CountedDevice device(make_emulated_device(EmulatedKernels::kCpu, 1, kGiB));
    const auto kernels = device.make_kernels(DType::kF32);
    expect_speeds(measure_device_peaks(device, *model, *kernels, room));
    EXPECT_LE(device.most_used(), room);
    EXPECT_GT(device.most_used(), before);  // more where there is more
    before = device.most_used();
  }
}

class DevicePeaksOf : public testing::TestWithParam<const char*> {};

/// Weights whose scales are tensors of their own.
TEST_P(DevicePeaksOf, WeightsAsTheyAreShipped) {
  const auto model = Model::load(std::string(FLEXGEN_SOURCE_DIR) + "/tests/fixtures/models/quantized-" + GetParam());
  const auto device = make_emulated_device(EmulatedKernels::kCpu, 1, 64 * kMiB);
  const auto kernels = device->make_kernels(DType::kF32);
  expect_speeds(measure_device_peaks(*device, *model, *kernels, 16 * kMiB));
}
INSTANTIATE_TEST_SUITE_P(Formats, DevicePeaksOf, testing::Values("fp8", "packed4", "awq"), [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace flexgen::device_peaks_test
