#include "backend/staged_kernels.h"

#include <deque>
#include <functional>
#include <vector>

#include "base/units.h"
#include "tensor/code_format.h"

namespace flexgen {
namespace {

class StagedKernels : public Kernels {
 public:
  StagedKernels(std::unique_ptr<Device> device, DType dtype)
      : device_(std::move(device)), compute_(device_->make_compute_lane("compute", nullptr)), up_(device_->make_copy_lane("up", nullptr)),
        down_(device_->make_copy_lane("down", nullptr)), kernels_(device_->make_kernels(dtype)) {}

  std::string_view name() const override { return kernels_->name(); }
  DType act_dtype() const override { return kernels_->act_dtype(); }

  void gather_rows(std::span<const std::byte* const> rows, DType dtype, int64_t cols, bool accumulate, float* out) override {
    Call call(*this);
    std::vector<const std::byte*> on_device;
    for (const std::byte* row : rows) on_device.push_back(call.in(row, row_bytes(dtype, cols)));
    float* to = call.in_out(out, std::ssize(rows) * cols);
    call.run([&] { kernels_->gather_rows(on_device, dtype, cols, accumulate, to); });
  }
  void layer_norm(const float* x, int64_t num_rows, int64_t cols, const WeightView& weight, const WeightView& bias, const NormRule& rule,
                  std::byte* out) override {
    Call call(*this);
    const float* from = call.in(x, num_rows * cols);
    const WeightView w = call.in(weight), b = call.in(bias);
    std::byte* to = call.in_out(out, act_bytes(num_rows * cols));
    call.run([&] { kernels_->layer_norm(from, num_rows, cols, w, b, rule, to); });
  }
  void layer_norm_f32(float* x, int64_t num_rows, int64_t cols, const WeightView& weight, const WeightView& bias, const NormRule& rule) override {
    Call call(*this);
    const WeightView w = call.in(weight), b = call.in(bias);
    float* to = call.in_out(x, num_rows * cols);
    call.run([&] { kernels_->layer_norm_f32(to, num_rows, cols, w, b, rule); });
  }
  void rms_norm(const float* x, int64_t num_rows, int64_t cols, const WeightView& weight, const NormRule& rule, std::byte* out) override {
    Call call(*this);
    const float* from = call.in(x, num_rows * cols);
    const WeightView w = call.in(weight);
    std::byte* to = call.in_out(out, act_bytes(num_rows * cols));
    call.run([&] { kernels_->rms_norm(from, num_rows, cols, w, rule, to); });
  }
  void rms_norm_heads(float* x, int64_t num_rows, int64_t num_heads, int64_t head_size, const WeightView& weight, const NormRule& rule) override {
    Call call(*this);
    const WeightView w = call.in(weight);
    float* to = call.in_out(x, num_rows * num_heads * head_size);
    call.run([&] { kernels_->rms_norm_heads(to, num_rows, num_heads, head_size, w, rule); });
  }
  void linear(const std::byte* x, int64_t num_rows, const WeightView& weight, const WeightView& bias, bool accumulate, float* y) override {
    Call call(*this);
    const std::byte* from = call.in(x, act_bytes(num_rows * weight.cols));
    const WeightView w = call.in(weight), b = call.in(bias);
    float* to = call.in_out(y, num_rows * weight.rows);
    call.run([&] { kernels_->linear(from, num_rows, w, b, accumulate, to); });
  }
  bool convert_rows(const std::byte* rows, DType from, int64_t num_rows, int64_t cols, DType to, GroupRange range, std::byte* out) override {
    Call call(*this);
    const std::byte* there = call.in(rows, num_rows * row_bytes(from, cols));
    std::byte* result = call.in_out(out, num_rows * row_bytes(to, cols));
    bool good = false;
    call.run([&] { good = kernels_->convert_rows(there, from, num_rows, cols, to, range, result); });
    return good;
  }
  void activate(const float* x, int64_t count, Activation activation, std::byte* out) override {
    Call call(*this);
    const float* from = call.in(x, count);
    std::byte* to = call.in_out(out, act_bytes(count));
    call.run([&] { kernels_->activate(from, count, activation, to); });
  }
  void gated_activate(const float* gate, const float* up, int64_t count, Activation activation, std::byte* out) override {
    Call call(*this);
    const float *from = call.in(gate, count), *times = call.in(up, count);
    std::byte* to = call.in_out(out, act_bytes(count));
    call.run([&] { kernels_->gated_activate(from, times, count, activation, to); });
  }
  void divided_activate(const float* x, int64_t num_rows, int64_t cols, Activation activation, const WeightView& divisors, std::byte* out) override {
    Call call(*this);
    const float* from = call.in(x, num_rows * cols);
    const WeightView by = call.in(divisors);
    std::byte* to = call.in_out(out, act_bytes(num_rows * cols));
    call.run([&] { kernels_->divided_activate(from, num_rows, cols, activation, by, to); });
  }
  void clamped_gate(const GatedValues& x, int64_t count, const ClampedGate& rule, std::byte* out) override {
    Call call(*this);
    const float* gate = call.in(x.gate, x.step * count);
    const float* up = x.step == 1 ? call.in(x.up, count) : gate + 1;
    std::byte* to = call.in_out(out, act_bytes(count));
    call.run([&] { kernels_->clamped_gate({gate, up, x.step}, count, rule, to); });
  }
  void to_act(const float* x, int64_t count, std::byte* out) override {
    Call call(*this);
    const float* from = call.in(x, count);
    std::byte* to = call.in_out(out, act_bytes(count));
    call.run([&] { kernels_->to_act(from, count, to); });
  }
  void add_scaled(const float* x, int64_t count, float factor, float* y) override {
    Call call(*this);
    const float* from = call.in(x, count);
    float* to = call.in_out(y, count);
    call.run([&] { kernels_->add_scaled(from, count, factor, to); });
  }
  void scale(float* x, int64_t count, float factor, float cap) override {
    Call call(*this);
    float* to = call.in_out(x, count);
    call.run([&] { kernels_->scale(to, count, factor, cap); });
  }
  void clamp(float* x, int64_t count, float limit) override {
    Call call(*this);
    float* to = call.in_out(x, count);
    call.run([&] { kernels_->clamp(to, count, limit); });
  }
  void pick_columns(const float* x, int64_t num_rows, int64_t num_groups, int64_t group_width, int64_t first, int64_t width, float* out) override {
    Call call(*this);
    const float* from = call.in(x, num_rows * num_groups * group_width);
    float* to = call.in_out(out, num_rows * num_groups * width);
    call.run([&] { kernels_->pick_columns(from, num_rows, num_groups, group_width, first, width, to); });
  }
  void rope(float* x, int64_t num_rows, int64_t num_heads, int64_t head_size, const int32_t* positions, const RopeRule& rule) override {
    Call call(*this);
    float* to = call.in_out(x, num_rows * num_heads * head_size);
    call.run([&] { kernels_->rope(to, num_rows, num_heads, head_size, positions, rule); });
  }
  void largest(const float* x, int64_t num_rows, int64_t cols, std::span<const Draw> draws, int64_t first_id, Largest* out) override {
    Call call(*this);
    const float* from = call.in(x, num_rows * cols);
    std::byte* to = call.in_out(reinterpret_cast<std::byte*>(out), num_rows * static_cast<int64_t>(sizeof(Largest)));
    call.run([&] { kernels_->largest(from, num_rows, cols, draws, first_id, reinterpret_cast<Largest*>(to)); });
  }
  void choose_experts(float* logits, int64_t num_rows, const WeightView& bias, const RouterRule& rule, ExpertChoice* choices) override {
    Call call(*this);
    const WeightView b = call.in(bias);
    float* to = call.in_out(logits, num_rows * rule.num_experts);
    call.run([&] { kernels_->choose_experts(to, num_rows, b, rule, choices); });
  }
  void pick_rows(const std::byte* x, std::span<const WeightedRow> rows, int64_t cols, std::byte* out) override {
    Call call(*this);
    const std::byte* from = call.in(x, act_bytes(rows_up_to(rows) * cols));
    std::byte* to = call.in_out(out, act_bytes(std::ssize(rows) * cols));
    call.run([&] { kernels_->pick_rows(from, rows, cols, to); });
  }
  void add_rows(const float* x, std::span<const WeightedRow> rows, int64_t cols, float* y) override {
    Call call(*this);
    const float* from = call.in(x, std::ssize(rows) * cols);
    float* to = call.in_out(y, rows_up_to(rows) * cols);
    call.run([&] { kernels_->add_rows(from, rows, cols, to); });
  }
  void add_gated_rows(const float* x, int64_t num_rows, int64_t cols, const float* gates, float factor, float* y) override {
    Call call(*this);
    const float *from = call.in(x, num_rows * cols), *by = call.in(gates, num_rows);
    float* to = call.in_out(y, num_rows * cols);
    call.run([&] { kernels_->add_gated_rows(from, num_rows, cols, by, factor, to); });
  }
  void hadamard(float* x, int64_t num_rows, int64_t num_heads, int64_t head_size) override {
    Call call(*this);
    float* to = call.in_out(x, num_rows * num_heads * head_size);
    call.run([&] { kernels_->hadamard(to, num_rows, num_heads, head_size); });
  }
  void append_kv(const float* k, const float* v, std::span<const AttentionSlot> slots, const KvGeometry& geometry) override {
    Call call(*this);
    const int64_t count = num_rows(slots) * geometry.kv_heads * geometry.head_size;
    const float *keys = call.in(k, count), *values = call.in(v, count);
    std::deque<std::vector<std::byte*>> pages;
    const std::vector<AttentionSlot> there = stage(call, slots, geometry, pages);
    call.run([&] { kernels_->append_kv(keys, values, there, geometry); });
  }
  void attention(const float* q, std::span<const AttentionSlot> slots, const KvGeometry& geometry, const AttentionRule& rule, std::byte* out) override {
    Call call(*this);
    const int64_t count = num_rows(slots) * geometry.query_heads * geometry.head_size;
    const float* queries = call.in(q, count);
    std::byte* to = call.in_out(out, act_bytes(count));
    std::deque<std::vector<std::byte*>> pages;
    const std::vector<AttentionSlot> there = stage(call, slots, geometry, pages);
    call.run([&] { kernels_->attention(queries, there, geometry, rule, to); });
  }

 private:
  /// Device memory of one call.
  class Call {
   public:
    explicit Call(StagedKernels& owner) : owner_(owner) {}
    ~Call() {
      for (std::byte* memory : memory_) owner_.device_->deallocate(memory);
    }
    Call(const Call&) = delete;

    /// A copy on the device, as aligned to 16 bytes as the original is.
    const std::byte* in(const std::byte* data, int64_t bytes) { return place(data, bytes); }
    const float* in(const float* data, int64_t count) { return reinterpret_cast<const float*>(place(as_bytes(data), 4 * count)); }
    WeightView in(const WeightView& weight) {
      WeightView there = weight;
      for (WeightPiece& piece : there.pieces) {
        piece.data = place(piece.data, piece.rows * row_bytes(weight.dtype, weight.cols));
        for (int part = 0; part < kNumCodeParts; ++part)
          if (const std::byte*& beside = piece.beside[static_cast<size_t>(part)])
            beside = place(beside, beside_bytes(*weight.format, weight.dtype, static_cast<CodePart>(part), piece.rows, weight.cols));
      }
      return there;
    }
    /// The same, copied back by run().
    std::byte* in_out(std::byte* data, int64_t bytes) {
      std::byte* there = place(data, bytes);
      if (bytes > 0) back_.push_back({there, data, bytes});
      return there;
    }
    float* in_out(float* data, int64_t count) { return reinterpret_cast<float*>(in_out(reinterpret_cast<std::byte*>(data), 4 * count)); }

    void run(std::function<void()> body) {
      Work compute;
      compute.name = "test";
      compute.run = std::move(body);
      owner_.compute_->submit(std::move(compute)).wait();
      Work copies;
      copies.name = "results";
      copies.copies = std::move(back_);
      if (!copies.copies.empty()) owner_.down_->submit(std::move(copies)).wait();
    }

   private:
    static const std::byte* as_bytes(const float* data) { return reinterpret_cast<const std::byte*>(data); }
    std::byte* place(const std::byte* data, int64_t bytes) {
      if (data == nullptr || bytes == 0) return nullptr;
      const auto offset = static_cast<int64_t>(reinterpret_cast<uintptr_t>(data) % 16);
      memory_.push_back(owner_.device_->allocate(bytes + offset));
      std::byte* there = memory_.back() + offset;
      Work copy;
      copy.name = "inputs";
      copy.copies = {{data, there, bytes}};
      owner_.up_->submit(std::move(copy)).wait();
      return there;
    }

    StagedKernels& owner_;
    std::vector<std::byte*> memory_;
    std::vector<Copy> back_;
  };

  int64_t act_bytes(int64_t count) const { return size_bytes(act_dtype(), count); }
  static int64_t rows_up_to(std::span<const WeightedRow> rows) {
    int64_t end = 0;
    for (const WeightedRow& row : rows) end = std::max<int64_t>(end, row.row + 1);
    return end;
  }
  static int64_t num_rows(std::span<const AttentionSlot> slots) {
    int64_t rows = 0;
    for (const AttentionSlot& slot : slots) rows = std::max(rows, slot.first_row + slot.num_rows);
    return rows;
  }
  static std::vector<AttentionSlot> stage(Call& call, std::span<const AttentionSlot> slots, const KvGeometry& geometry,
                                          std::deque<std::vector<std::byte*>>& pages) {
    std::vector<AttentionSlot> there(slots.begin(), slots.end());
    for (AttentionSlot& slot : there) {
      std::vector<std::byte*>& mine = pages.emplace_back();
      for (int64_t page = 0; page < ceil_div(slot.past + slot.num_rows, geometry.page_tokens); ++page)
        mine.push_back(slot.pages[page] ? call.in_out(slot.pages[page], geometry.page_bytes()) : nullptr);
      slot.pages = mine.data();
    }
    return there;
  }

  std::unique_ptr<Device> device_;
  std::unique_ptr<Lane> compute_, up_, down_;
  std::unique_ptr<Kernels> kernels_;
};

}  // namespace

std::unique_ptr<Kernels> make_staged_kernels(std::unique_ptr<Device> device, DType compute_dtype) {
  return std::make_unique<StagedKernels>(std::move(device), compute_dtype);
}

}  // namespace flexgen
