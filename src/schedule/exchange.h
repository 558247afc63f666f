#pragma once
// Exchange: the buffers through which a visit on a GPU talks with the processor beside it: logits on their way to whoever reads them, and, where
// attention runs on the processor, q, k and v on their way down and its result on its way up. Nothing of it exists where a CPU computes. Host thread only.

#include "memory/arena.h"
#include "memory/memory_item.h"
#include "memory/staging_ring.h"
#include "model/model.h"
#include "schedule/policy.h"

namespace flexgen {

/// Pure arithmetic over the model, shared with the planner.
class ExchangeLayout {
 public:
  ExchangeLayout(const Model& model, const Policy& policy);

  static constexpr int kLogitBuffers = 2;
  int64_t logits_bytes = 0;     ///< one of kLogitBuffers in the GPU, with as much RAM behind it: a panel [rows, vocab_count] f32, and the largest of its rows
  int64_t largest_offset = 0;   ///< of the latter there
  int64_t attention_bytes = 0;  ///< one of Policy::buffers in the GPU: q, k, v [T, ...] f32; the result comes back over q
  int64_t attention_host_bytes = 0;  ///< the RAM behind it: q, k, v and the result
  /// What it takes of each tier; nothing where a CPU computes.
  std::vector<MemoryItem> memory(const Policy& policy) const;
};

class Exchange {
 public:
  Exchange(const Model& model, const Policy& policy, const Arenas& arenas);

  /// A pair of buffers, device and host, for one exchange; each with what must be done before it is written.
  struct Pair {
    int64_t key = 0;
    std::byte *device = nullptr, *host = nullptr;
    std::vector<Event> device_free, host_free;
  };
  Pair start_logits() { return start(logits_, host_logits_, next_logits_++); }
  /// Where in such a buffer, of either, the largest of each of the panel's rows go.
  Largest* largest_in(std::byte* logits) const { return reinterpret_cast<Largest*>(logits + largest_offset_); }
  Pair start_attention() { return start(attention_, host_attention_, next_attention_++); }
  /// Until when the buffers of the pair are in use.
  void use_logits(const Pair& pair, const Event& device, const Event& host);
  void use_attention(const Pair& pair, const Event& device, const Event& host);
  int attention_count() const { return attention_.count(); }

 private:
  static Pair start(StagingRing& device, StagingRing& host, int64_t key);

  StagingRing logits_, host_logits_, attention_, host_attention_;
  int64_t next_logits_ = 0, next_attention_ = 0;
  int64_t largest_offset_ = 0;
};

}  // namespace flexgen
