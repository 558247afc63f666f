#include "model/stacked_experts.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <string>
#include <utility>

#include "base/error.h"
#include "io/checked_json.h"
#include "model/architecture.h"

namespace flexgen {
namespace {

constexpr std::string_view kPairs = ".experts.gate_up_proj", kDown = ".experts.down_proj";

/// Of a tensor [2 F, ...] the two [F, ...] that lie one after the other in it.
std::vector<TensorLocation> halves_of(const TensorLocation& tensor) {
  FLEXGEN_CHECK(!tensor.shape.empty() && tensor.shape[0] % 2 == 0 && tensor.bytes % 2 == 0, "halves of [{}]", fmt::join(tensor.shape, ", "));
  TensorLocation first = tensor;
  first.shape[0] /= 2;
  first.bytes /= 2;
  TensorLocation second = first;
  second.offset += first.bytes;
  return {first, second};
}

/// Families whose files hold each expert in tensors of its own, and what transformers 5's class calls the block's part and its router.
struct StackedFamily {
  std::string_view model_type, part = "mlp", router = "mlp.gate", bias = "";
};
constexpr StackedFamily kFamilies[]{{"qwen2_moe"},
                                    {"qwen3_moe"},
                                    {"olmoe"},
                                    {"glm4_moe"},
                                    {"dots1"},
                                    {"hunyuan_v1_moe"},
                                    {.model_type = "ernie4_5_moe", .bias = "mlp.gate.moe_statics.e_score_correction_bias"},
                                    {"mixtral"},
                                    {.model_type = "minimax_m2", .bias = "mlp.e_score_correction_bias"},
                                    {.model_type = "phimoe", .router = "mlp.router"}};

/// Granite's files hold stacks too, under other names.
constexpr std::pair<std::string_view, std::string_view> kGranite[]{{".block_sparse_moe.experts.gate_up_proj", ".block_sparse_moe.input_linear.weight"},
                                                                   {".block_sparse_moe.experts.down_proj", ".block_sparse_moe.output_linear.weight"},
                                                                   {".block_sparse_moe.router.weight", ".block_sparse_moe.router.layer.weight"}};

std::vector<NamedTensor> granite_name(const std::string& name, const TensorLocation& at) {
  for (const auto& [from, to] : kGranite)
    if (name.ends_with(from)) return {{name.substr(0, name.size() - from.size()).append(to), at}};
  return {{name, at}};
}

class Namer {
 public:
  Namer(const ModelConfig& config, const StackedFamily& family, const std::string& directory)
      : mixture_(config.mixture), hidden_(config.hidden_size), family_(family), names_(architecture_of(config).mixture_names()), directory_(directory) {}

  std::vector<NamedTensor> operator()(const std::string& name, const TensorLocation& at) const {
    const std::string part = "." + std::string(family_.part);
    const int64_t E = mixture_.num_experts, F = mixture_.expert_size;
    if (name.ends_with(part + std::string(kPairs))) {
      check_shape(name, at, {E, 2 * F, hidden_});
      return experts(name, kPairs, at, {names_.gate, names_.up});
    }
    if (name.ends_with(part + std::string(kDown))) {
      check_shape(name, at, {E, hidden_, F});
      return experts(name, kDown, at, {names_.down});
    }
    if (const std::string end = "." + std::string(family_.router) + ".weight"; name.ends_with(end))
      return {{name.substr(0, name.size() - end.size() + 1) + names_.router + ".weight", at}};
    if (const std::string end = "." + std::string(family_.bias); !family_.bias.empty() && name.ends_with(end))
      return {{name.substr(0, name.size() - end.size() + 1) + names_.bias, at}};
    return {{name, at}};
  }

 private:
  void check_shape(const std::string& name, const TensorLocation& at, const std::vector<int64_t>& shape) const {
    if (at.shape != shape)
      fail_user("{}: the tensor '{}' has the shape [{}], config.json asks for [{}]; they do not belong together", directory_, printable(name),
                fmt::join(at.shape, ", "), fmt::join(shape, ", "));
  }

  /// "model.layers.7.mlp.experts.gate_up_proj" in turn as "model.layers.7.mlp.experts.3.gate_proj.weight" and its like.
  std::vector<NamedTensor> experts(const std::string& name, std::string_view end, const TensorLocation& at, const std::vector<const char*>& matrices) const {
    const std::string start = name.substr(0, name.size() - end.size() - family_.part.size()) + names_.part + ".experts.";
    return matrices_of_stack(at, matrices, [&](int64_t expert, const char* matrix) { return fmt::format("{}{}.{}.weight", start, expert, matrix); });
  }

  const Mixture& mixture_;
  int64_t hidden_;
  const StackedFamily& family_;
  MixtureNames names_;
  const std::string& directory_;
};

}  // namespace

std::vector<NamedTensor> matrices_of_stack(const TensorLocation& stack, const std::vector<const char*>& matrices,
                                           const std::function<std::string(int64_t expert, const char* matrix)>& name) {
  std::vector<NamedTensor> all;
  int64_t expert = 0;
  for (const TensorLocation& slice : slices_of(stack)) {
    const std::vector<TensorLocation> parts = matrices.size() == 2 ? halves_of(slice) : std::vector<TensorLocation>{slice};
    for (size_t i = 0; i < parts.size(); ++i) all.push_back({name(expert, matrices[i]), parts[i]});
    ++expert;
  }
  return all;
}

void name_stacked_experts(Checkpoint& checkpoint, const ModelConfig& config, const std::string& directory) {
  if (config.model_type == "granitemoe" || config.model_type == "granitemoeshared") return checkpoint.replace_each(granite_name);
  const auto* family = std::find_if(std::begin(kFamilies), std::end(kFamilies), [&](const StackedFamily& one) { return one.model_type == config.model_type; });
  if (!config.is_mixture() || family == std::end(kFamilies)) return;
  const bool any = std::any_of(checkpoint.tensors().begin(), checkpoint.tensors().end(), [](const auto& one) { return one.first.ends_with(kPairs); });
  if (any) checkpoint.replace_each(Namer(config, *family, directory));
}

}  // namespace flexgen
