#pragma once
// DtypeChoice: of the types that the user allows for weights and KV cache (--weight-dtype bf16,int4), those with which the job is planned to end
// soonest. Narrow types change answers a little, so of pairs that are nearly as fast the widest is taken. Pure, but for the time that planning takes.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "measure/measure_hardware.h"
#include "model/model.h"
#include "plan/hardware_profile.h"
#include "plan/workload.h"
#include "setup/engine_flags.h"

namespace flexgen {

/// As flags name them; "auto": as in the checkpoint, as it is computed.
struct DtypePair {
  std::string weights, kv_cache;
  bool operator==(const DtypePair&) const = default;
};

/// A pair of types that was looked at, and how long the job would take with it.
struct JudgedPair {
  DtypePair types;
  double time_s = 0;    ///< of the job as planned; 0: it cannot run so
  std::string why_not;  ///< where it cannot: "does not fit", "is not for --matmul-dtype int8"
};

struct DtypeChoice {
  DtypePair types;
  std::vector<JudgedPair> judged;  ///< widest first
};

/// `options` with the types of a pair.
EngineOptions with_types(EngineOptions options, const DtypePair& types);

/// What there is to choose from; one pair if no flag has a list.
std::vector<DtypePair> allowed_dtypes(const EngineFlags& flags);

/// What must be known of a machine to plan with any of `pairs`. Throws Error{user} for unknown names.
MeasuredTypes types_to_measure(const EngineOptions& options, const Model& model, const std::vector<DtypePair>& pairs);

/// The model, as its files have it, with matrices of the type of `options`, for planning: nothing is prepared.
std::unique_ptr<Model> model_to_plan(const EngineOptions& options, std::unique_ptr<Model> model);

/// Plans the job with each of `pairs` in a few seconds altogether. Throws Error{user} if none fits: of the narrowest, what is short.
DtypeChoice choose_dtypes(const EngineOptions& options, const std::vector<DtypePair>& pairs, const std::function<std::unique_ptr<Model>()>& open_model,
                          const Workload& workload, const HardwareProfile& hardware);

/// For a checkpoint that is to be run: with this machine's profile, or that of --hardware; sets the types of `options`, and says which. Nothing if
/// no flag has a list.
void set_fastest_dtypes(const EngineFlags& flags, const Workload& workload, EngineOptions& options);

/// "weights int4 and KV cache bf16: 3m 20s planned (bf16 and bf16 1.40x the time; ...)".
std::string choice_text(const DtypeChoice& choice);

}  // namespace flexgen
