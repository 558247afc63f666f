// Every backend against the reference over one table of operations; the reference against closed
// forms; and "one answer": a row's bits depend on nothing but the row.

#include "backend/kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>

#include "backend/cuda/block_emulator.h"
#include "backend/cuda/emulated_kernels.h"
#include "backend/cuda_status.h"
#include "backend/staged_kernels.h"
#include "base/error.h"
#include "base/units.h"
#include "tensor/code_format.h"
#include "tensor/group_quant.h"

namespace flexgen::kernels_test {
namespace {

using Rng = std::mt19937;
using Floats = std::vector<float>;
using Bytes = std::vector<std::byte>;

int64_t pick(Rng& rng, int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(rng); }

/// Normal values that bf16 holds exactly, so that every backend starts from the same numbers.
Floats random_floats(Rng& rng, int64_t count, float scale = 1) {
  std::normal_distribution<float> normal(0, scale);
  Floats values(static_cast<size_t>(count));
  for (float& value : values) value = float_from_bf16(bf16_from_float(normal(rng)));
  return values;
}

Bytes encode(const Floats& values, DType dtype) {
  Bytes bytes(static_cast<size_t>(size_bytes(dtype, static_cast<int64_t>(values.size()))));
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::kF32) {
      std::memcpy(bytes.data() + 4 * i, &values[i], 4);
    } else {
      uint16_t half = dtype == DType::kBF16 ? bf16_from_float(values[i]) : f16_from_float(values[i]);
      std::memcpy(bytes.data() + 2 * i, &half, 2);
    }
  }
  return bytes;
}

Floats decode(const Bytes& bytes, DType dtype) {
  Floats values(bytes.size() / static_cast<size_t>(size_bytes(dtype, 1)));
  for (size_t i = 0; i < values.size(); ++i) values[i] = load_float(bytes.data(), dtype, static_cast<int64_t>(i));
  return values;
}

/// The same for rows, which alone have a place in quantized types.
Bytes encode_rows(const Floats& values, DType dtype, int64_t cols) {
  const auto rows = static_cast<int64_t>(values.size()) / cols;
  Bytes bytes(static_cast<size_t>(rows * row_bytes(dtype, cols)));
  for (int64_t row = 0; row < rows; ++row) store_row(values.data() + row * cols, cols, dtype, bytes.data() + row * row_bytes(dtype, cols));
  return bytes;
}

/// A weight and the memory it lies in, cut into pieces that each lie alone at 2 bytes past any
/// alignment.
class TestWeight {
 public:
  TestWeight(const Floats& values, DType dtype, int64_t rows, int64_t cols, std::vector<int64_t> cuts = {})
      : TestWeight(encode_rows(values, dtype, cols), dtype, rows, cols, std::move(cuts)) {}
  TestWeight(const Bytes& bytes, DType dtype, int64_t rows, int64_t cols, std::vector<int64_t> cuts = {}) {
    cuts.push_back(rows);
    std::sort(cuts.begin(), cuts.end());
    view_ = {dtype, rows, cols, {}};
    int64_t first = 0;
    for (int64_t cut : cuts) {
      if (cut == first) continue;
      auto from = static_cast<size_t>(first * row_bytes(dtype, cols)), to = static_cast<size_t>(cut * row_bytes(dtype, cols));
      auto& memory = memory_.emplace_back(std::make_unique<Bytes>(to - from + 2));
      std::memcpy(memory->data() + 2, bytes.data() + from, to - from);
      view_.pieces.push_back({memory->data() + 2, cut - first});
      first = cut;
    }
  }
  static TestWeight vector(const Floats& values, DType dtype) { return {values, dtype, 1, static_cast<int64_t>(values.size())}; }
  operator const WeightView&() const { return view_; }

 private:
  std::vector<std::unique_ptr<Bytes>> memory_;
  WeightView view_;
};

std::vector<int64_t> random_cuts(Rng& rng, int64_t rows, int64_t count) {
  std::vector<int64_t> cuts;
  for (int64_t i = 0; i < count; ++i) cuts.push_back(pick(rng, 0, rows));
  return cuts;
}

/// The act output of `run(out)`, as floats.
template <typename Run>
Floats act_output(Kernels& kernels, int64_t count, const Run& run) {
  Bytes out(static_cast<size_t>(size_bytes(kernels.act_dtype(), count)));
  run(out.data());
  return decode(out, kernels.act_dtype());
}

/// A cache of one sequence: pages that start as NaN, so that whoever reads too far is found out.
struct Sequence {
  std::vector<Bytes> memory;
  std::vector<std::byte*> pages;

  Sequence(const KvGeometry& geometry, int64_t tokens) {
    for (int64_t page = 0; page < ceil_div(tokens, geometry.page_tokens); ++page)
      memory.emplace_back(static_cast<size_t>(geometry.page_bytes()), std::byte{0xff});
    for (Bytes& page : memory) pages.push_back(page.data());
  }
};

struct AttentionShape {
  DType dtype;
  int64_t query_heads, kv_heads, head_size, page_tokens, window;
  double sparsity = 1;
  float soft_cap = 0;
  bool alibi = false;
  bool has_sinks = false;
  KvGeometry geometry() const { return {dtype, query_heads, kv_heads, head_size, page_tokens}; }
};

/// Sparse shapes are so from this position on.
constexpr int64_t kDenseUntil = 20;

/// From below all scores to above most.
Floats sinks_of(const AttentionShape& shape) {
  Floats sinks;
  for (int64_t head = 0; shape.has_sinks && head < shape.query_heads; ++head) sinks.push_back(static_cast<float>(head % 5) * 2 - 3);
  return sinks;
}

/// q, k and v of one sequence.
struct AttentionInput {
  Floats q, k, v;
  AttentionInput(Rng& rng, const AttentionShape& shape, int64_t tokens)
      : q(random_floats(rng, tokens * shape.query_heads * shape.head_size)), k(random_floats(rng, tokens * shape.kv_heads * shape.head_size)),
        v(random_floats(rng, tokens * shape.kv_heads * shape.head_size)) {}
};

/// Attention over whole sequences fed in chunks: chunks[i] of sequence i are its chunk lengths; all
/// sequences' chunk number c share a call. Returns [sequence][token, A, H].
std::vector<Floats> attend_in_chunks(Kernels& kernels, const AttentionShape& shape, const std::vector<AttentionInput>& inputs,
                                     const std::vector<std::vector<int64_t>>& chunks) {
  const KvGeometry geometry = shape.geometry();
  Floats slopes;
  const Floats sinks = sinks_of(shape);
  for (int64_t head = 0; shape.alibi && head < shape.query_heads; ++head)
    slopes.push_back(std::exp2(-8 * static_cast<float>(head + 1) / static_cast<float>(shape.query_heads)));
  const AttentionRule rule{.scale = 1 / std::sqrt(static_cast<float>(shape.head_size)),
                           .window = shape.window,
                           .sparsity = shape.sparsity,
                           .soft_cap = shape.soft_cap,
                           .slopes = slopes,
                           .sinks = sinks};
  const int64_t q_size = shape.query_heads * shape.head_size, kv_size = shape.kv_heads * shape.head_size;
  std::vector<Sequence> sequences;
  std::vector<int64_t> past(inputs.size(), 0);
  std::vector<Floats> results(inputs.size());
  size_t rounds = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    sequences.emplace_back(geometry, std::accumulate(chunks[i].begin(), chunks[i].end(), int64_t{0}));
    rounds = std::max(rounds, chunks[i].size());
  }
  for (size_t round = 0; round < rounds; ++round) {
    std::vector<AttentionSlot> slots;
    std::vector<size_t> owner;
    Floats q, k, v;
    int64_t rows = 0;
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (round >= chunks[i].size()) continue;
      const int64_t count = chunks[i][round];
      slots.push_back({rows, count, past[i], sequences[i].pages.data(), kDenseUntil});
      owner.push_back(i);
      auto append = [&](Floats& to, const Floats& from, int64_t size) {
        to.insert(to.end(), from.begin() + past[i] * size, from.begin() + (past[i] + count) * size);
      };
      append(q, inputs[i].q, q_size), append(k, inputs[i].k, kv_size), append(v, inputs[i].v, kv_size);
      rows += count;
    }
    kernels.append_kv(k.data(), v.data(), slots, geometry);
    Floats out = act_output(kernels, rows * q_size, [&](std::byte* to) { kernels.attention(q.data(), slots, geometry, rule, to); });
    for (size_t s = 0; s < slots.size(); ++s) {
      results[owner[s]].insert(results[owner[s]].end(), out.begin() + slots[s].first_row * q_size,
                               out.begin() + (slots[s].first_row + slots[s].num_rows) * q_size);
      past[owner[s]] += slots[s].num_rows;
    }
  }
  return results;
}

std::vector<int64_t> random_chunks(Rng& rng, int64_t tokens, int64_t longest) {
  std::vector<int64_t> chunks;
  for (int64_t at = 0; at < tokens; at += chunks.back()) chunks.push_back(std::min(tokens - at, pick(rng, 1, longest)));
  return chunks;
}

Floats flatten(const std::vector<Floats>& parts) {
  Floats all;
  for (const Floats& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

// ---------------------------------------------------------------- the table

/// One operation on random input; the same seed gives the same input on every backend.
struct OperationCase {
  std::string name;
  std::function<Floats(Kernels&, Rng&)> run;
};

void add_linear_cases(std::vector<OperationCase>& cases) {
  struct Shape {
    int64_t rows, n, k;
  };
  for (Shape shape : {Shape{1, 1, 1}, {1, 37, 20}, {3, 64, 64}, {17, 65, 33}, {32, 200, 128}, {70, 129, 257}, {300, 130, 512}, {5, 2048, 96}})
    for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32, DType::kInt8, DType::kInt4})
      for (bool accumulate : {false, true})
        cases.push_back(
            {fmt::format("linear_{}x{}x{}_{}{}", shape.rows, shape.n, shape.k, dtype_name(dtype), accumulate ? "_add" : ""), [=](Kernels& kernels, Rng& rng) {
               auto [t, n, k] = shape;
               Bytes x = encode(random_floats(rng, t * k), kernels.act_dtype());
               TestWeight weight(random_floats(rng, n * k), dtype, n, k, random_cuts(rng, n, 2));
               TestWeight bias = TestWeight::vector(random_floats(rng, n), is_quantized(dtype) ? DType::kBF16 : dtype);
               Floats y = random_floats(rng, t * n);
               kernels.linear(x.data(), t, weight, accumulate ? WeightView{} : bias, accumulate, y.data());
               return y;
             }});
}

/// Rows of blocks: any codes, and scales that leave the values about as large as other weights.
Bytes random_blocks(Rng& rng, DType dtype, int64_t rows, int64_t cols) {
  const QuantBlock block = quant_block(dtype);
  Bytes bytes(static_cast<size_t>(rows * row_bytes(dtype, cols)));
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(pick(rng, 0, 255));
  std::vector<int64_t> halves{0};
  if (dtype == DType::kQ4_1 || dtype == DType::kQ5_1 || dtype == DType::kQ4_K || dtype == DType::kQ5_K) halves = {0, 2};
  else if (dtype == DType::kQ2_K) halves = {80, 82};
  else if (dtype == DType::kQ3_K || dtype == DType::kQ6_K) halves = {block.bytes - 2};
  for (size_t at = 0; at < bytes.size(); at += static_cast<size_t>(block.bytes)) {
    if (dtype == DType::kMXFP4) bytes[at] = static_cast<std::byte>(pick(rng, 120, 127));
    else
      for (int64_t half : halves) {
        const auto bits =
            static_cast<uint16_t>(pick(rng, 0, 1) << 15 | pick(rng, block.elements == kLongestBlock ? 0x0c00 : 0x1c00, 0x1fff));  // of either sign, below 2^-7
        std::memcpy(bytes.data() + at + half, &bits, sizeof bits);
      }
  }
  return bytes;
}

/// As GGUF files have them, of the types [first, last].
void add_block_cases(std::vector<OperationCase>& cases, DType first, DType last) {
  for (int number = static_cast<int>(first); number <= static_cast<int>(last); ++number) {
    const auto dtype = static_cast<DType>(number);
    for (int64_t k : {int64_t{256}, int64_t{1536}})
      cases.push_back({fmt::format("linear_3x37x{}_{}", k, dtype_name(dtype)), [=](Kernels& kernels, Rng& rng) {
                         const Bytes x = encode(random_floats(rng, 3 * k), kernels.act_dtype());
                         const TestWeight weight(random_blocks(rng, dtype, 37, k), dtype, 37, k, random_cuts(rng, 37, 2));
                         Floats y = random_floats(rng, 3 * 37);
                         kernels.linear(x.data(), 3, weight, WeightView{}, true, y.data());
                         return y;
                       }});
    cases.push_back({fmt::format("gather_rows_512_{}", dtype_name(dtype)), [=](Kernels& kernels, Rng& rng) {
                       const Bytes table = random_blocks(rng, dtype, 9, 512);
                       std::vector<const std::byte*> rows;
                       for (int i = 0; i < 20; ++i) rows.push_back(table.data() + pick(rng, 0, 8) * row_bytes(dtype, 512));
                       Floats out(20 * 512, NAN);
                       kernels.gather_rows(rows, dtype, 512, false, out.data());
                       return out;
                     }});
  }
}

void add_row_cases(std::vector<OperationCase>& cases) {
  for (int64_t cols : {1, 15, 64, 100, 4096})
    for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
      auto name = [&](const char* what) { return fmt::format("{}_{}_{}", what, cols, dtype_name(dtype)); };
      cases.push_back({name("gather_rows"), [=](Kernels& kernels, Rng& rng) {
                         Bytes table = encode(random_floats(rng, 9 * cols), dtype);
                         std::vector<const std::byte*> rows;
                         for (int i = 0; i < 20; ++i) rows.push_back(table.data() + size_bytes(dtype, pick(rng, 0, 8) * cols));
                         Floats out(static_cast<size_t>(20 * cols), NAN);
                         kernels.gather_rows(rows, dtype, cols, false, out.data());
                         std::reverse(rows.begin(), rows.end());
                         kernels.gather_rows(rows, dtype, cols, true, out.data());
                         return out;
                       }});
      if (cols == 1) continue;
      if (dtype == DType::kF32)
        for (DType quantized : {DType::kInt8, DType::kInt4})
          cases.push_back({fmt::format("gather_rows_{}_{}", cols, dtype_name(quantized)), [=](Kernels& kernels, Rng& rng) {
                             Bytes table = encode_rows(random_floats(rng, 9 * cols), quantized, cols);
                             std::vector<const std::byte*> rows;
                             for (int i = 0; i < 20; ++i) rows.push_back(table.data() + pick(rng, 0, 8) * row_bytes(quantized, cols));
                             Floats out(static_cast<size_t>(20 * cols), NAN);
                             kernels.gather_rows(rows, quantized, cols, false, out.data());
                             return out;
                           }});
      cases.push_back({name("layer_norm"), [=](Kernels& kernels, Rng& rng) {
                         Floats x = random_floats(rng, 11 * cols, 3);
                         for (float& value : x) value += 2;
                         TestWeight weight = TestWeight::vector(random_floats(rng, cols), dtype);
                         TestWeight bias = TestWeight::vector(random_floats(rng, cols), dtype);
                         Floats out = act_output(kernels, 11 * cols, [&](std::byte* to) { kernels.layer_norm(x.data(), 11, cols, weight, bias, 1e-5f, to); });
                         Floats bare = act_output(kernels, 11 * cols, [&](std::byte* to) { kernels.layer_norm(x.data(), 11, cols, {}, {}, 1e-5f, to); });
                         Floats y = x;
                         kernels.layer_norm_f32(x.data(), 11, cols, weight, WeightView{}, 1e-5f);
                         kernels.layer_norm_f32(y.data(), 11, cols, weight, bias, {1e-5f, 1});
                         return flatten({out, bare, x, y});
                       }});
      cases.push_back({name("rms_norm"), [=](Kernels& kernels, Rng& rng) {
                         Floats x = random_floats(rng, 12 * cols, 3);
                         TestWeight weight = TestWeight::vector(random_floats(rng, cols), dtype);
                         Floats out = act_output(kernels, 12 * cols, [&](std::byte* to) { kernels.rms_norm(x.data(), 12, cols, weight, 1e-6f, to); });
                         Floats more = act_output(kernels, 12 * cols, [&](std::byte* to) { kernels.rms_norm(x.data(), 12, cols, weight, {1e-6f, 1}, to); });
                         Floats bare = x;
                         kernels.rms_norm_heads(x.data(), 4, 3, cols, weight, 1e-6f);
                         kernels.rms_norm_heads(bare.data(), 4, 3, cols, {}, 1e-6f);
                         return flatten({out, more, x, bare});
                       }});
    }
}

void add_element_cases(std::vector<OperationCase>& cases) {
  const std::pair<const char*, Activation> kinds[] = {{"relu", Activation::kRelu},
                                                      {"relu_squared", Activation::kReluSquared},
                                                      {"gelu", Activation::kGelu},
                                                      {"gelu_tanh", Activation::kGeluTanh},
                                                      {"silu", Activation::kSilu}};
  for (int64_t count : {1, 77, 70000})
    for (auto [kind_name, kind] : kinds)
      cases.push_back({fmt::format("{}_{}", kind_name, count), [=, kind = kind](Kernels& kernels, Rng& rng) {
                         Floats x = random_floats(rng, count, 4), up = random_floats(rng, count);
                         for (size_t i = 0; i < x.size(); i += 97) x[i] *= 50;  // far into the flat ends
                         Floats plain = act_output(kernels, count, [&](std::byte* to) { kernels.activate(x.data(), count, kind, to); });
                         Floats gated = act_output(kernels, count, [&](std::byte* to) { kernels.gated_activate(x.data(), up.data(), count, kind, to); });
                         return flatten({plain, gated});
                       }});
  for (int64_t head_size : {2, 16, 64, 80, 96, 128})
    for (auto [turned, interleaved] :
         {std::pair(head_size, false), std::pair(head_size, true), std::pair(head_size / 4 * 2, false), std::pair(head_size / 4 * 2, true)})
      if (turned > 0)
        cases.push_back({fmt::format("rope_{}_{}{}", head_size, turned, interleaved ? "_interleaved" : ""),
                         [=, turned = turned, interleaved = interleaved](Kernels& kernels, Rng& rng) {
                           const int64_t rows = 40, heads = 3;
                           Floats x = random_floats(rng, rows * heads * head_size), frequencies;
                           std::vector<int32_t> positions;
                           for (int64_t t = 0; t < rows; ++t) positions.push_back(static_cast<int32_t>(pick(rng, 0, 131071)));
                           for (int64_t i = 0; i < turned / 2; ++i)
                             frequencies.push_back(static_cast<float>(std::pow(5e5, -2.0 * static_cast<double>(i) / static_cast<double>(turned))));
                           kernels.rope(x.data(), rows, heads, head_size, positions.data(), {frequencies, 1.1f, interleaved});
                           return x;
                         }});
  for (int64_t count : {1, 77, 70000}) {
    cases.push_back({fmt::format("add_scaled_{}", count), [=](Kernels& kernels, Rng& rng) {
                       Floats x = random_floats(rng, count), y = random_floats(rng, count);
                       kernels.add_scaled(x.data(), count, 0.22f, y.data());
                       return y;
                     }});
    for (float cap : {0.0f, 3.0f})
      cases.push_back({fmt::format("scale_{}_cap{}", count, cap), [=](Kernels& kernels, Rng& rng) {
                         Floats x = random_floats(rng, count, 4);
                         kernels.scale(x.data(), count, 1.5f, cap);
                         return x;
                       }});
  }
  for (int64_t width : {1, 16, 80})
    cases.push_back({fmt::format("pick_columns_{}", width), [=](Kernels& kernels, Rng& rng) {
                       const int64_t rows = 9, groups = 4;
                       Floats x = random_floats(rng, rows * groups * 3 * width), out(static_cast<size_t>(rows * groups * width), NAN);
                       kernels.pick_columns(x.data(), rows, groups, 3 * width, width, width, out.data());
                       return out;
                     }});
  cases.push_back({"to_act", [](Kernels& kernels, Rng& rng) {
                     Floats x = random_floats(rng, 1001);
                     return act_output(kernels, 1001, [&](std::byte* to) { kernels.to_act(x.data(), 1001, to); });
                   }});
}

const std::vector<AttentionShape>& attention_shapes() {
  static const std::vector<AttentionShape> shapes = {{DType::kBF16, 8, 2, 128, 16, 0},
                                                     {DType::kBF16, 4, 4, 64, 32, 0},
                                                     {DType::kF32, 4, 4, 64, 7, 0},
                                                     {DType::kF16, 6, 2, 80, 64, 0},
                                                     {DType::kBF16, 3, 1, 96, 128, 0},
                                                     {DType::kF32, 2, 1, 16, 1, 0},
                                                     {DType::kBF16, 5, 5, 20, 48, 0},
                                                     {DType::kBF16, 8, 8, 128, 16, 9},
                                                     {DType::kF16, 40, 1, 33, 24, 70},
                                                     {DType::kF32, 1, 1, 1, 5, 3},
                                                     {DType::kInt4, 8, 2, 128, 64, 0},
                                                     {DType::kInt4, 3, 3, 80, 16, 0},
                                                     {DType::kInt8, 4, 1, 64, 32, 0},
                                                     {DType::kInt4, 4, 2, 33, 24, 50},
                                                     {DType::kBF16, 8, 2, 128, 16, 0, 0.1},
                                                     {DType::kInt4, 10, 2, 64, 32, 0, 0.2},
                                                     {DType::kInt8, 3, 1, 96, 16, 60, 0.3},
                                                     {DType::kF32, 4, 4, 20, 7, 0, 0.05},
                                                     {DType::kBF16, 8, 2, 128, 16, 40, 1, 2},
                                                     {DType::kBF16, 3, 1, 96, 64, 0, 0.3, 0.5},
                                                     {DType::kInt4, 4, 2, 64, 32, 0, 1, 1},
                                                     {DType::kInt8, 4, 1, 128, 16, 0, 0.3, 2},
                                                     {DType::kF32, 2, 1, 16, 8, 0, 1, 3},
                                                     {DType::kBF16, 6, 3, 128, 32, 0, 1, 0, true},
                                                     {DType::kInt4, 4, 4, 64, 32, 0, 1, 0, true},
                                                     {DType::kInt8, 5, 1, 64, 16, 0, 1, 0, true},
                                                     {DType::kF16, 3, 3, 20, 7, 0, 1, 0, true},
                                                     {DType::kBF16, 8, 2, 64, 16, 9, 1, 0, false, true},
                                                     {DType::kF32, 6, 3, 20, 7, 0, 1, 0, false, true},
                                                     {DType::kInt4, 8, 2, 64, 32, 0, 1, 0, false, true},
                                                     {DType::kF32, 6, 2, 64, 32, 30, 0.3, 0, false, true},
                                                     {DType::kBF16, 6, 2, 64, 64, 0, 0.3, 0, false, true},
                                                     {DType::kF16, 4, 2, 33, 24, 50, 1, 0, false, true}};
  return shapes;
}

std::string shape_name(const AttentionShape& s) {
  return fmt::format("{}_a{}_g{}_h{}_page{}_window{}_sparsity{}_cap{}{}{}", dtype_name(s.dtype), s.query_heads, s.kv_heads, s.head_size, s.page_tokens,
                     s.window, s.sparsity, s.soft_cap, s.alibi ? "_alibi" : "", s.has_sinks ? "_sinks" : "");
}

TEST(HadamardTest, IsItsDefinition) {
  Rng rng(12);
  for (int64_t size : {1, 2, 16, 128}) {
    const Floats x = random_floats(rng, 2 * size);
    for (auto make : {+[] { return make_reference_kernels(); }, +[] { return make_cpu_kernels({2, DType::kF32}); }}) {
      Floats y = x;
      make()->hadamard(y.data(), 2, 1, size);
      for (int64_t row : {0, 1})
        for (int64_t i = 0; i < size; ++i) {
          double sum = 0;
          for (int64_t j = 0; j < size; ++j)
            sum += static_cast<double>(x[static_cast<size_t>(row * size + j)]) * (std::popcount(static_cast<uint64_t>(i & j)) % 2 == 0 ? 1 : -1);
          EXPECT_NEAR(y[static_cast<size_t>(row * size + i)], sum / std::sqrt(static_cast<double>(size)), 1e-5);
        }
    }
  }
}

void add_attention_cases(std::vector<OperationCase>& cases, const std::vector<AttentionShape>& shapes = attention_shapes()) {
  for (const AttentionShape& shape : shapes)
    cases.push_back({"attention_" + shape_name(shape), [=](Kernels& kernels, Rng& rng) {
                       std::vector<AttentionInput> inputs;
                       std::vector<std::vector<int64_t>> chunks;
                       for (int64_t tokens : {1, 50, 150}) {
                         inputs.emplace_back(rng, shape, tokens);
                         chunks.push_back(random_chunks(rng, tokens, tokens));
                       }
                       return flatten(attend_in_chunks(kernels, shape, inputs, chunks));
                     }});
}

void add_choice_cases(std::vector<OperationCase>& cases) {
  for (int64_t cols : {1, 31, 256, 5000})
    cases.push_back({fmt::format("largest_{}", cols), [=](Kernels& kernels, Rng& rng) {
                       const int64_t rows = 9;
                       Floats x(static_cast<size_t>(rows * cols)), out;
                       for (float& value : x) value = static_cast<float>(pick(rng, -40, 40));  // most are there several times
                       std::vector<Draw> draws(static_cast<size_t>(rows));
                       for (size_t t = 0; t < draws.size(); t += 2)
                         draws[t] = {static_cast<float>(pick(rng, 1, 20)) / 8, {static_cast<uint32_t>(rng()), static_cast<uint32_t>(rng())}};
                       for (bool drawn : {false, true}) {
                         std::vector<Largest> found(static_cast<size_t>(rows));
                         kernels.largest(x.data(), rows, cols, drawn ? std::span<const Draw>(draws) : std::span<const Draw>(), 77, found.data());
                         for (const Largest& row : found) out.insert(out.end(), {row.value, static_cast<float>(row.at)});
                       }
                       return out;
                     }});
}

void add_gate_cases(std::vector<OperationCase>& cases) {
  for (int64_t count : {1, 77, 70000})
    for (bool in_pairs : {true, false})
      cases.push_back({fmt::format("clamped_gate_{}{}", count, in_pairs ? "" : "_apart"), [=](Kernels& kernels, Rng& rng) {
                         const Floats x = random_floats(rng, 2 * count, 9);  // many beyond the limit, on either side
                         const GatedValues values = in_pairs ? GatedValues::pairs(x.data()) : GatedValues{x.data(), x.data() + count};
                         return act_output(kernels, count, [&](std::byte* to) { kernels.clamped_gate(values, count, {1.5f, 5}, to); });
                       }});
}

/// Clear choices, as backends' exponentials differ in the last bits: logits are different steps of a quarter, and so are biases of sigmoids that are all but alike.
void add_routing_cases(std::vector<OperationCase>& cases) {
  struct Router {
    const char* name;
    RouterRule rule;
    bool has_bias = false;
  };
  for (const Router& router :
       {Router{"softmax", {8, 2}}, Router{"softmax_normalized", {.num_experts = 130, .experts_per_row = 9, .normalized = true, .scale = 2.5f}},
        Router{"sigmoid", {.num_experts = 64, .experts_per_row = 6, .score = RouterScore::kSigmoid, .normalized = true}, true},
        Router{
            "groups",
            {.num_experts = 64, .experts_per_row = 6, .score = RouterScore::kSigmoid, .normalized = true, .scale = 2.5f, .num_groups = 8, .groups_per_row = 3},
            true},
        Router{"many_groups", {.num_experts = 120, .experts_per_row = 3, .num_groups = 60, .groups_per_row = 2}},
        Router{"sparse_mixer", {.num_experts = 40, .experts_per_row = 2, .score = RouterScore::kSparseMixer, .nearness = 0.3f}}, Router{"all", {3, 3}}})
    cases.push_back({fmt::format("choose_experts_{}", router.name), [=](Kernels& kernels, Rng& rng) {
                       const RouterRule& rule = router.rule;
                       const int64_t rows = 61, E = rule.num_experts;  // enough for several threads
                       Floats logits, bias, out;
                       auto add_steps = [&](Floats& to, float step, int64_t first) {
                         std::vector<int64_t> steps(static_cast<size_t>(E));
                         std::iota(steps.begin(), steps.end(), first);
                         std::shuffle(steps.begin(), steps.end(), rng);
                         for (int64_t at : steps) to.push_back(step * static_cast<float>(at));
                       };
                       for (int64_t t = 0; t < rows; ++t) add_steps(logits, router.has_bias ? 0x1p-9f : 0.25f, -E / 3);
                       add_steps(bias, 0.25f, 0);
                       const TestWeight bias_weight = TestWeight::vector(bias, DType::kBF16);
                       std::vector<ExpertChoice> choices(static_cast<size_t>(rows * rule.experts_per_row));
                       kernels.choose_experts(logits.data(), rows, router.has_bias ? bias_weight : WeightView(), rule, choices.data());
                       for (const ExpertChoice& choice : choices) out.insert(out.end(), {static_cast<float>(choice.expert), choice.weight});
                       return out;
                     }});
  for (int64_t rows : {0, 1, 20, 300})
    cases.push_back({fmt::format("route_{}", rows), [=](Kernels& kernels, Rng& rng) {
                       const int64_t experts = 70, cols = 160;
                       const Bytes x = encode(random_floats(rng, rows * cols), kernels.act_dtype());
                       const TestWeight router(random_floats(rng, experts * cols), DType::kF32, experts, cols);
                       Floats logits(static_cast<size_t>(rows * experts));
                       kernels.route(x.data(), rows, router, TestWeight::vector(random_floats(rng, experts), DType::kF32), logits.data());
                       return logits;
                     }});
  for (int64_t cols : {1, 33, 600})
    for (int64_t count : {0, 1, 20, 300}) {
      const std::string size = fmt::format("_{}_{}", count, cols);
      const int64_t rows = 700;
      auto rows_of = [=](Rng& rng) {
        std::vector<WeightedRow> all(static_cast<size_t>(rows));
        for (size_t i = 0; i < all.size(); ++i) all[i] = {static_cast<int32_t>(i), static_cast<float>(pick(rng, 1, 16)) / 8};
        std::shuffle(all.begin(), all.end(), rng);
        all.resize(static_cast<size_t>(count));
        return all;
      };
      cases.push_back({"pick_rows" + size, [=](Kernels& kernels, Rng& rng) {
                         const std::vector<WeightedRow> picked = rows_of(rng);
                         const Bytes x = encode(random_floats(rng, rows * cols), kernels.act_dtype());
                         return act_output(kernels, count * cols, [&](std::byte* to) { kernels.pick_rows(x.data(), picked, cols, to); });
                       }});
      cases.push_back({"add_rows" + size, [=](Kernels& kernels, Rng& rng) {
                         const std::vector<WeightedRow> picked = rows_of(rng);
                         const Floats x = random_floats(rng, count * cols);
                         Floats y = random_floats(rng, rows * cols);
                         kernels.add_rows(x.data(), picked, cols, y.data());
                         return y;
                       }});
      cases.push_back({"add_gated_rows" + size, [=](Kernels& kernels, Rng& rng) {
                         const Floats x = random_floats(rng, count * cols), gates = random_floats(rng, count, 4);
                         Floats y = random_floats(rng, count * cols);
                         kernels.add_gated_rows(x.data(), count, cols, gates.data(), 0.22f, y.data());
                         return y;
                       }});
    }
}

void add_clamp_cases(std::vector<OperationCase>& cases) {
  for (int64_t count : {1, 77, 70000})
    cases.push_back({fmt::format("clamp_{}", count), [=](Kernels& kernels, Rng& rng) {
                       Floats x = random_floats(rng, count, 4);  // many beyond the limit, on either side
                       kernels.clamp(x.data(), count, 2.5f);
                       return x;
                     }});
}

void add_divided_cases(std::vector<OperationCase>& cases) {
  for (DType type : {DType::kF32, DType::kF16, DType::kBF16})
    for (int64_t cols : {1, 77, 5000})
      cases.push_back({fmt::format("divided_{}_{}", cols, dtype_name(type)), [=](Kernels& kernels, Rng& rng) {
                         const Floats x = random_floats(rng, 11 * cols, 4);
                         Floats divisors = random_floats(rng, cols);
                         for (float& value : divisors) value = std::copysign(0.1f + std::abs(value), value);
                         const TestWeight by = TestWeight::vector(divisors, type);
                         return act_output(kernels, 11 * cols,
                                           [&](std::byte* to) { kernels.divided_activate(x.data(), 11, cols, Activation::kGeluTanh, by, to); });
                       }});
}

/// New ones come last: a case's input goes by its place.
const std::vector<OperationCase>& operation_cases() {
  static const std::vector<OperationCase> cases = [] {
    std::vector<OperationCase> all;
    add_linear_cases(all);
    add_block_cases(all, DType::kQ4_0, DType::kMXFP4);
    add_row_cases(all);
    add_element_cases(all);
    add_attention_cases(all);
    add_choice_cases(all);
    add_gate_cases(all);
    add_routing_cases(all);
    add_clamp_cases(all);
    add_divided_cases(all);
    add_block_cases(all, DType::kIQ4_XS, kLastBlockedDType);  // a case's place is its seed: new ones come last
    return all;
  }();
  return cases;
}

struct Backend {
  std::string name;
  std::function<std::unique_ptr<Kernels>()> make;
  bool is_bf16 = false;
  bool is_emulated = false;  ///< the cuda backend's kernels on an emulated block of threads: hundreds of times slower
};

const std::vector<Backend>& backends() {
  auto cpu = [](int threads, DType dtype) { return [=] { return make_cpu_kernels({threads, dtype}); }; };
  static const std::vector<Backend> all = {{"cpu_f32_1", cpu(1, DType::kF32)},
                                           {"cpu_f32_2", cpu(2, DType::kF32)},
                                           {"cpu_bf16_1", cpu(1, DType::kBF16), true},
                                           {"cpu_bf16_3", cpu(3, DType::kBF16), true},
                                           {"cuda_emulated", [] { return make_emulated_cuda_kernels(DType::kBF16); }, true, true},
                                           {"cuda_bf16", [] { return make_staged_kernels(make_cuda_device(0), DType::kBF16); }, true},
                                           {"cuda_f16", [] { return make_staged_kernels(make_cuda_device(0), DType::kF16); }, true}};
  return all;
}

class BackendTest : public testing::TestWithParam<size_t> {
 protected:
  void SetUp() override {
    if (backend().name.starts_with("cpu_bf16") && !cpu_has_bf16()) GTEST_SKIP() << "this machine does not multiply bf16";
    if (backend().name == "cuda_bf16" || backend().name == "cuda_f16") {
      const std::string why = why_not_tested(cuda_status(), backend().name == "cuda_bf16" ? DType::kBF16 : DType::kF16);
      if (!why.empty()) GTEST_SKIP() << why;
    }
    kernels_ = backend().make();
  }
  const Backend& backend() const { return backends()[GetParam()]; }
  std::unique_ptr<Kernels> kernels_;
};

std::function<bool(std::string_view)> begins_with(std::string_view prefix) {
  return [prefix](std::string_view name) { return name.starts_with(prefix); };
}

/// Runs the operations of which `wanted` holds by both.
void expect_agreement(Kernels& kernels, Kernels& reference, bool is_bf16, const std::function<bool(std::string_view name)>& wanted,
                      const std::vector<OperationCase>& operations = operation_cases(), double slack = 1) {
  uint32_t seed = 0;
  for (const OperationCase& operation : operations) {
    ++seed;
    if (!wanted(operation.name)) continue;
    SCOPED_TRACE(operation.name);
    Rng rng(seed), same_rng(seed);
    Floats expected = operation.run(reference, rng), actual = operation.run(kernels, same_rng);
    ASSERT_EQ(expected.size(), actual.size());
    double square = 0;
    for (float value : expected) square += static_cast<double>(value) * value;
    // No less than what SiLU makes of numbers far below zero, which is 0 or nearly so.
    const double size = std::max(1e-25, std::sqrt(square / static_cast<double>(expected.size())));
    // Rounding errors scale with the terms of a sum (the typical size) and with the result itself.
    // A weight of the softmax times a step of an int4 value is rounded to bf16, which is off by up to a 512th, and a value is up to 8 steps, of a 15th of the largest and the smallest apart: an error of up to a
    // 480th of the largest value, whatever is left of the values when they cancel. Rows that see one position show about the largest.
    const bool int4 = operation.name.starts_with("attention_int4");
    double largest = 0;
    for (float value : expected) largest = std::max(largest, std::abs(static_cast<double>(value)));
    const bool codes = operation.name.starts_with("attention_int4") || operation.name.starts_with("attention_int8");
    // Over quantized caches fp32 backends take queries, and weights times steps, as numbers of 16 bits, each off by up to a 65,534th of the largest. What
    // these errors make of a mean of values is random: typically below 2^-13 of the typical result, far less than eight times that at the worst.
    const double tolerance = slack * (!is_bf16 ? (codes ? 0x1p-10 : 1e-5) : int4 ? 0x1p-8 : 0x1p-7);
    for (size_t i = 0; i < expected.size(); ++i) {
      // What fp16 cannot hold becomes infinite, and is told by the logits' check (Largest).
      if (kernels.act_dtype() == DType::kF16 && std::isinf(actual[i]) && std::abs(expected[i]) > 65504) continue;
      ASSERT_NEAR(expected[i], actual[i], tolerance * ((int4 && is_bf16 ? largest : size) + std::abs(expected[i]))) << "at " << i;
    }
    if (codes && !is_bf16) {
      double error = 0;
      for (size_t i = 0; i < expected.size(); ++i) error += std::pow(static_cast<double>(expected[i]) - actual[i], 2);
      ASSERT_LT(std::sqrt(error / static_cast<double>(expected.size())), 0x1p-13 * size);
    }
  }
}

void expect_same_bits_of_rows_and_cuts(Kernels& kernels, int64_t largest_k = 2048, int64_t rows = 300) {
  Rng rng(7);
  for (int64_t k : {37, 128, 600, 2048})
    for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32, DType::kInt8, DType::kInt4}) {
      if (k > largest_k) continue;
      const int64_t n = k == 37 ? 777 : 200;
      SCOPED_TRACE(fmt::format("K {} {}", k, dtype_name(dtype)));
      const DType act = kernels.act_dtype();
      Bytes x = encode(random_floats(rng, rows * k), act);
      Floats w = random_floats(rng, n * k), start = random_floats(rng, rows * n), whole = start;
      TestWeight uncut(w, dtype, n, k), bias = TestWeight::vector(random_floats(rng, n), DType::kBF16);
      kernels.linear(x.data(), rows, uncut, bias, true, whole.data());
      for (int round = 0; round < 6; ++round) {
        TestWeight cut(w, dtype, n, k, random_cuts(rng, n, round));
        Floats parts = start;
        const int64_t longest = std::vector<int64_t>{1, 16, 40, 100, 290, 300}[static_cast<size_t>(round)];
        int64_t first = 0;
        for (int64_t count : random_chunks(rng, rows, longest)) {
          kernels.linear(x.data() + size_bytes(act, first * k), count, cut, bias, true, parts.data() + first * n);
          first += count;
        }
        ASSERT_EQ(0, std::memcmp(whole.data(), parts.data(), whole.size() * sizeof(float))) << "round " << round;
      }
    }
}

// In three tests: the emulated threads are slow, more so under a sanitizer.
TEST_P(BackendTest, LinearAgreesWithReference) { expect_agreement(*kernels_, *make_reference_kernels(), backend().is_bf16, begins_with("linear")); }
TEST_P(BackendTest, AttentionAgreesWithReference) { expect_agreement(*kernels_, *make_reference_kernels(), backend().is_bf16, begins_with("attention")); }
TEST_P(BackendTest, OtherOperationsAgreeWithReference) {
  expect_agreement(*kernels_, *make_reference_kernels(), backend().is_bf16,
                   [](std::string_view name) { return !name.starts_with("linear") && !name.starts_with("attention"); });
}

TEST_P(BackendTest, LinearRowsAndCutsGiveTheSameBits) {
  // An emulated product is a plain loop: what is to be tested is how pieces are put together.
  if (backend().is_emulated) expect_same_bits_of_rows_and_cuts(*kernels_, 37, 40);
  else expect_same_bits_of_rows_and_cuts(*kernels_);
}

/// x [T, K], and a router in F32 all of whose rows are one row once they are rounded to bf16: the one that a row of x chooses is known from what bf16 leaves out alone.
struct NearRouter {
  int64_t rows, experts, cols;
  Bytes x;
  Floats weight;

  NearRouter(Rng& rng, DType act, int64_t rows, int64_t experts, int64_t cols) : rows(rows), experts(experts), cols(cols) {
    // Each x has one element that decides.
    Floats values(static_cast<size_t>(rows * cols), 0x1p-10f), base = random_floats(rng, cols);
    for (int64_t t = 0; t < rows; ++t) values[static_cast<size_t>(t * cols + chosen_by(t))] = 4;
    x = encode(values, act);
    for (int64_t e = 0; e < experts; ++e) {
      weight.insert(weight.end(), base.begin(), base.end());
      // Above the base, by less than half a step of bf16.
      weight[static_cast<size_t>(e * cols + e)] += std::abs(base[static_cast<size_t>(e)]) * 0x1p-10f;
    }
  }
  int64_t chosen_by(int64_t row) const { return row * 7 % experts; }
  Floats route(Kernels& kernels, const WeightView& router, const WeightView& bias, int64_t first, int64_t count) const {
    Floats logits(static_cast<size_t>(count * experts));
    kernels.route(x.data() + size_bytes(kernels.act_dtype(), first * cols), count, router, bias, logits.data());
    return logits;
  }
};

// Of routers that are stored in F32 (glm4_moe, ernie4_5_moe, every GGUF) the fourth digit decides now and then; it is none of bf16's.
TEST(CpuKernelsTest, RoutersInF32AreNotRounded) {
  for (auto [threads, dtype] : {std::pair{1, DType::kF32}, {1, DType::kBF16}, {3, DType::kBF16}}) {
    if (dtype == DType::kBF16 && !cpu_has_bf16()) continue;
    SCOPED_TRACE(fmt::format("{} threads, {}", threads, dtype_name(dtype)));
    auto kernels = make_cpu_kernels({threads, dtype});
    Rng rng(21);
    const NearRouter router(rng, dtype, 600, 40, 96);
    const TestWeight in_f32(router.weight, DType::kF32, router.experts, router.cols), in_bf16(router.weight, DType::kBF16, router.experts, router.cols);
    std::vector<ExpertChoice> choices(static_cast<size_t>(router.rows));
    Floats logits = router.route(*kernels, in_f32, WeightView(), 0, router.rows);
    kernels->choose_experts(logits.data(), router.rows, WeightView(), {.num_experts = router.experts, .experts_per_row = 1}, choices.data());
    for (int64_t t = 0; t < router.rows; ++t) EXPECT_EQ(choices[static_cast<size_t>(t)].expert, router.chosen_by(t)) << "row " << t;
    // As bf16 has them they are alike, whatever the product.
    logits = router.route(*kernels, in_bf16, WeightView(), 0, router.rows);
    for (int64_t t = 0; t < router.rows; ++t)
      for (int64_t e = 1; e < router.experts; ++e)
        ASSERT_EQ(logits[static_cast<size_t>(t * router.experts + e)], logits[static_cast<size_t>(t * router.experts)]);
  }
}

TEST_P(BackendTest, RoutersAgreeWithReferenceWhateverRowsAndCuts) {
  Rng rng(22);
  const int64_t rows = backend().is_emulated ? 40 : 600, experts = 70, cols = 128;
  auto reference = make_reference_kernels();
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const Floats x = random_floats(rng, rows * cols), w = random_floats(rng, experts * cols);
    const TestWeight whole(w, dtype, experts, cols), bias = TestWeight::vector(random_floats(rng, experts), DType::kF32);
    const Bytes in = encode(x, kernels_->act_dtype()), same = encode(x, reference->act_dtype());
    Floats expected(static_cast<size_t>(rows * experts)), logits = expected;
    reference->route(same.data(), rows, whole, bias, expected.data());
    kernels_->route(in.data(), rows, whole, bias, logits.data());
    for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(expected[i], logits[i], 1e-3) << "at " << i;
    for (int64_t longest : {1, 16, 300}) {
      const TestWeight cut(w, dtype, experts, cols, random_cuts(rng, experts, 3));
      Floats parts(logits.size());
      int64_t first = 0;
      for (int64_t count : random_chunks(rng, rows, longest)) {
        kernels_->route(in.data() + size_bytes(kernels_->act_dtype(), first * cols), count, cut, bias, parts.data() + first * experts);
        first += count;
      }
      ASSERT_EQ(0, std::memcmp(logits.data(), parts.data(), logits.size() * sizeof(float))) << dtype_name(dtype) << " by " << longest;
    }
  }
}

TEST(CpuKernelsTest, Int8ProductsAgreeWithReferenceWhateverRowsAndCuts) {
  auto reference = make_reference_kernels(true);
  for (CpuKernelOptions options : {CpuKernelOptions{1, DType::kF32, true}, {3, DType::kF32, true}, {2, DType::kBF16, true}}) {
    if (options.compute_dtype == DType::kBF16 && !cpu_has_bf16()) continue;
    auto kernels = make_cpu_kernels(options);
    expect_agreement(*kernels, *reference, options.compute_dtype == DType::kBF16, begins_with("linear"));
    expect_same_bits_of_rows_and_cuts(*kernels);
  }
}

/// Weights in blocks, as GGUF files have them: where they are looked up, converted and multiplied they are what dequantize_row() says, to the bit, in whatever pieces they lie.
void expect_blocks_as_they_lie(Kernels& kernels, bool converts_alone) {
  Rng rng(11);
  constexpr int64_t kRows = 70, kCols = 512, kTokens = 5;
  for (int number = static_cast<int>(DType::kQ4_0); number <= static_cast<int>(kLastBlockedDType); ++number) {
    const auto dtype = static_cast<DType>(number);
    SCOPED_TRACE(dtype_name(dtype));
    const int64_t stride = row_bytes(dtype, kCols);
    const Bytes rows = random_blocks(rng, dtype, kRows, kCols);
    Floats values(static_cast<size_t>(kRows * kCols));
    for (int64_t row = 0; row < kRows; ++row) dequantize_row(rows.data() + row * stride, dtype, kCols, values.data() + row * kCols);
    ASSERT_TRUE(std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); }));
    const WeightView blocks{dtype, kRows, kCols, {{rows.data(), 41}, {rows.data() + 41 * stride, kRows - 41}}};
    const TestWeight plain(values, DType::kF32, kRows, kCols);
    const std::vector<const std::byte*> wanted{rows.data() + 5 * stride, rows.data()};
    Floats found(2 * kCols);
    kernels.gather_rows(wanted, dtype, kCols, false, found.data());
    EXPECT_TRUE(std::equal(found.begin(), found.begin() + kCols, values.begin() + 5 * kCols));
    EXPECT_TRUE(std::equal(found.begin() + kCols, found.end(), values.begin()));
    for (DType to : {DType::kF32, DType::kBF16, DType::kF16, DType::kInt8, DType::kInt4}) {
      if (converts_alone && to != kernels.act_dtype()) continue;  // a GPU prepares no weights
      Bytes converted(static_cast<size_t>(kRows * row_bytes(to, kCols)));
      EXPECT_TRUE(kernels.convert_rows(rows.data(), dtype, kRows, kCols, to, GroupRange::kMinMax, converted.data()));
      EXPECT_EQ(converted, encode_rows(values, to, kCols)) << dtype_name(to);
    }
    const Bytes x = encode(random_floats(rng, kTokens * kCols), kernels.act_dtype());
    Floats from_blocks(static_cast<size_t>(kTokens * kRows)), from_plain = from_blocks;
    kernels.linear(x.data(), kTokens, blocks, {}, false, from_blocks.data());
    kernels.linear(x.data(), kTokens, plain, {}, false, from_plain.data());
    EXPECT_EQ(from_blocks, from_plain);
  }
}
TEST_P(BackendTest, BlocksAreReadAsTheyLie) { expect_blocks_as_they_lie(*kernels_, !backend().name.starts_with("cpu")); }
TEST(ReferenceKernelsTest, BlocksAreReadAsTheyLie) { expect_blocks_as_they_lie(*make_reference_kernels(), false); }

/// A matrix whose scales are tensors of their own, and the memory it lies in: any codes but NaN, in the usual format; in two pieces where it may be cut.
class TestCodes {
 public:
  TestCodes(Rng& rng, DType dtype, int64_t rows, int64_t cols, bool ordered) : format_(usual_format(dtype, rows, cols)) {
    format_.has_order = ordered;
    format_.has_zeros |= dtype == DType::kPacked4;
    for (int part = 0; part < kNumCodeParts; ++part) {
      Bytes& bytes = beside_[static_cast<size_t>(part)];
      bytes.resize(static_cast<size_t>(beside_bytes(format_, dtype, static_cast<CodePart>(part), rows, cols)));
      for (std::byte& byte : bytes) byte = static_cast<std::byte>(pick(rng, 0, 255));
    }
    const int64_t num_scales = std::ssize(beside_[kScales]) / scale_bytes(format_.scale_type);
    for (int64_t i = 0; i < num_scales; ++i) {  // a 64th to a 16th
      const float scale = static_cast<float>(pick(rng, 64, 255)) / 4096;
      std::byte* const at = beside_[kScales].data() + i * scale_bytes(format_.scale_type);
      if (format_.scale_type == ScaleType::kE4M3) *at = static_cast<std::byte>(pick(rng, 0x30, 0x40));
      else if (format_.scale_type == ScaleType::kF32) std::memcpy(at, &scale, sizeof scale);
      else std::memcpy(at, encode({scale}, format_.scale_type == ScaleType::kF16 ? DType::kF16 : DType::kBF16).data(), 2);
    }
    for (int64_t column = 0; ordered && column < cols; ++column) {
      const auto group = static_cast<int32_t>(pick(rng, -1, static_cast<int>(format_.num_groups - 1)));
      std::memcpy(beside_[kOrder].data() + 4 * column, &group, sizeof group);
    }
    if (format_.has_global) beside_[kGlobal] = encode({3.0f}, DType::kF32);
    const int64_t stride = row_bytes(dtype, cols);
    codes_.resize(static_cast<size_t>(rows * stride));
    for (std::byte& byte : codes_) byte = static_cast<std::byte>(dtype == DType::kFp8 ? pick(rng, 0, 126) | pick(rng, 0, 1) << 7 : pick(rng, 0, 255));
    const auto piece_of = [&](int64_t first, int64_t count) {
      WeightPiece piece{codes_.data() + first * stride, count};
      const int64_t per_word = codes_per_word(dtype);
      const int64_t skipped[kNumCodeParts] = {first / format_.scale_rows * format_.num_groups * scale_bytes(format_.scale_type),
                                              first / per_word * format_.num_groups * 4, 0, 0};
      for (size_t part = 0; part < beside_.size(); ++part) piece.beside[part] = beside_[part].empty() ? nullptr : beside_[part].data() + skipped[part];
      return piece;
    };
    values_.resize(static_cast<size_t>(rows * cols));
    decode_rows(format_, dtype, piece_of(0, rows), 0, rows, cols, values_.data());
    view_ = {dtype, rows, cols, {piece_of(0, rows)}, &format_};
    constexpr int64_t kCut = 128;
    if (!is_transposed(dtype)) view_.pieces = {piece_of(0, kCut), piece_of(kCut, rows - kCut)};
  }
  TestCodes(const TestCodes&) = delete;
  operator const WeightView&() const { return view_; }
  const Floats& values() const { return values_; }  ///< as decode_rows() has them

 private:
  CodeFormat format_;
  Bytes codes_;
  std::array<Bytes, kNumCodeParts> beside_;
  Floats values_;
  WeightView view_;
};

/// Calls body(dtype, cols, ordered) for what such matrices may be.
template <typename Body>
void for_codes(const Body& body) {
  for (int number = static_cast<int>(DType::kFp8); number <= static_cast<int>(kLastDType); ++number)
    for (int64_t cols : {int64_t{512}, int64_t{328}})  // the last group is not whole
      for (bool ordered : {false, true}) {
        const auto dtype = static_cast<DType>(number);
        if (!ordered || (codes_per_word(dtype) > 1 && dtype != DType::kAwq4)) body(dtype, cols, ordered);
      }
}

/// Weights whose scales are tensors of their own: they are multiplied as what decode_rows() makes of them, to the bit, in whatever pieces they lie.
void expect_codes_as_they_lie(Kernels& kernels) {
  Rng rng(12);
  for_codes([&](DType dtype, int64_t cols, bool ordered) {
    SCOPED_TRACE(fmt::format("{} of {} columns{}", dtype_name(dtype), cols, ordered ? ", ordered" : ""));
    const int64_t rows = 200;
    const TestCodes codes(rng, dtype, rows, cols, ordered);
    ASSERT_TRUE(std::all_of(codes.values().begin(), codes.values().end(), [](float value) { return std::isfinite(value); }));
    const TestWeight plain(codes.values(), DType::kF32, rows, cols);
    for (int64_t tokens : {1, 33}) {
      const Bytes x = encode(random_floats(rng, tokens * cols), kernels.act_dtype());
      Floats from_codes(static_cast<size_t>(tokens * rows)), from_plain = from_codes;
      kernels.linear(x.data(), tokens, codes, {}, false, from_codes.data());
      kernels.linear(x.data(), tokens, plain, {}, false, from_plain.data());
      EXPECT_EQ(from_codes, from_plain);
    }
  });
}
TEST_P(BackendTest, CodesAreReadAsTheyLie) { expect_codes_as_they_lie(*kernels_); }
TEST(ReferenceKernelsTest, CodesAreReadAsTheyLie) { expect_codes_as_they_lie(*make_reference_kernels()); }

TEST_P(BackendTest, AttentionChunksPagesAndNeighboursGiveTheSameBits) {
  Rng rng(8);
  const int64_t first_tokens = backend().is_emulated ? 67 : 170;
  int64_t index = 0;
  for (AttentionShape shape : attention_shapes()) {
    if (backend().is_emulated && index++ % 3 != 0) continue;
    SCOPED_TRACE(shape_name(shape));
    std::vector<AttentionInput> inputs;
    std::vector<std::vector<int64_t>> at_once;
    for (int64_t tokens : {first_tokens, int64_t{3}, int64_t{64}}) {
      inputs.emplace_back(rng, shape, tokens);
      at_once.push_back({tokens});
    }
    const std::vector<Floats> whole = attend_in_chunks(*kernels_, shape, inputs, at_once);
    for (int64_t longest : {1, 5, 60}) {
      // Pages of whole sixteens and others may be computed by different kernels, as a model's never change.
      shape.page_tokens = shape.page_tokens % 16 == 0 ? 16 * pick(rng, 1, 7) : pick(rng, 0, 6) * 16 + pick(rng, 1, 15);
      auto parts = attend_in_chunks(*kernels_, shape, {inputs[0]}, {random_chunks(rng, first_tokens, longest)});
      ASSERT_EQ(0, std::memcmp(whole[0].data(), parts[0].data(), whole[0].size() * sizeof(float))) << "chunks up to " << longest;
    }
  }
}

/// Gemma's heads have 256 elements, Gemma 4's some 512; kernels of a GPU refuse these.
TEST(CpuKernelsTest, WideHeadsAgreeWithReference) {
  const std::vector<AttentionShape> shapes = {{DType::kBF16, 4, 2, 256, 16, 40},     {DType::kBF16, 4, 2, 512, 16, 0},     {DType::kF32, 2, 1, 512, 7, 30},
                                              {DType::kF16, 3, 3, 512, 64, 0},       {DType::kInt8, 4, 1, 512, 32, 0},     {DType::kInt4, 4, 2, 512, 16, 0},
                                              {DType::kBF16, 4, 2, 512, 16, 0, 0.2}, {DType::kInt4, 2, 1, 512, 16, 0, 0.3}};
  std::vector<OperationCase> cases;
  add_attention_cases(cases, shapes);
  auto reference = make_reference_kernels();
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    if (dtype == DType::kBF16 && !cpu_has_bf16()) continue;
    auto kernels = make_cpu_kernels({2, dtype});
    // Of several times as many numbers the largest error is larger.
    expect_agreement(*kernels, *reference, dtype == DType::kBF16, begins_with("attention"), cases, dtype == DType::kBF16 ? 1.5 : 1);
    for (const AttentionShape& shape : shapes) {
      SCOPED_TRACE(shape_name(shape));
      Rng rng(23);
      const AttentionInput input(rng, shape, 70);
      EXPECT_EQ(attend_in_chunks(*kernels, shape, {input}, {{70}}), attend_in_chunks(*kernels, shape, {input}, {{1, 40, 3, 26}}));
    }
  }
}

// What slots have in common, they may have in the same pages: some two pages, some four, some prefixes within prefixes, beside others of their own.
TEST_P(BackendTest, SlotsThatSharePagesGiveTheSameBits) {
  Rng rng(16);
  int64_t index = 0;
  for (AttentionShape shape : attention_shapes()) {
    if (backend().is_emulated && index++ % 3 != 0) continue;
    SCOPED_TRACE(shape_name(shape));
    std::vector<int64_t> page_sizes = {shape.page_tokens, 48};
    if (backend().is_emulated) page_sizes.erase(page_sizes.begin() + index % 2);  // slow: one for each shape
    for (const int64_t page_tokens : page_sizes) {
      shape.page_tokens = page_tokens;
      const KvGeometry geometry = shape.geometry();
      const AttentionRule rule{1 / std::sqrt(static_cast<float>(shape.head_size)), shape.window, shape.sparsity};
      const int64_t q_size = shape.query_heads * shape.head_size, kv_size = shape.kv_heads * shape.head_size, part = ceil_div(int64_t{70}, page_tokens);
      // Two trunks, the second like the first up to its middle.
      const int64_t trunk_tokens = 2 * part * page_tokens;
      std::vector<AttentionInput> trunks{{rng, shape, trunk_tokens}, {rng, shape, trunk_tokens}};
      std::vector<Sequence> trunk_pages;
      for (size_t i = 0; i < trunks.size(); ++i) {
        std::copy_n(trunks[0].k.begin(), trunk_tokens / 2 * kv_size, trunks[1].k.begin());
        std::copy_n(trunks[0].v.begin(), trunk_tokens / 2 * kv_size, trunks[1].v.begin());
        trunk_pages.emplace_back(geometry, trunk_tokens);
        if (i > 0) std::copy_n(trunk_pages[0].pages.begin(), part, trunk_pages[1].pages.begin());
        const AttentionSlot whole{0, trunk_tokens, 0, trunk_pages[i].pages.data()};
        kernels_->append_kv(trunks[i].k.data(), trunks[i].v.data(), {&whole, 1}, geometry);
      }
      std::vector<AttentionSlot> slots;
      std::vector<Sequence> sequences;
      Floats q, expected;
      sequences.reserve(20);
      int64_t rows = 0;
      for (size_t i = 0; i < 20; ++i) {
        const size_t trunk = i / 5 % 2;
        const int64_t shared = i % 7 == 6   ? 0
                               : i % 3 == 1 ? part
                                            : 2 * part,
                      own = static_cast<int64_t>(1 + i * 13 % 90), count = i % 4 == 2 ? std::min<int64_t>(3, own) : 1;
        const int64_t tokens = shared * page_tokens + own;
        AttentionInput input(rng, shape, tokens);
        std::copy_n(trunks[trunk].k.begin(), shared * page_tokens * kv_size, input.k.begin());
        std::copy_n(trunks[trunk].v.begin(), shared * page_tokens * kv_size, input.v.begin());
        Sequence& sequence = sequences.emplace_back(geometry, tokens);
        const AttentionSlot whole{0, tokens, 0, sequence.pages.data()};
        kernels_->append_kv(input.k.data(), input.v.data(), {&whole, 1}, geometry);
        const AttentionSlot last{0, count, tokens - count, sequence.pages.data(), kDenseUntil};
        const float* const queries = input.q.data();
        const Floats alone = act_output(*kernels_, count * q_size, [&](std::byte* to) { kernels_->attention(queries, {&last, 1}, geometry, rule, to); });
        expected.insert(expected.end(), alone.begin(), alone.end());
        q.insert(q.end(), queries, queries + count * q_size);
        for (int64_t page = 0; page < shared; ++page) sequence.pages[static_cast<size_t>(page)] = trunk_pages[trunk].pages[static_cast<size_t>(page)];
        slots.push_back({rows, count, tokens - count, sequence.pages.data(), kDenseUntil});
        if (i > 0) {
          const AttentionSlot& before = slots[i - 1];
          AttentionSlot& slot = slots[i];
          while (slot.shared + page_tokens <= std::min(before.past, slot.past) &&
                 before.pages[slot.shared / page_tokens] == slot.pages[slot.shared / page_tokens])
            slot.shared += page_tokens;
        }
        rows += count;
      }
      const Floats together = act_output(*kernels_, rows * q_size, [&](std::byte* to) { kernels_->attention(q.data(), slots, geometry, rule, to); });
      ASSERT_EQ(0, std::memcmp(expected.data(), together.data(), expected.size() * sizeof(float))) << "pages of " << page_tokens;
    }
  }
}

// The last rows of a context that a GPU cuts into several parts, the last shorter or longer than the others: one of the prompt, two generated ones.
TEST_P(BackendTest, LongContextsAgreeWithReference) {
  auto reference = make_reference_kernels();
  Rng rng(15);
  for (AttentionShape shape : {AttentionShape{DType::kBF16, 4, 2, 64, 32, 0},
                               {DType::kInt4, 3, 1, 64, 48, 0},
                               {DType::kBF16, 20, 1, 16, 16, 700},
                               {DType::kInt8, 2, 1, 128, 64, 0, 0.02},
                               {DType::kBF16, 2, 2, 100, 64, 0, 0.6},
                               {DType::kBF16, 8, 2, 64, 64, 0, 1, 0, false, true}})
    for (const int64_t tokens : {1400, 1100}) {
      if (tokens != 1400 && !backend().name.starts_with("cuda")) continue;  // others cut nothing
      SCOPED_TRACE(fmt::format("{}, {} tokens", shape_name(shape), tokens));
      const KvGeometry geometry = shape.geometry();
      const Floats sinks = sinks_of(shape);
      const int64_t rows = 3, q_size = shape.query_heads * shape.head_size;
      AttentionInput input(rng, shape, tokens);
      for (float& x : input.k) x *= 2;  // some positions stand out, as they do in models
      std::vector<Floats> results;
      for (Kernels* kernels : {reference.get(), kernels_.get()}) {
        Sequence sequence(geometry, tokens);
        const AttentionSlot whole{0, tokens, 0, sequence.pages.data()}, last{0, rows, tokens - rows, sequence.pages.data(), tokens - rows + 1};
        kernels->append_kv(input.k.data(), input.v.data(), {&whole, 1}, geometry);
        results.push_back(act_output(*kernels, rows * q_size, [&](std::byte* to) {
          kernels->attention(input.q.data(), {&last, 1}, geometry,
                             {.scale = 1 / std::sqrt(static_cast<float>(shape.head_size)), .window = shape.window, .sparsity = shape.sparsity, .sinks = sinks},
                             to);
        }));
      }
      // fp32 backends multiply quantized caches in integers of 16 bits (see expect_agreement()); over 1400 positions most of that averages out, so the bound is
      // tighter than there.
      const double tolerance = backend().is_bf16 ? 0x1p-6 : is_quantized(shape.dtype) ? 0x1p-13 : 1e-5;
      for (size_t i = 0; i < results[0].size(); ++i) ASSERT_NEAR(results[0][i], results[1][i], tolerance * (0.5 + std::abs(results[0][i]))) << "at " << i;
    }
}

TEST_P(BackendTest, LaterPositionsNeverReachEarlierRows) {
  Rng rng(9);
  const AttentionShape shape{DType::kF32, 4, 2, 64, 16, 0};
  AttentionInput input(rng, shape, 90), poisoned = input;
  const int64_t kv_size = shape.kv_heads * shape.head_size, q_size = shape.query_heads * shape.head_size, bad = 71;
  std::fill_n(poisoned.k.begin() + bad * kv_size, kv_size, NAN);
  std::fill_n(poisoned.v.begin() + bad * kv_size, kv_size, INFINITY);
  auto clean = attend_in_chunks(*kernels_, shape, {input}, {{90}})[0];
  auto dirty = attend_in_chunks(*kernels_, shape, {poisoned}, {{90}})[0];
  EXPECT_EQ(0, std::memcmp(clean.data(), dirty.data(), static_cast<size_t>(bad * q_size) * sizeof(float)));
}

TEST_P(BackendTest, RowsByThemselvesGiveTheSameBits) {
  Rng rng(10);
  const int64_t rows = 70, cols = 500;
  const DType act = kernels_->act_dtype();
  Floats x = random_floats(rng, rows * cols), up = random_floats(rng, rows * cols), pairs = random_floats(rng, 2 * rows * cols);
  TestWeight weight = TestWeight::vector(random_floats(rng, cols), DType::kBF16);
  using Operation = std::function<void(int64_t first, int64_t count, std::byte * out)>;
  const Operation operations[] = {
      [&](int64_t first, int64_t count, std::byte* out) { kernels_->layer_norm(x.data() + first * cols, count, cols, weight, weight, 1e-5f, out); },
      [&](int64_t first, int64_t count, std::byte* out) { kernels_->rms_norm(x.data() + first * cols, count, cols, weight, 1e-5f, out); },
      [&](int64_t first, int64_t count, std::byte* out) {
        kernels_->gated_activate(x.data() + first * cols, up.data() + first * cols, count * cols, Activation::kSilu, out);
      },
      [&](int64_t first, int64_t count, std::byte* out) { kernels_->activate(x.data() + first * cols, count * cols, Activation::kGeluTanh, out); },
      [&](int64_t first, int64_t count, std::byte* out) { kernels_->divided_activate(x.data() + first * cols, count, cols, Activation::kGelu, weight, out); },
      [&](int64_t first, int64_t count, std::byte* out) { kernels_->clamped_gate(GatedValues::pairs(pairs.data()).from(first * cols), count * cols, {}, out); },
      [&](int64_t first, int64_t count, std::byte* out) {
        kernels_->clamped_gate(GatedValues{x.data(), up.data()}.from(first * cols), count * cols, {}, out);
      }};
  for (const Operation& operation : operations) {
    Bytes whole(static_cast<size_t>(size_bytes(act, rows * cols))), parts = whole;
    operation(0, rows, whole.data());
    int64_t first = 0;
    for (int64_t count : random_chunks(rng, rows, 9)) {
      operation(first, count, parts.data() + size_bytes(act, first * cols));
      first += count;
    }
    EXPECT_TRUE(whole == parts);
  }
}

TEST_P(BackendTest, LargestTakesTheFirst) {
  Rng rng(12);
  const int64_t cols = 2700;
  std::vector<Floats> rows(4, random_floats(rng, cols));
  rows[1][3] = rows[1][400] = rows[1][2699] = 100;
  rows[2].assign(static_cast<size_t>(cols), -INFINITY);
  rows[3].assign(static_cast<size_t>(cols), 3e38f);  // finite, though no sum of them is
  const Floats x = flatten(rows);
  std::vector<Largest> found(rows.size());
  kernels_->largest(x.data(), std::ssize(rows), cols, {}, 0, found.data());
  for (size_t t = 0; t < rows.size(); ++t) {
    const auto best = std::max_element(rows[t].begin(), rows[t].end());
    EXPECT_EQ(found[t].at, best - rows[t].begin()) << t;
    EXPECT_EQ(found[t].value, *best) << t;
  }
  // What is as likely as nothing at all is never drawn ahead of the rest, and spoils nothing.
  rows[0][20] = rows[1][2000] = -INFINITY;
  const Floats masked = flatten(rows);
  const std::vector<Draw> draws(rows.size(), {0.5f, {1, 2}});
  std::vector<Largest> drawn(rows.size());
  kernels_->largest(x.data(), std::ssize(rows), cols, draws, 1000, found.data());
  kernels_->largest(masked.data(), std::ssize(rows), cols, draws, 1000, drawn.data());
  for (size_t t = 0; t < rows.size(); ++t) {
    EXPECT_FALSE(std::isnan(found[t].value) || std::isnan(drawn[t].value)) << t;
    EXPECT_EQ(drawn[t].at, found[t].at) << t;
  }
}

// One NaN or +infinity anywhere spoils its own row and no other, however its token is chosen.
TEST_P(BackendTest, LargestTellsWhatIsNotFinite) {
  Rng rng(14);
  for (int64_t cols : {1, 5, 33, 700, 4099}) {
    const Floats clean = random_floats(rng, 3 * cols);
    const std::vector<Draw> draws(3, {0.5f, {7, 9}});
    for (bool drawn : {false, true}) {
      const std::span<const Draw> how = drawn ? std::span<const Draw>(draws) : std::span<const Draw>();
      Largest expected[3], found[3];
      kernels_->largest(clean.data(), 3, cols, how, 40, expected);
      for (float value : {NAN, -NAN, INFINITY})
        for (int64_t at : {int64_t{0}, cols / 3, cols / 2, cols - 1}) {
          SCOPED_TRACE(fmt::format("{} columns, drawn {}, {} at {}", cols, drawn, value, at));
          Floats x = clean;
          x[static_cast<size_t>(cols + at)] = value;
          if (at + 1 < cols) x[static_cast<size_t>(2 * cols - 1)] = -INFINITY;  // which hides no other
          kernels_->largest(x.data(), 3, cols, how, 40, found);
          EXPECT_TRUE(std::isnan(found[1].value));
          EXPECT_EQ(found[1].at, at);
          for (size_t t : {0u, 2u}) {
            EXPECT_EQ(found[t].value, expected[t].value);
            EXPECT_EQ(found[t].at, expected[t].at);
          }
        }
    }
  }
}

// A NaN on its way to the logits is lost nowhere.
TEST_P(BackendTest, NanStaysNan) {
  Rng rng(16);
  const int64_t cols = 100, rows = 3;
  const DType act = kernels_->act_dtype();
  const Floats clean = random_floats(rng, rows * cols);
  const TestWeight ones = TestWeight::vector(Floats(static_cast<size_t>(cols), 1.0f), DType::kBF16);
  const auto has_nan = [](const Floats& values, int64_t first, int64_t count) {
    return std::any_of(values.begin() + first, values.begin() + first + count, [](float x) { return std::isnan(x); });
  };
  for (int64_t at : {int64_t{0}, int64_t{37}, cols - 1}) {
    SCOPED_TRACE(at);
    Floats x = clean;
    x[static_cast<size_t>(cols + at)] = NAN;
    auto check = [&](const char* what, const Floats& out) {
      const int64_t width = std::ssize(out) / rows;
      EXPECT_TRUE(has_nan(out, width, width)) << what;
      EXPECT_FALSE(has_nan(out, 0, width) || has_nan(out, 2 * width, width)) << what;
    };
    auto to_act = [&](auto run) { return act_output(*kernels_, rows * cols, run); };
    check("layer_norm", to_act([&](std::byte* to) { kernels_->layer_norm(x.data(), rows, cols, ones, ones, 1e-5f, to); }));
    check("rms_norm", to_act([&](std::byte* to) { kernels_->rms_norm(x.data(), rows, cols, ones, 1e-5f, to); }));
    check("to_act", to_act([&](std::byte* to) { kernels_->to_act(x.data(), rows * cols, to); }));
    Floats clamped = x;
    kernels_->clamp(clamped.data(), rows * cols, 0.5f);
    check("clamp", clamped);
    for (Activation activation : {Activation::kRelu, Activation::kGelu, Activation::kGeluTanh, Activation::kSilu}) {
      SCOPED_TRACE(static_cast<int>(activation));
      check("activate", to_act([&](std::byte* to) { kernels_->activate(x.data(), rows * cols, activation, to); }));
      check("divided", to_act([&](std::byte* to) { kernels_->divided_activate(x.data(), rows, cols, activation, ones, to); }));
      check("gate", to_act([&](std::byte* to) { kernels_->gated_activate(x.data(), clean.data(), rows * cols, activation, to); }));
      check("up", to_act([&](std::byte* to) { kernels_->gated_activate(clean.data(), x.data(), rows * cols, activation, to); }));
    }
    Floats pairs(static_cast<size_t>(2 * rows * cols), 0.5f);
    for (size_t side : {0, 1}) {
      pairs[static_cast<size_t>(2 * (cols + at)) + side] = NAN;
      check("clamped_gate", to_act([&](std::byte* to) { kernels_->clamped_gate(GatedValues::pairs(pairs.data()), rows * cols, {}, to); }));
      pairs[static_cast<size_t>(2 * (cols + at)) + side] = 0.5f;
      const GatedValues apart = side == 0 ? GatedValues{x.data(), clean.data()} : GatedValues{clean.data(), x.data()};
      check("clamped_gate apart", to_act([&](std::byte* to) { kernels_->clamped_gate(apart, rows * cols, {}, to); }));
    }
    for (DType dtype : {DType::kBF16, DType::kInt8, DType::kInt4}) {
      Floats y(static_cast<size_t>(rows * 20));
      const TestWeight w(random_floats(rng, 20 * cols), dtype, 20, cols);
      kernels_->linear(encode(x, act).data(), rows, w, {}, false, y.data());
      check("linear", y);
    }
    Floats y(static_cast<size_t>(rows * 20)), w = random_floats(rng, 20 * cols);
    w[static_cast<size_t>(3 * cols + at)] = NAN;
    kernels_->linear(encode(clean, act).data(), rows, TestWeight(w, DType::kBF16, 20, cols), {}, false, y.data());
    for (int64_t t = 0; t < rows; ++t)
      for (int64_t n = 0; n < 20; ++n) EXPECT_EQ(std::isnan(y[static_cast<size_t>(t * 20 + n)]), n == 3) << t;
  }
}

// Equal scores, NaN and infinities: the same experts by every backend.
TEST_P(BackendTest, ChoosesAmongScoresThatAreNoOrder) {
  const int64_t E = 70, k = 5;
  const std::vector<float> values{NAN, INFINITY, -INFINITY, 3, 3, -1};
  Rng rng(29);
  for (RouterScore score : {RouterScore::kSoftmax, RouterScore::kSigmoid, RouterScore::kSparseMixer}) {
    const RouterRule rule{.num_experts = E,
                          .experts_per_row = score == RouterScore::kSparseMixer ? 2 : k,
                          .score = score,
                          .nearness = 0.1f,
                          .normalized = score == RouterScore::kSigmoid,
                          .num_groups = score == RouterScore::kSigmoid ? 10 : 1,
                          .groups_per_row = score == RouterScore::kSigmoid ? 4 : 1};
    const int64_t rows = 40;
    Floats logits(static_cast<size_t>(rows * E), 0.5f);
    for (int64_t t = 0; t < rows; ++t)
      for (int64_t i = 0; i < t % 8; ++i) logits[static_cast<size_t>(t * E + pick(rng, 0, E - 1))] = values[static_cast<size_t>(pick(rng, 0, 5))];
    Floats same = logits, apart = logits;
    std::vector<ExpertChoice> choices(static_cast<size_t>(rows * rule.experts_per_row)), expected = choices, one_by_one = choices;
    kernels_->choose_experts(logits.data(), rows, {}, rule, choices.data());
    for (int64_t t = 0; t < rows; ++t) kernels_->choose_experts(apart.data() + t * E, 1, {}, rule, one_by_one.data() + t * rule.experts_per_row);
    EXPECT_EQ(std::memcmp(choices.data(), one_by_one.data(), choices.size() * sizeof(ExpertChoice)), 0);
    make_reference_kernels()->choose_experts(same.data(), rows, {}, rule, expected.data());
    for (size_t i = 0; i < choices.size(); ++i) {
      EXPECT_EQ(choices[i].expert, expected[i].expert) << i;
      EXPECT_EQ(std::isnan(choices[i].weight), std::isnan(expected[i].weight)) << i;
      if (!std::isnan(expected[i].weight)) {
        EXPECT_NEAR(choices[i].weight, expected[i].weight, 1e-5) << i;
      }
    }
  }
}

// Of queries, keys and values, in every type that a cache has: whoever sees the position sees NaN.
TEST_P(BackendTest, NanInTheCacheReachesWhoeverSeesIt) {
  Rng rng(17);
  const auto reference = make_reference_kernels();
  int64_t index = 0;
  for (const AttentionShape& shape : attention_shapes()) {
    if (backend().is_emulated && index++ % 3 != 0) continue;
    SCOPED_TRACE(shape_name(shape));
    const int64_t tokens = 40, bad = 21, kv_size = shape.kv_heads * shape.head_size, q_size = shape.query_heads * shape.head_size;
    const AttentionInput clean(rng, shape, tokens);
    for (int what = 0; what < 3; ++what) {
      AttentionInput input = clean;
      Floats& where = what == 0 ? input.k : what == 1 ? input.v : input.q;
      where[static_cast<size_t>(bad * (what == 2 ? q_size : kv_size) + shape.head_size / 3)] = NAN;
      const Floats out = attend_in_chunks(*kernels_, shape, {input}, {{tokens}})[0], plain = attend_in_chunks(*reference, shape, {input}, {{tokens}})[0];
      for (int64_t t = 0; t < tokens; ++t) {
        auto has_nan = [&](const Floats& values) {
          return std::any_of(values.begin() + t * q_size, values.begin() + (t + 1) * q_size, [](float x) { return std::isnan(x); });
        };
        const bool sees = what == 2 ? t == bad : t >= bad && (shape.window == 0 || t - bad < shape.window);
        // A sparse row uses few of the values.
        if (what == 1 && shape.sparsity < 1 && t > bad) continue;
        EXPECT_TRUE(has_nan(out) == sees && has_nan(plain) == sees) << (what == 0 ? "key" : what == 1 ? "value" : "query") << ", row " << t;
      }
    }
  }
}

TEST_P(BackendTest, DrawsDependOnKeyAndIdAlone) {
  Rng rng(13);
  const int64_t cols = 600;
  const Floats x = random_floats(rng, cols);
  for (uint32_t key = 0; key < 8; ++key) {
    const std::vector<Draw> draw = {{1.5f, {key, 17 * key}}};
    Largest whole, best{-INFINITY, 0};
    kernels_->largest(x.data(), 1, cols, draw, 5, &whole);
    for (int64_t first = 0; first < cols;) {
      const int64_t count = std::min<int64_t>(cols - first, pick(rng, 1, 150));
      Largest part;
      kernels_->largest(x.data() + first, 1, count, draw, 5 + first, &part);
      if (part.value > best.value) best = {part.value, static_cast<int32_t>(part.at + first)};
      first += count;
    }
    EXPECT_EQ(best.at, whole.at) << key;
    EXPECT_EQ(best.value, whole.value) << key;
  }
}

TEST_P(BackendTest, NoRowsAreFine) {
  Rng rng(11);
  TestWeight weight(random_floats(rng, 12), DType::kF32, 3, 4);
  kernels_->linear(nullptr, 0, weight, WeightView{}, false, nullptr);
  kernels_->attention(nullptr, {}, {DType::kF32, 2, 1, 4, 8}, {}, nullptr);
  kernels_->gather_rows({}, DType::kF32, 4, false, nullptr);
  kernels_->activate(nullptr, 0, Activation::kRelu, nullptr);
  kernels_->largest(nullptr, 0, 4, {}, 0, nullptr);
}

std::string backend_name(const testing::TestParamInfo<size_t>& info) { return backends()[info.param].name; }
INSTANTIATE_TEST_SUITE_P(Cpu, BackendTest, testing::Range<size_t>(0, 4), backend_name);
INSTANTIATE_TEST_SUITE_P(CudaEmulated, BackendTest, testing::Range<size_t>(4, 5), backend_name);
INSTANTIATE_TEST_SUITE_P(Gpu, BackendTest, testing::Range<size_t>(5, 7), backend_name);

constexpr const char* kInOrderTest[] = {"linear_17x65x33",   "gather_rows_100",   "layer_norm_4096_f32", "rms_norm_100",      "rope_96",
                                        "gelu_77",           "largest_5000",      "attention_bf16_a5",   "attention_bf16_a4", "attention_int8_a4",
                                        "attention_int4_a4", "attention_int8_a3", "attention_f16_a6"};

class CudaEmulatedTest : public testing::Test {
 protected:
  void TearDown() override { emulator::set_order(emulator::Order::kAscending); }
};

// What GPUs before Ampere compute in. The table in full is bf16's.
TEST_F(CudaEmulatedTest, Fp16AgreesWithReference) {
  auto kernels = make_emulated_cuda_kernels(DType::kF16);
  auto reference = make_reference_kernels();
  for (const char* prefix : {"linear_17x65x33", "rms_norm_100", "gelu_77", "to_act", "attention_f16_a6", "attention_int8_a4"})
    expect_agreement(*kernels, *reference, true, begins_with(prefix));
}

// A result that depends on which thread of a block goes first between two barriers is a race, or a barrier forgotten.
TEST_F(CudaEmulatedTest, OrderOfThreadsChangesNoBit) {
  auto kernels = make_emulated_cuda_kernels(DType::kBF16);
  for (const OperationCase& operation : operation_cases()) {
    const bool wanted = std::any_of(std::begin(kInOrderTest), std::end(kInOrderTest), [&](const char* prefix) { return operation.name.starts_with(prefix); });
    if (!wanted) continue;
    Rng rng(3), same_rng(3);
    emulator::set_order(emulator::Order::kAscending);
    const Floats ascending = operation.run(*kernels, rng);
    emulator::set_order(emulator::Order::kDescending);
    const Floats descending = operation.run(*kernels, same_rng);
    ASSERT_EQ(0, std::memcmp(ascending.data(), descending.data(), ascending.size() * sizeof(float))) << operation.name;
  }
}

// Tiles of prompt rows hold rows that do not see a later position, which must not reach them with a weight of zero times infinity.
TEST_F(CudaEmulatedTest, LaterPromptPositionsNeverReachEarlierRows) {
  auto kernels = make_emulated_cuda_kernels(DType::kBF16);
  for (DType dtype : {DType::kBF16, DType::kInt4, DType::kInt8}) {
    SCOPED_TRACE(dtype_name(dtype));
    Rng rng(16);
    const AttentionShape shape{dtype, 4, 2, 64, 16, 0};
    AttentionInput input(rng, shape, 19), poisoned = input;
    const int64_t kv_size = shape.kv_heads * shape.head_size, q_size = shape.query_heads * shape.head_size, bad = 11;
    std::fill_n(poisoned.k.begin() + bad * kv_size, kv_size, NAN);
    std::fill_n(poisoned.v.begin() + bad * kv_size, kv_size, INFINITY);
    auto clean = attend_in_chunks(*kernels, shape, {input}, {{19}})[0], dirty = attend_in_chunks(*kernels, shape, {poisoned}, {{19}})[0];
    EXPECT_EQ(0, std::memcmp(clean.data(), dirty.data(), static_cast<size_t>(bad * q_size) * sizeof(float)));
    for (int64_t i = bad * q_size; i < 19 * q_size; ++i) ASSERT_TRUE(std::isnan(dirty[static_cast<size_t>(i)])) << i;  // and those that see it show it
  }
}

TEST(CpuKernelsTest, ThreadsGiveTheSameBits) {
  for (auto [dtype, int8_products] : {std::pair{DType::kF32, false}, {DType::kBF16, false}, {DType::kF32, true}}) {
    if (dtype == DType::kBF16 && !cpu_has_bf16()) continue;
    auto one = make_cpu_kernels({1, dtype, int8_products}), three = make_cpu_kernels({3, dtype, int8_products});
    uint32_t seed = 1;
    for (const OperationCase& operation : operation_cases()) {
      Rng rng(seed), same_rng(seed);
      ++seed;
      Floats a = operation.run(*one, rng), b = operation.run(*three, same_rng);
      ASSERT_EQ(0, std::memcmp(a.data(), b.data(), a.size() * sizeof(float))) << operation.name;
    }
  }
}

// Where scales are 1, minima 0 and all sums below 2^24 a product in integers has no rounding: it is the sum of the codes' products, at their extremes too.
TEST(CpuKernelsTest, Int8ProductsOfIntegersAreExact) {
  Rng rng(14);
  for (DType dtype : {DType::kInt4, DType::kInt8})
    for (int64_t k : {2, 63, 64, 100, 250})
      for (bool extreme : {false, true}) {
        SCOPED_TRACE(fmt::format("{} K {} {}", dtype_name(dtype), k, extreme ? "extreme" : ""));
        const int64_t rows = 29, n = 70, levels = dtype == DType::kInt4 ? 15 : 255;
        Floats x(static_cast<size_t>(rows * k)), w(static_cast<size_t>(n * k)), y(static_cast<size_t>(rows * n), 3.0f);
        for (int64_t i = 0; i < rows * k; ++i)
          x[static_cast<size_t>(i)] = static_cast<float>(i % k % 64 == 0 ? 127 : extreme ? (i / k % 2 == 0 ? 127 : -127) : pick(rng, -127, 127));
        for (int64_t i = 0; i < n * k; ++i) {
          const int64_t in_group = i % k % 64;
          const bool is_last = in_group == 1 || i % k == k - 1;  // of a group the first is the least, the next the largest
          w[static_cast<size_t>(i)] = static_cast<float>(in_group == 0 && k % 64 != 1 ? 0 : is_last || extreme ? levels : pick(rng, 0, levels));
        }
        const TestWeight weight(w, dtype, n, k, random_cuts(rng, n, 2));
        make_cpu_kernels({2, DType::kF32, true})->linear(encode(x, DType::kF32).data(), rows, weight, {}, true, y.data());
        for (int64_t t = 0; t < rows; ++t)
          for (int64_t r = 0; r < n; ++r) {
            int64_t sum = 3;
            for (int64_t c = 0; c < k; ++c)
              sum += static_cast<int64_t>(x[static_cast<size_t>(t * k + c)]) * static_cast<int64_t>(w[static_cast<size_t>(r * k + c)]);
            ASSERT_EQ(y[static_cast<size_t>(t * n + r)], static_cast<float>(sum)) << t << " " << r;
          }
      }
}

TEST(CpuKernelsTest, Int8ProductsKeepZerosAndWhatIsNotFinite) {
  Rng rng(15);
  const int64_t rows = 9, n = 40, k = 150;
  Floats x = random_floats(rng, rows * k);
  std::fill_n(x.begin() + 2 * k, k, 0.0f);
  std::fill_n(x.begin() + 3 * k, k, 1e-42f);
  x[4 * k + 70] = NAN;
  x[5 * k + 140] = -INFINITY;
  const TestWeight weight(random_floats(rng, n * k), DType::kInt4, n, k);
  for (bool cpu : {false, true}) {
    auto kernels = cpu ? make_cpu_kernels({1, DType::kF32, true}) : make_reference_kernels(true);
    Floats y(static_cast<size_t>(rows * n));
    kernels->linear(encode(x, DType::kF32).data(), rows, weight, {}, false, y.data());
    for (int64_t t = 0; t < rows; ++t)
      for (int64_t r = 0; r < n; ++r) {
        const float value = y[static_cast<size_t>(t * n + r)];
        EXPECT_EQ(std::isnan(value), t == 4 || t == 5) << t;
        EXPECT_EQ(value == 0, t == 2 || t == 3) << t << " " << value;
      }
  }
}

TEST(CpuKernelsTest, RefusesWhatItCannotDo) {
  EXPECT_THROW(make_cpu_kernels({0, DType::kF16}), Error);
  EXPECT_THROW(make_cpu_kernels({-1, DType::kF32}), Error);
  if (!cpu_has_bf16()) {
    EXPECT_THROW(make_cpu_kernels({0, DType::kBF16}), Error);
  }
  EXPECT_FALSE(cpu_features().empty());
  // What jobs compare: the machine's part in how answers are rounded.
  EXPECT_EQ(make_reference_kernels()->arithmetic(), "");
  const std::string in_fp32 = make_cpu_kernels({1, DType::kF32})->arithmetic();
  EXPECT_TRUE(in_fp32.starts_with("sums by ") && in_fp32.ends_with(fmt::format(", version {}", kArithmeticVersion))) << in_fp32;
  if (cpu_has_bf16()) {
    const std::string in_bf16 = make_cpu_kernels({1, DType::kBF16})->arithmetic();
    EXPECT_TRUE(in_bf16.starts_with("bf16 by ") && in_bf16.ends_with(", " + in_fp32)) << in_bf16;
  }
}

// Rounding to the activation type is that of dtype.h, ties, NaN and infinities included.
TEST(CpuKernelsTest, RoundsToBf16AsDTypeDoes) {
  if (!cpu_has_bf16()) GTEST_SKIP() << "this machine does not multiply bf16";
  auto kernels = make_cpu_kernels({1, DType::kBF16});
  Rng rng(12);
  Floats x = {NAN, -NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 3.4e38f, 1e-40f, std::bit_cast<float>(0x7f800001u)};
  for (int i = 0; i < 10000; ++i) {
    auto bits = static_cast<uint32_t>(rng());
    x.push_back(std::bit_cast<float>(i % 2 == 0 ? bits : (bits & 0xffff0000u) | 0x8000u));
  }
  std::vector<uint16_t> out(x.size());
  kernels->to_act(x.data(), static_cast<int64_t>(x.size()), reinterpret_cast<std::byte*>(out.data()));
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(out[i], bf16_from_float(x[i])) << x[i];
}

// ---------------------------------------------------------------- the reference itself

class ReferenceTest : public testing::Test {
 protected:
  static std::byte* bytes(float* p) { return reinterpret_cast<std::byte*>(p); }
  static const std::byte* bytes(const float* p) { return reinterpret_cast<const std::byte*>(p); }
  std::unique_ptr<Kernels> kernels_ = make_reference_kernels();
};

TEST_F(ReferenceTest, LinearOfSmallIntegersIsExact) {
  Floats x = {1, 2, 3, -1, 0, 5}, y = {100, 200, 300, 400};
  TestWeight weight({1, 10, 100, 2, 20, -200}, DType::kF16, 2, 3, {1});
  TestWeight bias = TestWeight::vector({7, 8}, DType::kBF16);
  kernels_->linear(bytes(x.data()), 2, weight, bias, true, y.data());
  EXPECT_EQ(y, (Floats{100 + 321 + 7, 200 + 2 + 40 - 600 + 8, 300 + 499 + 7, 400 - 2 - 1000 + 8}));
}

TEST_F(ReferenceTest, NormsMatchClosedForms) {
  Floats x = {1, 2, 3, 4}, out(4);
  TestWeight weight = TestWeight::vector({1, 1, 2, 1}, DType::kF32), bias = TestWeight::vector({0, 1, 0, 0}, DType::kF32);
  kernels_->layer_norm(x.data(), 1, 4, weight, bias, 0, bytes(out.data()));
  const float a = 1 / std::sqrt(5.0f);  // deviations -1.5 .. 1.5 over sqrt(5) / 2
  for (auto [actual, expected] : {std::pair{out[0], -3 * a}, {out[1], -a + 1}, {out[2], 2 * a}, {out[3], 3 * a}}) EXPECT_NEAR(actual, expected, 1e-6);
  kernels_->layer_norm(x.data(), 1, 4, {}, {}, 0, bytes(out.data()));
  for (auto [actual, expected] : {std::pair{out[0], -3 * a}, {out[1], -a}, {out[2], a}, {out[3], 3 * a}}) EXPECT_NEAR(actual, expected, 1e-6);
  kernels_->rms_norm(x.data(), 1, 4, weight, 0, bytes(out.data()));
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(out[i], x[i] / std::sqrt(7.5) * (i == 2 ? 2 : 1), 1e-6);
}

TEST_F(ReferenceTest, ActivationsMatchKnownValues) {
  const Floats x = {-1, 0, 1, 3};
  const std::pair<Activation, std::vector<double>> expected[] = {{Activation::kRelu, {0, 0, 1, 3}},
                                                                 {Activation::kGelu, {-0.15865525393145707, 0, 0.8413447460685429, 2.99595030590511}},
                                                                 {Activation::kGeluTanh, {-0.15880800939172324, 0, 0.8411919906082768, 2.996362607918227}},
                                                                 {Activation::kSilu, {-0.2689414213699951, 0, 0.7310585786300049, 2.8577223804673}}};
  for (const auto& [kind, values] : expected) {
    Floats out(4);
    kernels_->activate(x.data(), 4, kind, bytes(out.data()));
    for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(out[i], values[i], 1e-6);
  }
}

TEST_F(ReferenceTest, ActivationsAreDividedByColumn) {
  const Floats x = {1, 2, 3, -1, 5, 6};
  Floats out(6);
  kernels_->divided_activate(x.data(), 2, 3, Activation::kRelu, TestWeight::vector({2, 0.5f, 3}, DType::kF16), bytes(out.data()));
  EXPECT_EQ(out, (Floats{0.5f, 4, 1, 0, 10, 2}));
}

TEST_F(ReferenceTest, GatesAreClamped) {
  // g sigmoid(2 g) (u + 1): as they are, both too large, and too small a u (a gate has no lower bound).
  const Floats x = {1, 0.5f, 9, 9, -4, -9};
  const std::vector<double> expected = {1 / (1 + std::exp(-2.0)) * 1.5, 3 / (1 + std::exp(-6.0)) * 4, -4 / (1 + std::exp(8.0)) * -2};
  Floats out(3);
  kernels_->clamped_gate(GatedValues::pairs(x.data()), 3, {2, 3}, bytes(out.data()));
  for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(out[i], expected[i], 1e-6);
}

TEST_F(ReferenceTest, ClampHoldsBothSides) {
  Floats x = {-INFINITY, -3, -2, -0.5f, 0, 2, 2.5f, INFINITY};
  kernels_->clamp(x.data(), std::ssize(x), 2);
  EXPECT_EQ(x, (Floats{-2, -2, -2, -0.5f, 0, 2, 2, 2}));
}

// Of alike keys each weighs as much as a sink with their score.
TEST_F(ReferenceTest, SinksTakeTheirShare) {
  const KvGeometry geometry{DType::kF32, 2, 1, 1, 4};
  Sequence sequence(geometry, 3);
  const AttentionSlot slot{0, 3, 0, sequence.pages.data()};
  const Floats q(6, 1.0f), k(3, 2.0f), v = {3, 5, 7}, sinks = {2, 2 + std::log(5.0f)};
  kernels_->append_kv(k.data(), v.data(), {&slot, 1}, geometry);
  Floats out(6);
  kernels_->attention(q.data(), {&slot, 1}, geometry, {.sinks = sinks}, bytes(out.data()));
  const std::vector<double> expected = {3.0 / 2, 3.0 / 6, 8.0 / 3, 8.0 / 7, 15.0 / 4, 15.0 / 8};
  for (size_t i = 0; i < 6; ++i) EXPECT_NEAR(out[i], expected[i], 1e-5);
}

TEST_F(ReferenceTest, RopeTurnsPairsOfHalvesByTheirAngle) {
  const float pi = std::acos(-1.0f);
  Floats x = {1, 2, 3, 4}, frequencies = {pi / 2, pi};
  const int32_t position = 1;
  kernels_->rope(x.data(), 1, 1, 4, &position, {frequencies, 2});  // (1, 3) by 90 degrees, (2, 4) by 180, doubled
  const Floats expected = {-6, -4, 2, -8};
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(x[i], expected[i], 1e-5);
}

TEST_F(ReferenceTest, RopeTurnsNeighboursOfTheFirstElements) {
  const float pi = std::acos(-1.0f);
  Floats x = {1, 2, 3, 4, 5, 6}, frequencies = {pi / 2, pi};
  const int32_t position = 1;
  kernels_->rope(x.data(), 1, 1, 6, &position, {frequencies, 1, true});
  const Floats expected = {-2, 1, -3, -4, 5, 6};
  for (size_t i = 0; i < 6; ++i) EXPECT_NEAR(x[i], expected[i], 1e-5);
}

// Softmax over the whole row of scores in long double, keys taken from the input instead of from
// pages.
TEST_F(ReferenceTest, AttentionIsSoftmaxOverAllowedPositions) {
  for (int64_t window : {0, 5}) {
    const AttentionShape shape{DType::kF32, 6, 2, 10, 4, window};
    const int64_t tokens = 23;
    Rng rng(13);
    AttentionInput input(rng, shape, tokens);
    Floats actual = attend_in_chunks(*kernels_, shape, {input}, {{9, 1, 13}})[0];
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t head = 0; head < 6; ++head) {
        const float* query = input.q.data() + (t * 6 + head) * 10;
        std::vector<long double> weights;
        long double total = 0;
        for (int64_t s = 0; s < tokens; ++s) {
          long double dot = 0;
          for (int64_t d = 0; d < 10; ++d) dot += static_cast<long double>(query[d]) * input.k[static_cast<size_t>((s * 2 + head / 3) * 10 + d)];
          bool allowed = s <= t && (window == 0 || s > t - window);
          weights.push_back(allowed ? std::exp(dot / std::sqrt(10.0L)) : 0);
          total += weights.back();
        }
        for (int64_t d = 0; d < 10; ++d) {
          long double expected = 0;
          for (int64_t s = 0; s < tokens; ++s) expected += weights[static_cast<size_t>(s)] / total * input.v[static_cast<size_t>((s * 2 + head / 3) * 10 + d)];
          ASSERT_NEAR(actual[static_cast<size_t>((t * 6 + head) * 10 + d)], static_cast<double>(expected), 1e-5);
        }
      }
  }
}

TEST_F(ReferenceTest, GatherRowsAdds) {
  Bytes table = encode({1, 2, 3, 4}, DType::kF16);
  const std::byte* rows[] = {table.data() + 4, table.data()};
  Floats out = {9, 9, 9, 9};
  kernels_->gather_rows(rows, DType::kF16, 2, false, out.data());
  EXPECT_EQ(out, (Floats{3, 4, 1, 2}));
  kernels_->gather_rows(rows, DType::kF16, 2, true, out.data());
  EXPECT_EQ(out, (Floats{6, 8, 2, 4}));
}

}  // namespace
}  // namespace flexgen::kernels_test
