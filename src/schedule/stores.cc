#include "schedule/stores.h"

namespace flexgen {

Stores::Stores(const Model& model, const Policy& policy, DType kv_dtype, const StoreParts& parts)
    : weights(model, policy, parts.files, parts.arenas, parts.lanes), lookup(model, policy, weights, parts.arenas, parts.lanes),
      cache(model, policy, kv_dtype, parts.cache_file, parts.arenas, parts.lanes), hidden(model, policy, parts.hidden_file, parts.arenas, parts.lanes),
      messages(model, policy, parts.arenas, parts.lanes, parts.stages) {
  if (policy.on_gpu()) exchange.emplace(model, policy, parts.arenas);
}

}  // namespace flexgen
