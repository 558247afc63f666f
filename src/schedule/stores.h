#pragma once
// Stores: what a process keeps of a run's tensors, made in one place for runs and for simulations. Host thread only.

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "io/file_system.h"
#include "memory/arena.h"
#include "memory/memory_item.h"
#include "model/model.h"
#include "net/port.h"
#include "schedule/cache_store.h"
#include "schedule/exchange.h"
#include "schedule/hidden_store.h"
#include "schedule/lanes.h"
#include "schedule/policy.h"
#include "schedule/row_lookup.h"
#include "schedule/stage_messages.h"
#include "schedule/store_order.h"
#include "schedule/weight_store.h"

namespace flexgen {

/// Preallocated files, each for what a store keeps on disk; null where that is nothing.
struct SpillFiles {
  std::shared_ptr<File> cache, hidden;
};
/// `make(name, bytes)` makes one, or none for 0 bytes.
SpillFiles spill_files(const Model& model, const Policy& policy, DType kv_dtype,
                       const std::function<std::shared_ptr<File>(const char* name, int64_t bytes)>& make);

/// What stores are made of, which must outlive them.
struct StoreParts {
  FileSystem& files;  ///< to read the checkpoint's with
  SpillFiles spills;
  Arenas arenas;
  Lanes& lanes;
  StageLink stages;  ///< the pipeline that this process is a stage of
};

struct Stores {
  /// Takes memory from the arenas in the order of the members, as much as the memory plan says; loading the first weights begins here.
  Stores(const Model& model, const Policy& policy, DType kv_dtype, const StoreParts& parts);
  Stores(const Stores&) = delete;
  Stores& operator=(const Stores&) = delete;

  WeightStore weights;
  RowLookup lookup;
  CacheStore cache;
  HiddenStore hidden;
  StageMessages messages;
  std::optional<Exchange> exchange;  ///< where a GPU computes

  // For who asks them one after the other, whatever they are: all_stores() and loading_stores() of these.
  std::vector<Store*> all, loading;
};

/// What stores take of each tier, to the byte, from their layouts.
std::vector<MemoryItem> memory_of_stores(const Model& model, const Policy& policy, DType kv_dtype);
/// The same where it is known what the policy's weights come to.
std::vector<MemoryItem> memory_of_stores(const Model& model, const Policy& policy, DType kv_dtype, const WeightSums& weights);

}  // namespace flexgen
