#pragma once
// simulate(): a whole job on virtual clocks. The batcher, the stores and the executor are the ones of a real run; only the lanes are simulated, so
// nothing is computed, read or allocated, and what comes out is the time that this schedule takes on a machine of these speeds.

#include "generation/batcher.h"
#include "generation/run_report.h"
#include "net/simulated_ports.h"
#include "plan/visit_cost.h"

namespace flexgen {

/// What the lanes of a machine give.
struct MachineSpeeds {
  double flops_per_s = 1e12;      ///< of matrix products
  double ram_bytes_per_s = 20e9;  ///< decode attention reads keys and values at this
  double disk_read_bytes_per_s = 2e9;
  double disk_write_bytes_per_s = 1e9;
  double visit_overhead_s = 20e-6;  ///< host and kernel starts of one visit
  double disk_latency_s = 100e-6;   ///< of one request; requests in a queue overlap it
  // Of a GPU, for policies whose compute tier it is.
  double gpu_flops_per_s = 60e12;
  double gpu_bytes_per_s = 250e9;  ///< of its memory
  double h2d_bytes_per_s = 12e9, d2h_bytes_per_s = 12e9;
  double copy_latency_s = 10e-6;
};

/// Times in the report are virtual. The requests are taken as they are, but tokens mean nothing: give them ignore_eos and temperature 0, and ends_after
/// where an answer is to end before its max_tokens.
/// Throws what Engine::prepare() throws for a policy that does not fit. One thread, the caller's.
RunReport simulate(const Model& model, const Policy& policy, DType kv_dtype, const MachineSpeeds& speeds, RequestSource& source);
/// The same at the speeds of a profile: visits cost what the cost model says they do (plan/visit_cost.h), disk traffic takes its share of compute
/// and of other disk traffic.
RunReport simulate(const Model& model, const Policy& policy, const Precision& precision, const HardwareProfile& hardware, RequestSource& source);

/// One rank of a simulated pipeline.
struct SimulatedRank {
  const Model* model;  ///< its own blocks (Model::keep_blocks)
  Policy policy;       ///< all ranks' have one BlockShape, with as many groups as there are ranks at least
  MachineSpeeds speeds;
  const HardwareProfile* hardware = nullptr;  ///< if there is one, everything takes what it says of runs in this precision, and `speeds` mean nothing
  Precision precision;
  bool weights_in_place = false;  ///< the resident ones, before the clock starts, as where published figures start
};

/// What the ranks of a simulated pipeline have done, in virtual time.
struct PipelineReport {
  RunReport whole;  ///< time of the slowest rank; tokens of the first
  std::vector<RunReport> ranks;
  /// The share of the time in which a rank's busiest lane works, averaged over the ranks.
  double utilisation() const;
};

/// The same job by a pipeline of ranks, each with a clock and a thread of its own, over links of this speed. Hidden rows go at the link's speed from wherever they
/// are computed: a GPU's copies to and from RAM on the way are not counted.
PipelineReport simulate_pipeline(std::span<const SimulatedRank> ranks, const LinkSpeed& link, DType kv_dtype, RequestSource& source);
/// The same with a link of its own from each rank to the next, and from the last to the first.
PipelineReport simulate_pipeline(std::span<const SimulatedRank> ranks, std::vector<LinkSpeed> links, DType kv_dtype, RequestSource& source);

}  // namespace flexgen
