#pragma once
// DeviceKernels: the Kernels of a GPU, in terms of what a DeviceRuntime gives: a stream, an upload ring, a workspace, a matrix product. Compiled
// by nvcc over the CUDA runtime (cuda_kernels.cu), and by the host compiler over the block emulator for tests (emulated_kernels.cc).
// All pointers are the device's, but for spans of pointers, slots, positions and frequencies, which are the host's and copied before a function returns.
// One thread. Functions return when their work is enqueued; convert_rows() waits for it, as it has something to say.
//
// One answer: kernels' launch shapes depend on the model's dimensions alone. A matrix is multiplied where it lies if it lies in one place as it is needed, else
// piece by piece as they are put together in the workspace; by one algorithm either way, which takes no notice of the cuts (see DeviceRuntime::multiply()).

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>
#include <vector>

#include "backend/cuda/attention_kernels.h"
#include "backend/cuda/block_rows.h"
#include "backend/cuda/code_rows.h"
#include "backend/cuda/device_runtime.h"
#include "backend/cuda/generated_attention.h"
#include "backend/cuda/kept_uploads.h"
#include "backend/cuda/prompt_attention.h"
#include "backend/cuda/routing_kernels.h"
#include "backend/cuda/row_kernels.h"
#include "backend/kernels.h"
#include "base/error.h"
#include "base/units.h"
#include "tensor/block_formats.h"

namespace flexgen::inline FLEXGEN_SIDE {

/// Half: the act type.
template <typename Half>
class DeviceKernels : public Kernels {
 public:
  DeviceKernels(std::string_view name, std::unique_ptr<DeviceRuntime> runtime) : name_(name), runtime_(std::move(runtime)) {}

  std::string_view name() const override { return name_; }
  DType act_dtype() const override { return Half::kType; }

  void gather_rows(std::span<const std::byte* const> rows, DType dtype, int64_t cols, bool accumulate, float* out) override {
    const int64_t most = kLargestUpload / static_cast<int64_t>(sizeof(std::byte*)), count = std::ssize(rows);
    for (int64_t first = 0; first < count; first += most) {
      const int64_t num = std::min(most, count - first);
      auto* pointers = reinterpret_cast<const std::byte* const*>(uploads_.upload(rows.data() + first, num * static_cast<int64_t>(sizeof(std::byte*))));
      if (!is_blocked(dtype)) run("gather", gather, {num}, threads_for(cols), pointers, dtype, cols, accumulate, out + first * cols);
      blocks::with_format(
          dtype, [&]<DType kType>() { run("gather", gather_blocks<kType>, {num}, threads_for(cols / 8), pointers, cols, accumulate, out + first * cols); });
    }
  }

  void layer_norm(const float* x, int64_t num_rows, int64_t cols, const WeightView& weight, const WeightView& bias, const NormRule& rule,
                  std::byte* out) override {
    layer_norm_to(x, num_rows, cols, weight, bias, rule, out, Half::kType);
  }
  void layer_norm_f32(float* x, int64_t num_rows, int64_t cols, const WeightView& weight, const WeightView& bias, const NormRule& rule) override {
    layer_norm_to(x, num_rows, cols, weight, bias, rule, reinterpret_cast<std::byte*>(x), DType::kF32);
  }
  void rms_norm(const float* x, int64_t num_rows, int64_t cols, const WeightView& weight, const NormRule& rule, std::byte* out) override {
    run("rms_norm", rms_normalize, {num_rows}, threads_for(cols), x, cols, weight.data(), weight.dtype, rule.epsilon, rule.weight_offset, out, Half::kType);
  }
  void rms_norm_heads(float* x, int64_t num_rows, int64_t num_heads, int64_t head_size, const WeightView& weight, const NormRule& rule) override {
    run("rms_norm_heads", rms_normalize, {num_rows * num_heads}, threads_for(head_size), x, head_size, weight.empty() ? nullptr : weight.data(), weight.dtype,
        rule.epsilon, rule.weight_offset, reinterpret_cast<std::byte*>(x), DType::kF32);
  }

  void linear(const std::byte* x, int64_t num_rows, const WeightView& weight, const WeightView& bias, bool accumulate, float* y) override {
    if (num_rows == 0 || weight.rows == 0) return;
    const int64_t cols = weight.cols, padded = round_up(cols, 8);
    FLEXGEN_CHECK(matrix_piece_rows(padded) * padded * 2 <= kMatrixBytes, "a matrix of {} columns", cols);
    const bool is_whole =
        weight.pieces.size() == 1 && lies_as_needed(weight.data(), weight.dtype, cols, padded) && (bias.empty() || weight.rows <= kBiasBytes / 4);
    const int64_t piece = is_whole ? weight.rows : matrix_piece_rows(padded);
    const bool pad_x = padded != cols || reinterpret_cast<uintptr_t>(x) % 16 != 0;
    const int64_t panel = pad_x ? std::max<int64_t>(1, kPaddedRowsBytes / (2 * padded)) : num_rows;
    for (int64_t first = 0; first < weight.rows; first += piece) {
      MatrixProduct product{.n = std::min(piece, weight.rows - first), .k = padded, .accumulate = accumulate, .y_stride = weight.rows};
      product.weight = dense_rows(weight, first, product.n, padded);
      if (!bias.empty()) {
        auto* to = reinterpret_cast<float*>(runtime_->workspace() + kProductWorkspaceBytes);
        convert(bias.data() + size_bytes(bias.dtype, first), bias.dtype, 1, product.n, reinterpret_cast<std::byte*>(to), DType::kF32, product.n);
        product.bias = to;
      }
      for (int64_t row = 0; row < num_rows; row += panel) {
        product.num_rows = std::min(panel, num_rows - row);
        product.x = x + size_bytes(Half::kType, row * cols);
        if (pad_x) {
          std::byte* to = runtime_->workspace() + kProductWorkspaceBytes + kBiasBytes;
          convert(product.x, Half::kType, product.num_rows, cols, to, Half::kType, padded);
          product.x = to;
        }
        product.y = y + row * weight.rows + first;
        runtime_->multiply(product);
      }
    }
  }

  bool convert_rows(const std::byte* rows, DType from, int64_t num_rows, int64_t cols, DType to, GroupRange range, std::byte* out) override {
    // Weights are prepared by the cpu backend (engine.cc), which searches ranges; here rows of the cache's kind alone are quantized.
    FLEXGEN_CHECK(range == GroupRange::kMinMax);
    FLEXGEN_CHECK(!is_scaled(from) && (!is_blocked(from) || to == Half::kType), "rows of {} as {}", dtype_name(from), dtype_name(to));
    if (is_blocked(from)) {
      unpack(rows, from, num_rows, cols, out, cols);
      return true;
    }
    if (!is_quantized(to)) {
      convert(rows, from, num_rows, cols, out, to, cols);
      return true;
    }
    uint32_t is_bad = 0;
    auto* flag = reinterpret_cast<uint32_t*>(uploads_.upload(&is_bad, sizeof is_bad));
    run("quantize_rows", quantize_rows, {num_rows}, kRowThreads, rows, from, cols, out, to, flag);
    runtime_->download(flag, sizeof is_bad, &is_bad);
    return is_bad == 0;
  }

  void activate(const float* x, int64_t count, Activation activation, std::byte* out) override { gated_activate(x, nullptr, count, activation, out); }
  void gated_activate(const float* gate, const float* up, int64_t count, Activation activation, std::byte* out) override {
    run("activate", activate_elements, {blocks_for(count)}, kRowThreads, gate, up, count, activation, out, Half::kType);
  }
  void divided_activate(const float* x, int64_t num_rows, int64_t cols, Activation activation, const WeightView& divisors, std::byte* out) override {
    run("divided_activate", divide_activated, {blocks_for(num_rows * cols)}, kRowThreads, x, num_rows * cols, cols, activation, divisors.data(), divisors.dtype,
        out, Half::kType);
  }
  void clamped_gate(const GatedValues& x, int64_t count, const ClampedGate& rule, std::byte* out) override {
    run("clamped_gate", clamp_gates, {blocks_for(count)}, kRowThreads, x, count, rule, out, Half::kType);
  }
  void to_act(const float* x, int64_t count, std::byte* out) override {
    convert(reinterpret_cast<const std::byte*>(x), DType::kF32, 1, count, out, Half::kType, count);
  }

  void add_scaled(const float* x, int64_t count, float factor, float* y) override {
    run("add_scaled", add_scaled_elements, {blocks_for(count)}, kRowThreads, x, count, factor, y);
  }
  void scale(float* x, int64_t count, float factor, float cap) override {
    run("scale", scale_elements, {blocks_for(count)}, kRowThreads, x, count, factor, cap);
  }
  void clamp(float* x, int64_t count, float limit) override { run("clamp", clamp_elements, {blocks_for(count)}, kRowThreads, x, count, limit); }
  void pick_columns(const float* x, int64_t num_rows, int64_t num_groups, int64_t group_width, int64_t first, int64_t width, float* out) override {
    const int64_t groups = num_rows * num_groups;
    run("pick_columns", pick_elements, {blocks_for(groups * width)}, kRowThreads, x, groups, group_width, first, width, out);
  }

  void rope(float* x, int64_t num_rows, int64_t num_heads, int64_t head_size, const int32_t* positions, const RopeRule& rule) override {
    if (num_rows == 0) return;
    Blob blob;
    const auto at = blob.add(positions, static_cast<size_t>(num_rows));
    const auto frequencies = blob.add(rule.inverse_frequencies.data(), rule.inverse_frequencies.size());
    const std::byte* base = uploads_.upload_once(blob.bytes);
    run("rope", rotate, {num_rows}, kRowThreads, x, static_cast<int>(num_heads), static_cast<int>(head_size), static_cast<int>(rule.inverse_frequencies.size()),
        rule.interleaved, at.on(base), frequencies.on(base), rule.scale);
  }

  void largest(const float* x, int64_t num_rows, int64_t cols, std::span<const Draw> draws, int64_t first_id, Largest* out) override {
    const auto* on_device =
        draws.empty() ? nullptr : reinterpret_cast<const Draw*>(uploads_.upload(draws.data(), num_rows * static_cast<int64_t>(sizeof(Draw))));
    run("largest", find_largest, {num_rows}, threads_for(cols), x, cols, on_device, static_cast<uint32_t>(first_id), out);
  }

  void choose_experts(float* logits, int64_t num_rows, const WeightView& bias, const RouterRule& rule, ExpertChoice* choices) override {
    const int64_t row_bytes = rule.experts_per_row * static_cast<int64_t>(sizeof(ExpertChoice)), panel = std::max<int64_t>(1, kLargestDownload / row_bytes);
    for (int64_t first = 0; first < num_rows; first += panel) {
      const int64_t rows = std::min(panel, num_rows - first);
      auto* found = reinterpret_cast<ExpertChoice*>(runtime_->workspace());
      run("choose_experts", choose_of_rows, {rows}, kWarp, logits + first * rule.num_experts, bias.empty() ? nullptr : bias.data(), bias.dtype, rule, found);
      runtime_->download(found, rows * row_bytes, choices + first * rule.experts_per_row);
    }
  }
  void pick_rows(const std::byte* x, std::span<const WeightedRow> rows, int64_t cols, std::byte* out) override {
    for_packed(rows, [&](const PackedRows& packed, int64_t first, int64_t count) {
      run("pick_rows", pack_rows, {count}, threads_for(cols), reinterpret_cast<const uint16_t*>(x), packed, cols,
          reinterpret_cast<uint16_t*>(out) + first * cols);
    });
  }
  void add_rows(const float* x, std::span<const WeightedRow> rows, int64_t cols, float* y) override {
    for_packed(rows, [&](const PackedRows& packed, int64_t first, int64_t count) {
      run("add_rows", add_packed_rows, {count}, threads_for(cols), x + first * cols, packed, cols, y);
    });
  }
  void add_gated_rows(const float* x, int64_t num_rows, int64_t cols, const float* gates, float factor, float* y) override {
    run("add_gated_rows", add_rows_by_gates, {num_rows}, threads_for(cols), x, gates, factor, cols, y);
  }

  void hadamard(float* x, int64_t num_rows, int64_t num_heads, int64_t head_size) override {
    FLEXGEN_CHECK(head_size <= kLargestHadamard && std::has_single_bit(static_cast<uint64_t>(head_size)), "heads of {}", head_size);
    run("hadamard", transform_hadamard, {num_rows * num_heads}, threads_for(head_size), x, static_cast<int>(head_size));
  }

  void append_kv(const float* k, const float* v, std::span<const AttentionSlot> slots, const KvGeometry& geometry) override {
    for_slot_groups(slots, geometry, [&](std::span<const AttentionSlot> group) {
      Blob places, tasks;  // the places differ from layer to layer
      const UploadedSlots uploaded = add_slots(places, group, geometry);
      std::vector<NewRow> rows;
      for (size_t s = 0; s < group.size(); ++s)
        for (int64_t row = 0; row < group[s].num_rows; ++row) rows.push_back({static_cast<int32_t>(s), static_cast<int32_t>(row)});
      const auto task_part = tasks.add(rows);
      const std::byte *base = uploads_.upload_once(places.bytes), *task_base = uploads_.upload_once(tasks.bytes);
      run("append", append_rows, {std::ssize(rows), 2 * geometry.kv_heads}, threads_for(geometry.head_size), k, v, uploaded.slots.on(base),
          task_part.on(task_base), cache_on_device(uploaded, geometry, base));
    });
  }

  void attention(const float* q, std::span<const AttentionSlot> slots, const KvGeometry& geometry, const AttentionRule& rule, std::byte* out) override {
    if (slots.empty()) return;
    if (geometry.head_size > kLargestHead)
      throw Error(ErrorKind::kDevice, fmt::format("the cuda backend attends with heads of up to {} elements, and this model's have {}: use --attention-on cpu",
                                                  kLargestHead, geometry.head_size));
    for_slot_groups(slots, geometry, [&](std::span<const AttentionSlot> group) {
      if (geometry.head_size <= 64) attend_group<1>(q, group, geometry, rule, out);
      else attend_group<2>(q, group, geometry, rule, out);
    });
  }

 private:
  /// Arrays that go up in one copy.
  struct Blob {
    template <typename T>
    struct Part {
      int64_t offset;
      const T* on(const std::byte* base) const { return reinterpret_cast<const T*>(base + offset); }
    };
    template <typename T>
    Part<T> add(const T* values, size_t count) {
      const auto offset = round_up(std::ssize(bytes), 16);
      bytes.resize(static_cast<size_t>(offset) + count * sizeof(T));
      if (count > 0) std::memcpy(bytes.data() + offset, values, count * sizeof(T));
      return {offset};
    }
    template <typename T>
    Part<T> add(const std::vector<T>& values) {
      return add(values.data(), values.size());
    }
    std::vector<std::byte> bytes;
  };
  struct UploadedSlots {
    typename Blob::template Part<SlotOnDevice> slots;
    typename Blob::template Part<std::byte*> pages;
    RowKind kind;
  };

  template <typename... Parameters, typename... Arguments>
  void run(const char* what, void (*kernel)(Parameters...), Grid grid, int threads, Arguments... arguments) {
    launch(kernel, grid, threads, runtime_->stream(), arguments...);
    runtime_->check_launch(what);
  }

  /// Of a block that owns a row: by its length alone.
  static int threads_for(int64_t cols) { return static_cast<int>(std::clamp<int64_t>(round_up(cols, kWarp), kWarp, kRowThreads)); }
  static int64_t blocks_for(int64_t count) { return std::min<int64_t>(ceil_div(count, kRowThreads), 4096); }

  /// Calls body(packed, first, count) with the rows, as many at a time as go with a kernel's arguments.
  template <typename Body>
  static void for_packed(std::span<const WeightedRow> rows, const Body& body) {
    for (int64_t first = 0; first < std::ssize(rows); first += kMostPackedRows) {
      PackedRows packed;
      const int64_t count = std::min(kMostPackedRows, std::ssize(rows) - first);
      std::copy_n(rows.begin() + first, count, packed.rows);
      body(packed, first, count);
    }
  }

  void layer_norm_to(const float* x, int64_t num_rows, int64_t cols, const WeightView& weight, const WeightView& bias, const NormRule& rule, std::byte* out,
                     DType type) {
    run("layer_norm", layer_normalize, {num_rows}, threads_for(cols), x, cols, weight.empty() ? nullptr : weight.data(), weight.dtype,
        bias.empty() ? nullptr : bias.data(), bias.dtype, rule.epsilon, rule.weight_offset, out, type);
  }

  void convert(const std::byte* x, DType from, int64_t num_rows, int64_t cols, std::byte* out, DType to, int64_t out_stride) {
    const bool aligned = (reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(out)) % 16 == 0;
    const int64_t count = num_rows * cols;
    if (aligned && to == Half::kType && out_stride == cols && count % 8 == 0)
      return run("convert", convert_words<Half>, {blocks_for(count / 8)}, kRowThreads, x, from, count / 8, out);
    run("convert", convert_elements, {blocks_for(num_rows * out_stride)}, kRowThreads, x, from, num_rows, cols, out, to, out_stride);
  }

  /// Rows of a quantized type as rows of Half with `padded` elements; out at 16 bytes.
  void unpack(const std::byte* rows, DType from, int64_t num_rows, int64_t cols, std::byte* out, int64_t padded) {
    if (is_blocked(from))
      return blocks::with_format(from, [&]<DType kType>() { run("unpack", unpack_blocks<Half, kType>, {num_rows}, threads_for(cols / 8), rows, cols, out); });
    const auto at = reinterpret_cast<uintptr_t>(rows);
    if (!is_grouped(from) || cols % kQuantGroup != 0 || at % 4 != 0)
      return run("unpack", unpack_rows, {num_rows}, threads_for(padded), rows, from, cols, out, Half::kType, padded);
    const int64_t stride = row_bytes(from, cols);
    const bool is_wide = (at | static_cast<uintptr_t>(stride)) % 8 == 0;
    run("unpack", unpack_groups<Half>, {num_rows}, threads_for((from == DType::kInt4 ? cols / 2 : cols) / 8), rows, stride, from, cols, is_wide, out);
  }

  /// Rows [first, first + num_rows) of a piece whose scales are tensors of their own, likewise.
  void unpack_codes(const WeightView& weight, const WeightPiece& piece, int64_t first, int64_t num_rows, std::byte* out, int64_t padded) {
    const CodesOnDevice codes{
        piece.data, piece.beside[kScales], piece.beside[kZeros], piece.beside[kOrder], piece.beside[kGlobal], *weight.format, first, num_rows, weight.cols,
        padded};
    codes::with_codes(weight.dtype, [&]<DType kType>() {
      if constexpr (is_transposed(kType)) {
        FLEXGEN_CHECK(kType != DType::kAwq4 || (first % 8 == 0 && num_rows % 8 == 0), "rows {} and {} more", first, num_rows);
        run("unpack", unpack_code_columns<Half, kType>, {ceil_div(num_rows, kCodeTile), ceil_div(padded, kCodeTile)}, kRowThreads, codes, out);
      } else {
        run("unpack", unpack_code_rows<Half, kType>, {num_rows}, threads_for(padded / 8), codes, out);
      }
    });
  }

  static bool lies_as_needed(const std::byte* data, DType dtype, int64_t cols, int64_t padded) {
    return dtype == Half::kType && padded == cols && reinterpret_cast<uintptr_t>(data) % 16 == 0;
  }

  /// Rows [first, first + count) of the weight as [count, padded] of the act type: where they lie if they lie so, else put together in the workspace.
  const std::byte* dense_rows(const WeightView& weight, int64_t first, int64_t count, int64_t padded) {
    std::byte* const dense = runtime_->workspace() + kProductWorkspaceBytes + kBiasBytes + kPaddedRowsBytes;
    int64_t piece_first = 0;
    for (const WeightPiece& piece : weight.pieces) {
      const int64_t from = std::max(first, piece_first), to = std::min(first + count, piece_first + piece.rows);
      const std::byte* data = piece.data + (from - piece_first) * row_bytes(weight.dtype, weight.cols);  // of rows that lie together
      const int64_t in_piece = from - piece_first;
      piece_first += piece.rows;
      if (from >= to) continue;
      if (from == first && to == first + count && lies_as_needed(data, weight.dtype, weight.cols, padded)) return data;
      std::byte* out = dense + (from - first) * padded * 2;
      if (is_scaled(weight.dtype)) unpack_codes(weight, piece, in_piece, to - from, out, padded);
      else if (is_quantized(weight.dtype)) unpack(data, weight.dtype, to - from, weight.cols, out, padded);
      else convert(data, weight.dtype, to - from, weight.cols, out, Half::kType, padded);
    }
    FLEXGEN_CHECK(piece_first == weight.rows, "pieces hold {} rows of {}", piece_first, weight.rows);
    return dense;
  }

  static int64_t num_pages(const AttentionSlot& slot, const KvGeometry& geometry) { return ceil_div(slot.past + slot.num_rows, geometry.page_tokens); }

  /// Calls body with stretches of the slots whose description fits one upload.
  template <typename Body>
  static void for_slot_groups(std::span<const AttentionSlot> slots, const KvGeometry& geometry, const Body& body) {
    size_t first = 0;
    const int64_t of_heads = 2 * (4 * geometry.query_heads + 16);  // slopes and sinks
    int64_t bytes = of_heads;
    for (size_t s = 0; s < slots.size(); ++s) {
      // Pages, the slot, and for every row the larger of its tasks: together no more than kLargestUpload, though they go up in two pieces.
      const int64_t mine = num_pages(slots[s], geometry) * 8 + 64 +
                           slots[s].num_rows * static_cast<int64_t>(sizeof(GeneratedRow) + sizeof(PromptTile) * (geometry.query_heads / geometry.kv_heads));
      if (s > first && bytes + mine > kLargestUpload) {
        body(slots.subspan(first, s - first));
        first = s;
        bytes = of_heads;
      }
      bytes += mine;
    }
    if (first < slots.size()) body(slots.subspan(first));
  }

  static UploadedSlots add_slots(Blob& blob, std::span<const AttentionSlot> slots, const KvGeometry& geometry) {
    std::vector<SlotOnDevice> on_device;
    std::vector<std::byte*> pages;
    for (const AttentionSlot& slot : slots) {
      on_device.push_back(
          {static_cast<int32_t>(slot.first_row), static_cast<int32_t>(slot.num_rows), static_cast<int32_t>(slot.past), static_cast<int32_t>(pages.size())});
      pages.insert(pages.end(), slot.pages, slot.pages + num_pages(slot, geometry));
    }
    const bool aligned = std::all_of(pages.begin(), pages.end(), [](const std::byte* page) { return reinterpret_cast<uintptr_t>(page) % 16 == 0; });
    const bool wide = aligned && geometry.head_size % kQuantGroup == 0;
    const RowKind kind = wide && geometry.dtype == DType::kInt4   ? RowKind::kInt4
                         : wide && geometry.dtype == DType::kInt8 ? RowKind::kInt8
                         : wide && geometry.dtype == Half::kType  ? RowKind::kHalf
                                                                  : RowKind::kAny;
    // Pages first: by them KeptUploads tells layers apart at once.
    const auto page_part = blob.add(pages);
    return {blob.add(on_device), page_part, kind};
  }

  static CacheOnDevice cache_on_device(const UploadedSlots& uploaded, const KvGeometry& g, const std::byte* base) {
    CacheOnDevice cache;
    cache.pages = uploaded.pages.on(base);
    cache.dtype = g.dtype;
    cache.query_heads = static_cast<int>(g.query_heads);
    cache.kv_heads = static_cast<int>(g.kv_heads);
    cache.head_size = static_cast<int>(g.head_size);
    cache.page_tokens = static_cast<int>(g.page_tokens);
    const auto tokens = static_cast<uint64_t>(g.page_tokens);
    cache.page_shift = std::has_single_bit(tokens) ? std::countr_zero(tokens) : -1;
    cache.row_bytes = row_bytes(g.dtype, g.head_size);
    return cache;
  }

  struct AttentionKernels {
    void (*prompts)(AttentionOnDevice, const PromptTile*);
    void (*generated)(AttentionOnDevice, const GeneratedRow*, const int32_t*, float*);
    void (*score)(AttentionOnDevice, const GeneratedRow*, float*);
    int generated_heads;  ///< query heads of a block of `generated`
  };
  template <int kGroups, RowKind kKind>
  static constexpr AttentionKernels attention_kernels() {
    if constexpr (kKind == RowKind::kAny)
      return {attend_prompts<Half, kGroups, kKind>, attend_generated<Half, kGroups, kKind>, score_generated<Half, kGroups, kKind>, kWarpRows};
    else return {attend_prompts<Half, kGroups, kKind>, attend_generated_staged<Half, kGroups, kKind>, score_generated<Half, kGroups, kKind>, kGeneratedHeads};
  }

  /// What a call of attention() has to do for its generated rows, a batch at a time as the workspace holds them.
  struct GeneratedBatch {
    std::vector<GeneratedRow> rows;
    int64_t num_partials = 0, scores = 0, chosen = 0;
    int most_splits = 0, most_visible = 0;
  };

  template <int kGroups>
  void attend_group(const float* q, std::span<const AttentionSlot> slots, const KvGeometry& g, const AttentionRule& rule, std::byte* out) {
    static constexpr AttentionKernels kKernels[] = {attention_kernels<kGroups, RowKind::kHalf>(), attention_kernels<kGroups, RowKind::kInt4>(),
                                                    attention_kernels<kGroups, RowKind::kInt8>(), attention_kernels<kGroups, RowKind::kAny>()};
    const int64_t group = g.query_heads / g.kv_heads;
    std::vector<PromptTile> tiles;
    std::vector<GeneratedBatch> dense, sparse;
    for (size_t s = 0; s < slots.size(); ++s) {
      const AttentionSlot& slot = slots[s];
      const int64_t prompt_rows = std::clamp<int64_t>(slot.dense_until - slot.past, 0, slot.num_rows);
      // The last first: they take longest.
      for (int64_t first = round_up(prompt_rows * group, kPromptRows) - kPromptRows; first >= 0; first -= kPromptRows)
        tiles.push_back(
            {static_cast<int32_t>(s), static_cast<int32_t>(first), static_cast<int32_t>(std::min<int64_t>(kPromptRows, prompt_rows * group - first))});
      for (int64_t row = prompt_rows; row < slot.num_rows; ++row) {
        const int64_t position = slot.past + row;
        add_generated(rule.is_sparse(slot, position) ? sparse : dense, {static_cast<int32_t>(s), static_cast<int32_t>(row)}, position,
                      rule.is_sparse(slot, position), g, rule);
      }
    }

    Blob places, tasks;
    const UploadedSlots uploaded = add_slots(places, slots, g);
    const AttentionKernels& kernels = kKernels[static_cast<int>(uploaded.kind)];
    const auto tile_part = tasks.add(tiles);
    const auto slopes = tasks.add(rule.slopes.data(), rule.slopes.size()), sinks = tasks.add(rule.sinks.data(), rule.sinks.size());
    std::vector<std::pair<const GeneratedBatch*, typename Blob::template Part<GeneratedRow>>> batches;
    for (const auto* list : {&dense, &sparse})
      for (const GeneratedBatch& batch : *list) batches.emplace_back(&batch, tasks.add(batch.rows));
    const std::byte *base = uploads_.upload_once(places.bytes), *task_base = uploads_.upload_once(tasks.bytes);

    constexpr float kLog2E = 1.4426950408889634f;
    AttentionOnDevice a{.q = q,
                        .out = reinterpret_cast<uint16_t*>(out),
                        .slots = uploaded.slots.on(base),
                        .cache = cache_on_device(uploaded, g, base),
                        .scale_log2 = rule.scale * kLog2E,
                        .window = static_cast<int>(rule.window),
                        .soft_cap = rule.soft_cap,
                        .slopes = rule.slopes.empty() ? nullptr : slopes.on(task_base),
                        .sinks = rule.sinks.empty() ? nullptr : sinks.on(task_base)};
    constexpr int kThreads = kAttentionWarps * kWarp;
    if (!tiles.empty()) run("attention of prompts", kernels.prompts, {std::ssize(tiles), g.kv_heads}, kThreads, a, tile_part.on(task_base));
    const int64_t head_blocks = g.kv_heads * ceil_div(group, kernels.generated_heads);
    for (const auto& [batch, part] : batches) {
      const GeneratedRow* rows = part.on(task_base);
      const int64_t num_rows = std::ssize(batch->rows);
      auto* partials = reinterpret_cast<float*>(runtime_->workspace());
      float* scores = partials + batch->num_partials * g.query_heads * (2 + g.head_size);
      auto* chosen = batch->scores > 0 ? reinterpret_cast<int32_t*>(scores + batch->scores) : nullptr;
      if (chosen != nullptr) {
        const int64_t score_blocks = ceil_div(batch->most_visible, kTile * kAttentionWarps) + 1;  // one more, as tiles start at multiples of 32
        run("scores of generated rows", kernels.score, {score_blocks, g.kv_heads * ceil_div(group, kWarpRows), num_rows}, kThreads, a, rows, scores);
        run("choice of positions", choose_generated, {g.kv_heads, num_rows}, kRowThreads, a, rows, scores, chosen);
      }
      run("attention of generated rows", kernels.generated, {batch->most_splits, head_blocks, num_rows}, kThreads, a, rows, chosen, partials);
      if (batch->most_splits > 1) run("merging of splits", merge_splits<Half>, {g.query_heads, num_rows}, threads_for(g.head_size), a, rows, partials);
    }
  }

  static void add_generated(std::vector<GeneratedBatch>& batches, GeneratedRow row, int64_t position, bool is_sparse, const KvGeometry& g,
                            const AttentionRule& rule) {
    const int64_t visible = rule.visible(position), kept = is_sparse ? rule.kept(visible) : 0;
    const int64_t first = is_sparse ? 0 : position + 1 - visible, last = is_sparse ? kept - 1 : position;
    row.visible = static_cast<int32_t>(visible);
    row.kept = static_cast<int32_t>(kept);
    row.num_splits = static_cast<int32_t>(num_splits(first, last));
    const int64_t partials = row.num_splits > 1 ? row.num_splits : 0, scores = is_sparse ? g.query_heads * visible : 0, chosen = g.kv_heads * kept;
    auto bytes = [&](int64_t p, int64_t s, int64_t c) { return 4 * (p * g.query_heads * (2 + g.head_size) + s + c); };
    if (bytes(partials, scores, chosen) > kDeviceWorkspaceBytes)
      throw Error(ErrorKind::kDevice,
                  fmt::format("attention of a token over {} positions takes more than the {} the cuda backend has for it: use --attention-on cpu", visible,
                              format_bytes(kDeviceWorkspaceBytes)));
    constexpr size_t kMostRows = 65535;  // of a grid's third dimension
    if (batches.empty() || batches.back().rows.size() == kMostRows ||
        bytes(batches.back().num_partials + partials, batches.back().scores + scores, batches.back().chosen + chosen) > kDeviceWorkspaceBytes)
      batches.emplace_back();
    GeneratedBatch& batch = batches.back();
    row.first_partial = static_cast<int32_t>(batch.num_partials);
    row.scores = batch.scores;
    row.chosen = batch.chosen;
    batch.num_partials += partials;
    batch.scores += scores;
    batch.chosen += chosen;
    batch.most_splits = std::max(batch.most_splits, static_cast<int>(row.num_splits));
    batch.most_visible = std::max(batch.most_visible, static_cast<int>(visible));
    batch.rows.push_back(row);
  }

  std::string_view name_;
  std::unique_ptr<DeviceRuntime> runtime_;
  KeptUploads uploads_{*runtime_};
};

}  // namespace flexgen::inline FLEXGEN_SIDE
