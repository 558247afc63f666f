#include "backend/emulated/emulated_kernels.h"

#include <algorithm>
#include <string>
#include <vector>

#include "base/error.h"
#include "tensor/code_format.h"

namespace flexgen {
namespace {

class EmulatedKernels : public Kernels {
 public:
  EmulatedKernels(const EmulatedMemory& memory, std::unique_ptr<Kernels> kernels)
      : memory_(memory), kernels_(std::move(kernels)), name_(fmt::format("emulated gpu ({})", kernels_->name())) {}

  std::string_view name() const override { return name_; }
  DType act_dtype() const override { return kernels_->act_dtype(); }

  void gather_rows(std::span<const std::byte* const> rows, DType dtype, int64_t cols, bool accumulate, float* out) override {
    std::vector<const std::byte*> behind;
    behind.reserve(rows.size());
    for (const std::byte* row : rows) behind.push_back(bytes(row, row_bytes(dtype, cols), "gather_rows: a row"));
    kernels_->gather_rows(behind, dtype, cols, accumulate, floats(out, static_cast<int64_t>(rows.size()) * cols, "gather_rows: out"));
  }

  void layer_norm(const float* x, int64_t num_rows, int64_t cols, const WeightView& weight, const WeightView& bias, const NormRule& rule,
                  std::byte* out) override {
    kernels_->layer_norm(floats(x, num_rows * cols, "layer_norm: x"), num_rows, cols, view(weight), view(bias), rule,
                         acts(out, num_rows * cols, "layer_norm: out"));
  }
  void layer_norm_f32(float* x, int64_t num_rows, int64_t cols, const WeightView& weight, const WeightView& bias, const NormRule& rule) override {
    kernels_->layer_norm_f32(floats(x, num_rows * cols, "layer_norm: x"), num_rows, cols, view(weight), view(bias), rule);
  }
  void rms_norm(const float* x, int64_t num_rows, int64_t cols, const WeightView& weight, const NormRule& rule, std::byte* out) override {
    kernels_->rms_norm(floats(x, num_rows * cols, "rms_norm: x"), num_rows, cols, view(weight), rule, acts(out, num_rows * cols, "rms_norm: out"));
  }
  void rms_norm_heads(float* x, int64_t num_rows, int64_t num_heads, int64_t head_size, const WeightView& weight, const NormRule& rule) override {
    kernels_->rms_norm_heads(floats(x, num_rows * num_heads * head_size, "rms_norm_heads: x"), num_rows, num_heads, head_size, view(weight), rule);
  }

  void linear(const std::byte* x, int64_t num_rows, const WeightView& weight, const WeightView& bias, bool accumulate, float* y) override {
    kernels_->linear(acts(x, num_rows * weight.cols, "linear: x"), num_rows, view(weight), view(bias), accumulate,
                     floats(y, num_rows * weight.rows, "linear: y"));
  }
  void route(const std::byte* x, int64_t num_rows, const WeightView& weight, const WeightView& bias, float* logits) override {
    kernels_->route(acts(x, num_rows * weight.cols, "route: x"), num_rows, view(weight), view(bias), floats(logits, num_rows * weight.rows, "route: logits"));
  }

  bool convert_rows(const std::byte* rows, DType from, int64_t num_rows, int64_t cols, DType to, GroupRange range, std::byte* out) override {
    return kernels_->convert_rows(bytes(rows, num_rows * row_bytes(from, cols), "convert_rows: rows"), from, num_rows, cols, to, range,
                                  bytes(out, num_rows * row_bytes(to, cols), "convert_rows: out"));
  }

  void activate(const float* x, int64_t count, Activation activation, std::byte* out) override {
    kernels_->activate(floats(x, count, "activate: x"), count, activation, acts(out, count, "activate: out"));
  }
  void gated_activate(const float* gate, const float* up, int64_t count, Activation activation, std::byte* out) override {
    kernels_->gated_activate(floats(gate, count, "gated_activate: gate"), floats(up, count, "gated_activate: up"), count, activation,
                             acts(out, count, "gated_activate: out"));
  }
  void divided_activate(const float* x, int64_t num_rows, int64_t cols, Activation activation, const WeightView& divisors, std::byte* out) override {
    kernels_->divided_activate(floats(x, num_rows * cols, "divided_activate: x"), num_rows, cols, activation, view(divisors),
                               acts(out, num_rows * cols, "divided_activate: out"));
  }
  void clamped_gate(const GatedValues& x, int64_t count, const ClampedGate& rule, std::byte* out) override {
    const float* const gate = floats(x.gate, x.step * count, "clamped_gate: gate");
    const float* const up = x.step == 1 ? floats(x.up, count, "clamped_gate: up") : gate + 1;
    kernels_->clamped_gate({gate, up, x.step}, count, rule, acts(out, count, "clamped_gate: out"));
  }
  void to_act(const float* x, int64_t count, std::byte* out) override {
    kernels_->to_act(floats(x, count, "to_act: x"), count, acts(out, count, "to_act: out"));
  }

  void add_scaled(const float* x, int64_t count, float factor, float* y) override {
    kernels_->add_scaled(floats(x, count, "add_scaled: x"), count, factor, floats(y, count, "add_scaled: y"));
  }
  void scale(float* x, int64_t count, float factor, float cap) override { kernels_->scale(floats(x, count, "scale: x"), count, factor, cap); }
  void clamp(float* x, int64_t count, float limit) override { kernels_->clamp(floats(x, count, "clamp: x"), count, limit); }
  void pick_columns(const float* x, int64_t num_rows, int64_t num_groups, int64_t group_width, int64_t first, int64_t width, float* out) override {
    kernels_->pick_columns(floats(x, num_rows * num_groups * group_width, "pick_columns: x"), num_rows, num_groups, group_width, first, width,
                           floats(out, num_rows * num_groups * width, "pick_columns: out"));
  }
  void rope(float* x, int64_t num_rows, int64_t num_heads, int64_t head_size, const int32_t* positions, const RopeRule& rule) override {
    in_ram(positions, num_rows * static_cast<int64_t>(sizeof(int32_t)), "rope: positions");
    in_ram(rule.inverse_frequencies.data(), std::ssize(rule.inverse_frequencies) * static_cast<int64_t>(sizeof(float)), "rope: frequencies");
    kernels_->rope(floats(x, num_rows * num_heads * head_size, "rope: x"), num_rows, num_heads, head_size, positions, rule);
  }
  void largest(const float* x, int64_t num_rows, int64_t cols, std::span<const Draw> draws, int64_t first_id, Largest* out) override {
    if (!draws.empty()) in_ram(draws.data(), num_rows * static_cast<int64_t>(sizeof(Draw)), "largest: draws");
    std::byte* to = bytes(reinterpret_cast<const std::byte*>(out), num_rows * static_cast<int64_t>(sizeof(Largest)), "largest: out");
    kernels_->largest(floats(x, num_rows * cols, "largest: x"), num_rows, cols, draws, first_id, reinterpret_cast<Largest*>(to));
  }
  void choose_experts(float* logits, int64_t num_rows, const WeightView& bias, const RouterRule& rule, ExpertChoice* choices) override {
    in_ram(choices, num_rows * rule.experts_per_row * static_cast<int64_t>(sizeof(ExpertChoice)), "choose_experts: choices");
    kernels_->choose_experts(floats(logits, num_rows * rule.num_experts, "choose_experts: logits"), num_rows, view(bias), rule, choices);
  }
  void pick_rows(const std::byte* x, std::span<const WeightedRow> rows, int64_t cols, std::byte* out) override {
    in_ram(rows.data(), std::ssize(rows) * static_cast<int64_t>(sizeof(WeightedRow)), "pick_rows: rows");
    kernels_->pick_rows(acts(x, rows_up_to(rows) * cols, "pick_rows: x"), rows, cols, acts(out, std::ssize(rows) * cols, "pick_rows: out"));
  }
  void add_rows(const float* x, std::span<const WeightedRow> rows, int64_t cols, float* y) override {
    in_ram(rows.data(), std::ssize(rows) * static_cast<int64_t>(sizeof(WeightedRow)), "add_rows: rows");
    kernels_->add_rows(floats(x, std::ssize(rows) * cols, "add_rows: x"), rows, cols, floats(y, rows_up_to(rows) * cols, "add_rows: y"));
  }
  void add_gated_rows(const float* x, int64_t num_rows, int64_t cols, const float* gates, float factor, float* y) override {
    kernels_->add_gated_rows(floats(x, num_rows * cols, "add_gated_rows: x"), num_rows, cols, floats(gates, num_rows, "add_gated_rows: gates"), factor,
                             floats(y, num_rows * cols, "add_gated_rows: y"));
  }
  void hadamard(float* x, int64_t num_rows, int64_t num_heads, int64_t head_size) override {
    kernels_->hadamard(floats(x, num_rows * num_heads * head_size, "hadamard: x"), num_rows, num_heads, head_size);
  }

  void append_kv(const float* k, const float* v, std::span<const AttentionSlot> slots, const KvGeometry& geometry) override {
    const Slots behind(*this, slots, geometry);
    const int64_t count = behind.num_rows * geometry.kv_heads * geometry.head_size;
    kernels_->append_kv(floats(k, count, "append_kv: k"), floats(v, count, "append_kv: v"), behind.slots, geometry);
  }
  void attention(const float* q, std::span<const AttentionSlot> slots, const KvGeometry& geometry, const AttentionRule& rule, std::byte* out) override {
    const Slots behind(*this, slots, geometry);
    const int64_t count = behind.num_rows * geometry.query_heads * geometry.head_size;
    kernels_->attention(floats(q, count, "attention: q"), behind.slots, geometry, rule, acts(out, count, "attention: out"));
  }

 private:
  std::byte* bytes(const std::byte* address, int64_t count, const char* what) const { return memory_.behind(address, count, what); }
  float* floats(const float* address, int64_t count, const char* what) const {
    return reinterpret_cast<float*>(bytes(reinterpret_cast<const std::byte*>(address), count * static_cast<int64_t>(sizeof(float)), what));
  }
  std::byte* acts(const std::byte* address, int64_t count, const char* what) const { return bytes(address, size_bytes(act_dtype(), count), what); }
  WeightView view(const WeightView& weight) const {
    WeightView behind = weight;
    for (WeightPiece& piece : behind.pieces) {
      piece.data = bytes(piece.data, piece.rows * row_bytes(weight.dtype, weight.cols), "a weight");
      for (int part = 0; part < kNumCodeParts; ++part)
        if (const std::byte*& beside = piece.beside[static_cast<size_t>(part)])
          beside = bytes(beside, beside_bytes(*weight.format, weight.dtype, static_cast<CodePart>(part), piece.rows, weight.cols), "what lies beside a weight");
    }
    return behind;
  }
  static int64_t rows_up_to(std::span<const WeightedRow> rows) {
    int64_t end = 0;
    for (const WeightedRow& row : rows) end = std::max<int64_t>(end, row.row + 1);
    return end;
  }
  void in_ram(const void* address, int64_t count, const char* what) const {
    FLEXGEN_CHECK(!memory_.touches(static_cast<const std::byte*>(address), count), "{} must lie in RAM", what);
  }

  /// The slots with their pages where they are.
  struct Slots {
    Slots(const EmulatedKernels& kernels, std::span<const AttentionSlot> of, const KvGeometry& geometry) : slots(of.begin(), of.end()), pages(of.size()) {
      for (size_t i = 0; i < slots.size(); ++i) {
        AttentionSlot& slot = slots[i];
        num_rows = std::max(num_rows, slot.first_row + slot.num_rows);
        const int64_t count = (slot.past + slot.num_rows + geometry.page_tokens - 1) / geometry.page_tokens;
        kernels.in_ram(slot.pages, count * static_cast<int64_t>(sizeof(std::byte*)), "the list of pages");
        for (int64_t page = 0; page < count; ++page)
          pages[i].push_back(slot.pages[page] ? kernels.bytes(slot.pages[page], geometry.page_bytes(), "a page of the cache") : nullptr);
        slot.pages = pages[i].data();
      }
    }
    std::vector<AttentionSlot> slots;
    std::vector<std::vector<std::byte*>> pages;
    int64_t num_rows = 0;
  };

  const EmulatedMemory& memory_;
  std::unique_ptr<Kernels> kernels_;
  std::string name_;
};

}  // namespace

std::unique_ptr<Kernels> make_emulated_kernels(const EmulatedMemory& memory, std::unique_ptr<Kernels> kernels) {
  return std::make_unique<EmulatedKernels>(memory, std::move(kernels));
}

}  // namespace flexgen
