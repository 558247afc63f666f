#include "backend/cpu/attention_sparse.h"

#include <cstring>

#include "backend/cpu/attention_kernel.h"
#include "backend/sparse_positions.h"
#include "base/error.h"
#include "base/units.h"

namespace flexgen {
namespace {

/// Of the sequences put together; what both kernels take.
constexpr int64_t kPageTokens = 64;
/// By which chosen rows, which lie anywhere, are asked for before they are copied.
constexpr int64_t kRowsAhead = 12;

}  // namespace

float* AttentionSparse::scratch(int64_t floats) {
  if (floats > scratch_size_) {
    scratch_ = hwy::AllocateAligned<float>(static_cast<size_t>(floats));
    scratch_size_ = floats;
  }
  return scratch_.get();
}

void AttentionSparse::attend(const AttentionTask& task) {
  FLEXGEN_CHECK(task.sparse && task.num_rows() == 1, "{} rows", task.num_rows());
  const KvGeometry& g = *task.geometry;
  const AttentionKernel& kernel = attention_kernel(g, task.out_dtype);
  const int64_t group = g.query_heads / g.kv_heads, position = task.rows[0].end() - 1, bytes = row_bytes(g.dtype, g.head_size);
  const int64_t visible = task.rule.visible(position), first = position + 1 - visible, kept = task.rule.kept(visible);
  const KvGeometry chosen_geometry{g.dtype, group, 1, g.head_size, kPageTokens};
  const int64_t num_pages = ceil_div(kept, kPageTokens);
  memory_.resize(static_cast<size_t>(num_pages * chosen_geometry.page_bytes()));
  pages_.clear();
  for (int64_t page = 0; page < num_pages; ++page) pages_.push_back(memory_.data() + page * chosen_geometry.page_bytes());
  const AttentionSlot chosen_slot{0, 1, kept - 1, pages_.data()};
  const AttentionRow chosen_row{&chosen_slot, 0};
  const AttentionStretch whole{&chosen_slot, 0, 1, 0, kept};

  scores_.resize(static_cast<size_t>(group * visible));
  for (int64_t head = 0; head < task.num_heads; ++head) {
    kernel.scores(task, head, first, scores_.data(), visible, scratch(kernel.scratch_floats(task)));
    shares_.assign(static_cast<size_t>(visible), 0);
    for (int64_t m = 0; m < group; ++m) add_softmax(scores_.data() + m * visible, visible, shares_.data());
    choose_positions(shares_, kept, &chosen_);
    auto row_of = [&](int64_t which, int64_t i) {
      const int64_t from = first + chosen_[static_cast<size_t>(i)];
      return task.slot->pages[from / g.page_tokens] + g.row_offset(which, task.first_head + head, from);
    };
    for (int64_t which : {0, 1})
      for (int64_t i = 0; i < kept; ++i) {
        if (i + kRowsAhead < kept)
          for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(row_of(which, i + kRowsAhead) + at);
        std::memcpy(pages_[static_cast<size_t>(i / kPageTokens)] + chosen_geometry.row_offset(which, 0, i), row_of(which, i), static_cast<size_t>(bytes));
      }
    const int64_t at = ((task.slot->first_row + task.rows[0].row) * g.query_heads + (task.first_head + head) * group) * g.head_size;
    const std::span<const float> sinks =
        task.rule.sinks.empty() ? task.rule.sinks : task.rule.sinks.subspan(static_cast<size_t>((task.first_head + head) * group), static_cast<size_t>(group));
    AttentionTask dense{.q = task.q + at,
                        .geometry = &chosen_geometry,
                        .rule = {.scale = task.rule.scale, .soft_cap = task.rule.soft_cap, .sinks = sinks},
                        .out_dtype = task.out_dtype,
                        .out = task.out + size_bytes(task.out_dtype, at),
                        .rows = {&chosen_row, 1},
                        .stretches = {&whole, 1},
                        .slot = &chosen_slot,
                        .num_heads = 1};
    kernel.attend(dense, scratch(kernel.scratch_floats(dense)));  // it takes these pages too
  }
}

}  // namespace flexgen
