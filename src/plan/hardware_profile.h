#pragma once
// HardwareProfile: how fast each lane of a machine is, as the engine uses it. Measured by `flexgen doctor --measure`, kept as JSON
// (docs/hardware_profile.md), or written by hand, so that any machine can be planned for from any other. Pure data; any thread.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/dtype.h"

namespace flexgen {

/// A speed that depends on one size: at `x` (rows, tokens of context) so much a second. Points ascend in x.
struct RatePoint {
  double x = 0, per_s = 0;
};

/// Hidden size from which on a FLOP takes about the same time; of narrower blocks it takes longer.
inline constexpr int64_t kUsualWidth = 2048;

/// Matrix products of visits as they are made: with their norms, activations and conversions of the weights; rows of a visit -> FLOP/s.
struct MatmulRates {
  /// kInt8: quantized weights are multiplied in integers.
  DType compute = DType::kF32, weights = DType::kBF16;
  std::vector<RatePoint> points;
  double width = kUsualWidth;  ///< hidden size of the block that was measured
};

/// Attention of one cache type and number of query heads a kv head.
struct AttentionRates {
  DType cache = DType::kBF16;
  double queries_per_kv_head = 1;
  std::vector<RatePoint> points;    ///< generated tokens: tokens of context -> bytes of keys and values a second
  double chunk_flops_per_s = 1e11;  ///< prompt chunks: q.k and weights times v
};

/// Whether they are rates of the same thing: a profile has each once.
bool same_kind(const MatmulRates& a, const MatmulRates& b);
bool same_kind(const AttentionRates& a, const AttentionRates& b);

/// One processor: the host's cores, or a GPU.
struct ComputeProfile {
  std::vector<MatmulRates> matmul;
  std::vector<AttentionRates> attention;
  double visit_s = 20e-6;  ///< host and kernel starts of one visit
  double logit_s = 1e-9;   ///< turning one logit into a choice, on the lane that computes it

  /// Seconds for products of `flops` in a visit of `rows` rows to a model of hidden size `width`: linear between the points (in the time a FLOP takes), and beyond the
  /// last. Of the widths that were measured with these types the nearest counts.
  double matmul_s(DType compute, DType weights, double width, double rows, double flops) const;
  /// Seconds to read `bytes` of cache for generated tokens with `context` tokens each.
  double decode_attention_s(DType cache, double queries_per_kv_head, double context, double bytes) const;
  double chunk_attention_s(DType cache, double queries_per_kv_head, double flops) const;
};

/// A GPU by two figures: products of 16-bit matrices at full speed, or, with few rows, as fast as its memory gives the matrices.
ComputeProfile gpu_of(double flops_per_s, double memory_bytes_per_s);

/// How fast a disk is for reads and writes of many blocks in flight.
struct DiskProfile {
  double read_bytes_per_s = 2e9, write_bytes_per_s = 1e9;
  double request_s = 100e-6;  ///< of one piece of work, beside its bytes
  double lookup_s = 10e-6;    ///< of one small read among many
  /// How much of a second of writing is taken from reading: 1 if both share one limit, 0 if neither knows of the other.
  double write_share_of_read = 0.5;
  /// What the end of a write is late by where reads are in flight all the time: a disk may serve these first.
  double write_wait_s = 0;
  /// Speed of reads that leave room for writes (AsyncDiskOptions::beside_writes()); 0: not known.
  double short_read_bytes_per_s = 0;
  /// Whether reads keep few bytes in flight beside writes: not on disks that need more for their speed.
  bool leaves_room_for_writes() const { return short_read_bytes_per_s == 0 || short_read_bytes_per_s >= 0.9 * read_bytes_per_s; }
  /// Seconds of compute lost for a second of disk traffic at full speed, 0 to 1: memory and cores are shared.
  double compute_slowdown = 0.05;
};

/// The same disk where a job may move no more than `bytes_per_s` of reads and writes together.
DiskProfile limited(const DiskProfile& disk, double bytes_per_s);

/// Raised when measuring changes so much that what was measured before misleads: profiles that flexgen keeps for itself are then measured anew.
inline constexpr int kMeasuringMethod = 12;

struct HardwareProfile {
  std::string name = "generic";   ///< of the machine, for people
  int method = kMeasuringMethod;  ///< by which it was measured
  std::string measured;           ///< when and where; empty: never was
  double load_average = 0;        ///< of the machine when measuring began
  double others_share = 0;        ///< of the processor time that measuring wanted, 0 to 1: taken by other programs
  std::string doubt;              ///< why it may not be this machine's speed; empty: nothing speaks against it
  bool confirmed = false;         ///< measured anew after a run had been faster, with much the same result
  ComputeProfile cpu;
  std::optional<ComputeProfile> gpu;
  double ram_read_bytes_per_s = 20e9;
  DiskProfile disk;
  double h2d_bytes_per_s = 12e9, d2h_bytes_per_s = 12e9;  ///< pinned copies
  double copy_s = 20e-6;                                  ///< of one copy, beside its bytes
  double link_bytes_per_s = 1.25e9, link_s = 50e-6;       ///< to the next rank of a pipeline

  /// Uniform speeds, for tests and what-if: a machine with no GPU.
  static HardwareProfile uniform(double flops_per_s, double ram_bytes_per_s, double disk_read_bytes_per_s, double disk_write_bytes_per_s);
  /// What is assumed of a machine that nobody measured.
  static HardwareProfile generic();
};

std::string to_json(const HardwareProfile& profile);
/// Throws Error{user} naming `source` and the field for what is missing, not finite, not positive, beyond what any machine does, or contradicts itself.
HardwareProfile profile_from_json(const std::string& text, const std::string& source);

/// dtype by the name that dtype_name() gives; nothing for others.
std::optional<DType> dtype_of_name(std::string_view name);

}  // namespace flexgen
