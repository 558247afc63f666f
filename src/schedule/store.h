#pragma once
// Store: what the executor's loop asks of each kind of tensor. A visit acquires what it works with, its work is enqueued, it commits, and all load ahead. The kinds, and the
// order in which they are asked: schedule/stores.h. Host thread only.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "backend/event.h"
#include "model/model.h"
#include "schedule/batch_plan.h"
#include "schedule/visit.h"

namespace flexgen {

/// What a visit works with, until all its work is over: who makes it says which visit it is, each store adds its part. Stays where it is, as parts point into others.
struct VisitLease {
  VisitLease(const Visit& of, std::shared_ptr<BatchPlan> does) : visit(of), plan(std::move(does)) {}
  VisitLease(const VisitLease&) = delete;
  VisitLease& operator=(const VisitLease&) = delete;

  Visit visit;
  std::shared_ptr<BatchPlan> plan;
  bool alone = false;         ///< no other micro-batch is active in the pass, so rows can stay where they are
  bool needed_later = false;  ///< the micro-batch has visits of later layers of this process

  std::vector<WeightView> weights;             ///< one per use of the layer; empty for look-ups
  std::vector<const std::byte*> looked_up;     ///< [T] rows of the embedding table, of an embed layer
  KvGeometry geometry;                         ///< of the layer's cache
  std::vector<std::vector<std::byte*>> pages;  ///< for each slot of the plan its pages of the layer's cache, null for those behind the window
  std::vector<AttentionSlot> slots;            ///< their `pages` point into these
  float* rows = nullptr;                       ///< [T, ModelConfig::kept_row_floats], the stream [T, D] first
  std::span<ExpertChoice> choices;             ///< VisitInput::choices
  /// Rows that live in the compute tier but not in the staging buffer: copied in before the visit and out after it.
  std::byte* resident = nullptr;
  int64_t copy_in_bytes = 0, copy_out_bytes = 0;

  // What the visit's work must wait for; what attends and what touches `rows` have events of their own.
  std::vector<Event> after, attention_after, rows_after;
  std::optional<Event> sent;  ///< once it commits: `rows` are on their way to the next stage until then

  VisitInput input() const;
  /// What `pages` and `slots` take, in bytes.
  int64_t table_bytes() const;
};

/// What a store may know of the visits that lie ahead in the pass under way.
struct Ahead {
  std::span<const std::shared_ptr<BatchPlan>> plans;    ///< a batch: its plan of this step, null if idle; those of the visit's group count
  int64_t num_layers = 0;                               ///< of this process
  std::function<TakesPlace(const Visit&)> takes_place;  ///< a visit of one of those
};

class Store {
 public:
  virtual ~Store() = default;
  /// Whether what it gives is for attention alone, which may run beside a GPU and be over before the visit is.
  virtual bool is_for_attention() const { return false; }
  /// Adds to the lease what the visit needs of this kind, if it needs any, and what is to be waited for; issues what was not prefetched.
  virtual void acquire(VisitLease& lease) = 0;
  /// The work with what was acquired was enqueued, and is over once `done` is: brings back what it changed.
  virtual void commit(VisitLease& lease, const Event& done) {
    static_cast<void>(lease);
    static_cast<void>(done);
  }
  /// Called once a visit is enqueued, or will not take place: issues loads for those after it.
  virtual void prefetch(const Visit& visit, const Ahead& ahead) {
    static_cast<void>(visit);
    static_cast<void>(ahead);
  }
};

}  // namespace flexgen
