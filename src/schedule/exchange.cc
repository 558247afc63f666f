#include "schedule/exchange.h"

#include <algorithm>

#include "base/units.h"
#include "io/file.h"
#include "model/scratch.h"

namespace flexgen {

ExchangeLayout::ExchangeLayout(const Model& model, const Policy& policy) {
  if (!policy.on_gpu()) return;
  const ModelConfig& config = model.config();
  int64_t widest = 0;
  for (const LayerSpec& layer : model.layers()) widest = std::max(widest, layer.vocab_count);
  const auto floats = [](int64_t count) { return round_up(count * static_cast<int64_t>(sizeof(float)), kDirectAlignment); };
  const int64_t panel_rows = std::min(policy.max_logit_rows, kLogitPanelRows);
  largest_offset = floats(panel_rows * widest);
  logits_bytes = largest_offset + round_up(panel_rows * static_cast<int64_t>(sizeof(Largest)), kDirectAlignment);
  if (!policy.attention_beside()) return;
  const int64_t q = config.widest_q();
  attention_bytes = floats(policy.max_rows * (q + 2 * config.widest_kv()));
  attention_host_bytes = attention_bytes + floats(policy.max_rows * q);
}

std::vector<MemoryItem> ExchangeLayout::memory(const Policy& policy) const {
  if (!policy.on_gpu()) return {};
  const int64_t logits = Arena::footprint(kLogitBuffers * logits_bytes);
  return {{"logits and attention on their way", Tier::kGpu, logits + Arena::footprint(policy.buffers * attention_bytes)},
          {"logits and attention on their way", Tier::kCpu, logits + Arena::footprint(policy.buffers * attention_host_bytes)}};
}

Exchange::Exchange(const Model& model, const Policy& policy, const Arenas& arenas) {
  const ExchangeLayout layout(model, policy);
  largest_offset_ = layout.largest_offset;
  auto ring = [](Arena* arena, int count, int64_t bytes) { return StagingRing(arena->allocate(count * bytes), count, bytes); };
  logits_ = ring(arenas.gpu, ExchangeLayout::kLogitBuffers, layout.logits_bytes);
  host_logits_ = ring(arenas.cpu, ExchangeLayout::kLogitBuffers, layout.logits_bytes);
  attention_ = ring(arenas.gpu, policy.buffers, layout.attention_bytes);
  host_attention_ = ring(arenas.cpu, policy.buffers, layout.attention_host_bytes);
}

Exchange::Pair Exchange::start(StagingRing& device, StagingRing& host, int64_t key) {
  Pair pair;
  pair.key = key;
  pair.device_free = device.start(key);
  pair.host_free = host.start(key);
  pair.device = device.at(key).data.data();
  pair.host = host.at(key).data.data();
  return pair;
}

void Exchange::use_logits(const Pair& pair, const Event& device, const Event& host) {
  logits_.at(pair.key).in_use = {device};
  host_logits_.at(pair.key).in_use = {host};
}

void Exchange::use_attention(const Pair& pair, const Event& device, const Event& host) {
  attention_.at(pair.key).in_use = {device};
  host_attention_.at(pair.key).in_use = {host};
}

}  // namespace flexgen
