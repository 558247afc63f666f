#include "schedule/stores.h"

#include <utility>

namespace flexgen {

Stores::Stores(const Model& model, const Policy& policy, DType kv_dtype, const StoreParts& parts)
    : weights(model, policy, parts.files, parts.arenas, parts.lanes), lookup(model, policy, weights, parts.arenas, parts.lanes),
      cache(model, policy, kv_dtype, parts.cache_file, parts.arenas, parts.lanes), hidden(model, policy, parts.hidden_file, parts.arenas, parts.lanes),
      messages(model, policy, parts.arenas, parts.lanes, parts.stages) {
  if (policy.on_gpu()) exchange.emplace(model, policy, parts.arenas);
}

std::vector<MemoryItem> memory_of_stores(const Model& model, const Policy& policy, DType kv_dtype) {
  return memory_of_stores(model, policy, kv_dtype, WeightSums::of(model, policy));
}

std::vector<MemoryItem> memory_of_stores(const Model& model, const Policy& policy, DType kv_dtype, const WeightSums& weights) {
  std::vector<MemoryItem> items;
  const auto add = [&](const auto& layout) {
    for (MemoryItem& item : layout.memory(policy)) items.push_back(std::move(item));
  };
  add(weights);
  add(LookupLayout(model, policy));
  add(CacheLayout(model, policy, kv_dtype));
  add(HiddenLayout(model, policy));
  add(MessageLayout(model, policy));
  add(ExchangeLayout(model, policy));
  return items;
}

}  // namespace flexgen
