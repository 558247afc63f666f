#pragma once
// LayerSpec: what a layer of a model reads and computes; VisitInput: what one visit to it works on. Pure data.

#include <cstdint>
#include <span>
#include <vector>

#include "backend/kernels.h"
#include "model/weight_list.h"

namespace flexgen {

/// What a layer does.
enum class LayerKind {
  kEmbed,    ///< looks rows up in a table; reads the rest of its weights whole
  kBlock,    ///< one transformer layer; of a mixture's sparse block what comes before its experts
  kExperts,  ///< some of a sparse block's experts: each adds to the rows that chose it, in the order of their numbers
  kJoin,     ///< what comes after a sparse block's experts where these add to rows apart from the stream: the part beside them, and both into the stream
  kHead,     ///< logits for a range of the vocabulary (large heads are cut into chunks)
};

/// The part of a weight that a layer reads: rows [row_first, row_first + rows).
struct WeightUse {
  int weight = 0;  ///< index into Model::weights()
  int64_t row_first = 0, rows = 0;
  bool lookup = false;  ///< only single rows are looked up (the embedding table): never streamed whole
  Role role = Role::kOther;
};

struct LayerSpec {
  LayerKind kind = LayerKind::kBlock;
  int64_t index = 0;                          ///< which block of the whole model it is part of; or which chunk of the head
  int64_t cache = -1;                         ///< which of the model's caches it reads and writes: one a block, from 0 on in a pipeline stage too; -1: none
  int64_t state = -1;                         ///< what it keeps there of a sequence: index into Model::states(); -1: nothing
  std::vector<WeightUse> uses;                ///< order is the architecture's own; forward() gets views in this order
  int64_t vocab_first = 0, vocab_count = 0;   ///< head chunks
  int64_t first_expert = 0, num_experts = 0;  ///< experts
  double linear_flops_per_row = 0;            ///< of a visit's rows: 2 * the elements of its matrices; of experts, row_share of that
  double row_share = 1;                       ///< of a visit's rows, how many each of its matrices multiplies: k of E for experts

  /// Experts: whose matrix uses[use] is, each having as many.
  int64_t expert_of_use(size_t use) const { return first_expert + static_cast<int64_t>(use * static_cast<size_t>(num_experts) / uses.size()); }
  /// Experts: of the block's rows by the expert that they chose, [E], those that its own have; a row counts once for each.
  int64_t rows_that_chose(std::span<const int32_t> rows_of_expert) const {
    int64_t rows = 0;
    for (int64_t expert = first_expert; expert < first_expert + num_experts; ++expert) rows += rows_of_expert[static_cast<size_t>(expert)];
    return rows;
  }
};

/// What a visit works on. Everything is packed: T rows, slot after slot.
struct VisitInput {
  int64_t num_rows = 0;                          ///< T
  std::span<const int32_t> positions;            ///< [T]
  std::span<const AttentionSlot> slots;          ///< pages of this layer (blocks only)
  std::span<const std::byte* const> embed_rows;  ///< [T] rows of the embedding table (embed layer only)
  std::span<const int32_t> logit_rows;           ///< rows of T that want logits (head only)
  /// [T, k] of a mixture, in RAM also for a GPU: the block that attends writes what its rows have chosen, its experts read it.
  std::span<ExpertChoice> choices;
};

}  // namespace flexgen
