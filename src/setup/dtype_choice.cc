#include "setup/dtype_choice.h"

#include <algorithm>
#include <exception>
#include <map>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "engine/expert_statistics.h"
#include "model/prepared_weights.h"
#include "schedule/cache_store.h"
#include "setup/hardware.h"

namespace flexgen {
namespace {

/// Types that change answers must be worth it.
constexpr double kWorthIt = 1.03;
constexpr double kPlanningTimeS = 4;

}  // namespace

EngineOptions with_types(EngineOptions options, const DtypePair& types) {
  options.weight_dtype = types.weights;
  options.kv_cache_dtype = types.kv_cache;
  return options;
}

std::vector<DtypePair> allowed_dtypes(const EngineFlags& flags) {
  std::vector<DtypePair> pairs;
  for (const std::string& weights : split_list(flags.weight_dtype))
    for (const std::string& cache : split_list(flags.kv_cache_dtype)) pairs.push_back({weights, cache});
  return pairs;
}

MeasuredTypes types_to_measure(const EngineOptions& options, const Model& model, const std::vector<DtypePair>& pairs) {
  MeasuredTypes types;
  for (const DtypePair& pair : pairs) types.add(precision_of(with_types(options, pair), model));
  return types;
}

std::unique_ptr<Model> model_to_plan(const EngineOptions& options, std::unique_ptr<Model> model) {
  model->set_attention_sparsity(options.attention_sparsity);
  learn_expert_chances(options, *model, false);
  imagine_prepared_weights(*model, weight_dtype_of(options));
  return model;
}

DtypeChoice choose_dtypes(const EngineOptions& options, const std::vector<DtypePair>& pairs, const std::function<std::unique_ptr<Model>()>& open_model,
                          const Workload& workload, const HardwareProfile& hardware) {
  FLEXGEN_CHECK(!pairs.empty());
  struct Candidate {
    JudgedPair judged;
    int64_t width = 0;  ///< bytes of 64 weights and 64 values of the cache
    std::exception_ptr why_not;
  };
  std::vector<Candidate> candidates;
  std::map<std::string, std::unique_ptr<Model>> models;
  DType compute = DType::kF32;  // of the files, before matrices are imagined in another type
  for (const DtypePair& pair : pairs) {
    const EngineOptions one = with_types(options, pair);
    std::unique_ptr<Model>& model = models[pair.weights];
    if (!model) {
      model = open_model();
      compute = compute_dtype_of(options, *model);
      model = model_to_plan(one, std::move(model));
    }
    const Precision precision = precision_of(one, *model, compute);
    Candidate candidate{{pair, 0, "is not for --matmul-dtype int8"}, row_bytes(precision.weights, 64) + row_bytes(precision.kv, 64), nullptr};
    try {
      check_matmul_dtype(one, *model);
      candidate.judged.why_not = "does not fit";
      const Workload paged = workload.in_pages(CacheLayout::page_tokens(*model, precision.kv));
      candidate.judged.time_s = make_plan({*model, paged, options.budgets, options.policy, precision.compute, precision.kv, hardware,
                                           kPlanningTimeS / static_cast<double>(pairs.size())})
                                    .prediction.time_s;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kUser) throw;
      candidate.why_not = std::current_exception();
    }
    candidates.push_back(std::move(candidate));
  }
  std::stable_sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) { return a.width > b.width; });
  DtypeChoice choice;
  double best_s = 0;
  for (const Candidate& candidate : candidates) {
    choice.judged.push_back(candidate.judged);
    if (!candidate.why_not && (best_s == 0 || candidate.judged.time_s < best_s)) best_s = candidate.judged.time_s;
  }
  if (best_s == 0) std::rethrow_exception(candidates.back().why_not);
  for (const JudgedPair& judged : choice.judged)
    if (judged.time_s > 0 && judged.time_s <= kWorthIt * best_s) {
      choice.types = judged.types;
      break;
    }
  return choice;
}

void set_fastest_dtypes(const EngineFlags& flags, const Workload& workload, EngineOptions& options) {
  if (!flags.chooses_dtypes()) return;
  const std::vector<DtypePair> pairs = allowed_dtypes(flags);
  const auto open_model = [&] { return Model::load(options.model_directory, options.ignored_config_fields); };
  const std::unique_ptr<Model> model = open_model();
  FileSystem files;
  const HardwareProfile hardware = profile_for(
      flags, {.types = types_to_measure(options, *model, pairs), .threads = flags.threads, .read_files = model->files(), .directory = flags.disk_directory},
      files);
  const DtypeChoice choice = choose_dtypes(options, pairs, open_model, workload, hardware);
  spdlog::info("{}", choice_text(choice));
  options = with_types(options, choice.types);
}

std::string choice_text(const DtypeChoice& choice) {
  double chosen_s = 0;
  for (const JudgedPair& judged : choice.judged)
    if (judged.types == choice.types) chosen_s = judged.time_s;
  std::vector<std::string> others;
  for (const JudgedPair& judged : choice.judged) {
    if (judged.types == choice.types) continue;
    const std::string name = fmt::format("{} and {}", judged.types.weights, judged.types.kv_cache);
    others.push_back(judged.time_s > 0 ? fmt::format("{} {:.2f}x the time", name, judged.time_s / chosen_s) : fmt::format("{} {}", name, judged.why_not));
  }
  return fmt::format("weights {} and KV cache {}: {} planned ({})", choice.types.weights, choice.types.kv_cache, format_duration(chosen_s),
                     fmt::join(others, "; "));
}

}  // namespace flexgen
