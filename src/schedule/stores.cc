#include "schedule/stores.h"

#include <utility>

namespace flexgen {

namespace {

struct StoreLayouts {
  WeightSums weights;
  LookupLayout lookup;
  CacheLayout cache;
  HiddenLayout hidden;
  MessageLayout messages;
};

}  // namespace

Stores::Stores(const Model& model, const Policy& policy, DType kv_dtype, const StoreParts& parts)
    : weights(model, policy, parts.files, parts.arenas, parts.lanes), lookup(model, policy, weights, parts.arenas, parts.lanes),
      cache(model, policy, kv_dtype, parts.spills.cache, parts.arenas, parts.lanes), hidden(model, policy, parts.spills.hidden, parts.arenas, parts.lanes),
      messages(model, policy, parts.arenas, parts.lanes, parts.stages) {
  if (policy.on_gpu()) exchange.emplace(model, policy, parts.arenas);
  for_each_store(all_stores(*this), [this](Store& store) { all.push_back(&store); });
  for_each_store(loading_stores(*this), [this](Store& store) { loading.push_back(&store); });
}

SpillFiles spill_files(const Model& model, const Policy& policy, DType kv_dtype,
                       const std::function<std::shared_ptr<File>(const char* name, int64_t bytes)>& make) {
  return {make("cache", CacheLayout(model, policy, kv_dtype).file_bytes()), make("activations", HiddenLayout(model, policy).file_bytes())};
}

std::vector<MemoryItem> memory_of_stores(const Model& model, const Policy& policy, DType kv_dtype) {
  return memory_of_stores(model, policy, kv_dtype, WeightSums::of(model, policy));
}

std::vector<MemoryItem> memory_of_stores(const Model& model, const Policy& policy, DType kv_dtype, const WeightSums& weights) {
  std::vector<MemoryItem> items;
  const auto add = [&](const auto& layout) {
    for (MemoryItem& item : layout.memory(policy)) items.push_back(std::move(item));
  };
  const StoreLayouts layouts{weights, {model, policy}, {model, policy, kv_dtype}, {model, policy}, {model, policy}};
  for_each_store(all_stores(layouts), add);
  add(ExchangeLayout(model, policy));
  return items;
}

}  // namespace flexgen
