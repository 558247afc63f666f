#pragma once
// Arena: all large memory of a tier in one piece, taken and touched at the start so that a run cannot run out
// of memory later. Not thread-safe; allocate before the lanes start.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "memory/tier.h"

namespace flexgen {

class Arena {
 public:
  enum class Use {
    kMemory,         ///< mapped and touched
    kAddressesOnly,  ///< for simulations: addresses that nobody may look behind
  };
  /// Throws Error{user} if the machine refuses.
  explicit Arena(int64_t bytes, Use use = Use::kMemory);
  /// Over memory of somebody else's, such as a device's, which must outlive it. Not touched.
  explicit Arena(std::span<std::byte> memory);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// The next `bytes`, aligned to a page. Aborts if the arena is too small: the plan must have counted it.
  std::span<std::byte> allocate(int64_t bytes);
  /// What allocate(bytes) takes.
  static int64_t footprint(int64_t bytes);
  int64_t capacity() const { return capacity_; }
  int64_t used() const { return used_; }
  std::span<std::byte> memory() const { return {base_, static_cast<size_t>(capacity_)}; }

 private:
  std::byte* base_ = nullptr;
  bool own_ = true;
  int64_t capacity_ = 0, used_ = 0;
};

/// The memory of an engine: RAM, and the GPU's where one computes.
struct Arenas {
  Arena* cpu = nullptr;
  Arena* gpu = nullptr;
  Arena& of(Tier tier) const { return tier == Tier::kGpu ? *gpu : *cpu; }
};

}  // namespace flexgen
