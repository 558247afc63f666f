#include "model/quantization.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <optional>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "io/checked_json.h"
#include "model/config_fields.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;
using Method = Quantization::Method;

constexpr int64_t kMostColumns = 1 << 24;
constexpr const char* kTakeAnother = "take the checkpoint that was not quantized, with --weight-dtype int4 or int8, or a GGUF of it";

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

/// Lists of layers that stay as they are, and the like: what the files hold decides, so nothing is left to be read of them.
void name_layer_lists(ConfigFields& fields) {
  fields.harmless({"modules_to_not_convert", "modules_to_convert", "ignored_layers", "ignore", "exclude_modules", "modules_in_block_to_quantize",
                   "block_name_to_quantize", "to_quant_block_names", "module_name_preceding_first_block", "lm_head", "quant_lm_head"});
}

/// How a checkpoint was made, and for which kernels: of no account for what it holds.
void name_makers_fields(ConfigFields& fields) {
  // clang-format off
  fields.harmless({"dataset", "tokenizer", "damp_percent", "damp_auto_increment", "true_sequential", "static_groups", "meta", "model_name_or_path",
                   "model_file_base_name", "quantizer", "act_group_aware", "batch_size", "pad_token_id", "max_input_length", "cache_block_outputs",
                   "model_seqlen", "use_exllama", "use_cuda_fp16", "exllama_config", "disable_exllama", "backend", "do_fuse", "fuse_max_seq_len",
                   "modules_to_fuse", "nsamples", "seqlen", "iters", "lr", "minmax_lr", "gradient_accumulate_steps", "low_gpu_mem_usage",
                   "low_cpu_mem_usage", "amp", "not_use_best_mse", "dynamic_max_gap", "enable_quanted_input", "enable_minmax_tuning",
                   "enable_norm_bias_tuning", "enable_torch_compile", "autoround_version", "scale_dtype", "sampler", "train_bs", "n_blocks", "nblocks",
                   "multimodal", "super_bits", "super_group_size", "mse", "provider", "producer", "version", "quantization_status",
                   "global_compression_ratio", "calib_data", "static_kv_dtype", "model_free", "pack_impl", "offload_to_disk", "offload_to_disk_path",
                   "gc_mode", "vram_strategy", "wait_for_submodule_finalizers", "auto_forward_data_parallel", "failsafe", "fallback", "hessian",
                   "mock_quantization", "gptaq", "gptaq_alpha"});
  // clang-format on
}

/// -1, or a number of columns.
int64_t read_group_size(ConfigFields& fields, int64_t usual, const char* name = "group_size") {
  const int64_t size = fields.integer_or(name, usual, -1, kMostColumns);
  if (size == 0) fields.refuse(name, "is 0; it must be a number of columns, or -1 for all of a row");
  return std::max<int64_t>(size, 0);
}

/// [rows, columns] of a block that has one scale.
std::pair<int64_t, int64_t> read_block(ConfigFields& fields, const char* name) {
  const Json* block = fields.find(name);
  bool good = block && block->is_array() && block->size() == 2;
  for (size_t i = 0; i < 2 && good; ++i)
    good = (*block)[i].is_number_unsigned() && (*block)[i].get<uint64_t>() > 0 && (*block)[i].get<uint64_t>() <= static_cast<uint64_t>(kMostColumns);
  if (!good) fields.refuse(name, "must be two sizes, like [128, 128]");
  return {(*block)[0].get<int64_t>(), (*block)[1].get<int64_t>()};
}

/// Whether good(name, value) of all members; false if it is no object.
template <typename Good>
bool all_members(const Json& object, const Good& good) {
  if (!object.is_object()) return false;
  for (const auto& [name, value] : object.items())
    if (!good(name, value)) return false;
  return true;
}

/// use(fields) for each member of an object of objects, all of whose fields it reads. `otherwise`: what is said of a member that is none.
template <typename Use>
void for_each_object(ConfigFields& fields, const char* name, const char* otherwise, const Use& use) {
  const Json* objects = fields.find(name);
  if (!objects || !objects->is_object() || objects->empty()) fields.refuse(name, "is missing, or no object; fetch the file again");
  ConfigFields all = fields.inner(*objects, name);
  for (const auto& [member, object] : objects->items()) {
    if (!object.is_object()) all.refuse(member, otherwise);
    all.find(member);
    ConfigFields one = all.inner(object, member);
    use(one);
    one.finish();
  }
}

void add_scheme(Quantization& quantization, const QuantizationScheme& scheme) {
  if (std::find(quantization.schemes.begin(), quantization.schemes.end(), scheme) == quantization.schemes.end()) quantization.schemes.push_back(scheme);
}

void tell_of_inputs(const ConfigFields& fields, bool is_static) {
  spdlog::info("{}: the inputs of matrices were meant to be rounded{} as well; flexgen rounds the weights alone, as transformers does when it dequantizes them",
               fields.source(), is_static ? " with scales that the files hold" : "");
}

/// Fields of AutoRound's that change nothing.
void name_auto_round_fields(ConfigFields& fields) {
  fields.harmless({"act_group_size", "act_sym", "act_dynamic", "act_data_type", "quant_block_list", "supported_types", "static_kv_granularity",
                   "static_attention_granularity", "static_attention_dtype"});
}

/// AutoRound says of the same what it says of its other types too.
void read_fp8_of_auto_round(ConfigFields& fields) {
  fields.only("bits", 8);
  if (const std::string type = fields.text_or("data_type", "fp8"); type != "fp") fields.only("data_type", "fp8");
  fields.only("sym", true);
  if (const Json* block = fields.find("group_size")) {
    const Json* of_scales = fields.find("weight_block_size");
    fields.only("group_size", of_scales ? *of_scales : *block);
    if (!of_scales) fields.refuse("group_size", "is there, and weight_block_size is not, which says how scales lie");
  }
  fields.only("rotation_configs", nullptr);
  const auto is_plain = [](const std::string&, const Json& rule) {
    const Json bits = rule.is_object() ? rule.value("bits", Json()) : Json();
    return bits.is_number_integer() && bits >= 16;
  };
  if (const Json* rules = fields.find("extra_config"); rules && !all_members(*rules, is_plain))
    fields.refuse("extra_config", "gives some layers bits or groups of their own, which flexgen does not read of FP8");
  fields.harmless({"packing_format", "act_bits"});
  name_auto_round_fields(fields);
}

/// DeepSeek's FP8, which Qwen3 and MiniMax ship too.
void read_fp8(ConfigFields& fields, Quantization& quantization) {
  if (const std::string code = fields.text_or("fmt", "e4m3"); code != "float8_e4m3fn") fields.only("fmt", "e4m3");  // MiniMax's name of the same
  fields.only("expert_dtype", "fp8");
  const std::string inputs = fields.text_or("activation_scheme", "dynamic");
  if (inputs != "dynamic" && inputs != "static") fields.refuse("activation_scheme", fmt::format("is '{}'; dynamic and static are known", printable(inputs)));
  QuantizationScheme of_matrices{.bits = 8, .is_float = true, .scale_rows = 0}, of_blocks = of_matrices;
  of_blocks.scale_rows = of_blocks.scale_columns = 128;
  if (fields.find("weight_block_size")) std::tie(of_blocks.scale_rows, of_blocks.scale_columns) = read_block(fields, "weight_block_size");
  const bool is_null = fields.contains("weight_block_size") && !fields.find("weight_block_size");
  if (!is_null) quantization.schemes.push_back(of_blocks);
  // Where nothing is said, transformers means blocks, and AutoFP8 one scale a matrix: the scales' shapes tell.
  if (!fields.find("weight_block_size")) quantization.schemes.push_back(of_matrices);
  read_fp8_of_auto_round(fields);
  fields.harmless({"scale_fmt", "dequantize", "kv_cache_scheme"});  // scales have a type of their own in the files; the cache's type is the job's choice
  tell_of_inputs(fields, inputs == "static");
}

/// Meta's, of Llama 3.1 405B: a scale for each row, and inputs that were meant to be rounded by the token.
void read_fbgemm_fp8(ConfigFields& fields, Quantization& quantization) {
  quantization.schemes.push_back({.bits = 8, .is_float = true});
  fields.harmless({"activation_scale_ub"});
  tell_of_inputs(fields, false);
}

/// NVIDIA's Model Optimizer. Where layers have algorithms of their own, the files' types and shapes tell which.
void read_model_optimizer(ConfigFields& fields, Quantization& quantization) {
  bool is_static = false;
  const auto read_algorithm = [&](ConfigFields& from) {
    const std::string algorithm = from.text_or("quant_algo", "");
    if (algorithm != "FP8" && algorithm != "FP8_PER_CHANNEL_PER_TOKEN" && algorithm != "NVFP4")
      from.refuse("quant_algo", fmt::format("is '{}'; of Model Optimizer's flexgen reads FP8, FP8_PER_CHANNEL_PER_TOKEN and NVFP4", printable(algorithm)));
    if (algorithm == "NVFP4") {
      from.only("group_size", 16);
      add_scheme(quantization, {.bits = 4, .is_float = true, .scale_columns = 16});
    } else {
      add_scheme(quantization, {.bits = 8, .is_float = true, .scale_rows = algorithm == "FP8" ? 0 : 1});
    }
    is_static |= algorithm != "FP8_PER_CHANNEL_PER_TOKEN";
  };
  if (fields.text_or("quant_algo", "") == "MIXED_PRECISION") {
    for_each_object(fields, "quantized_layers", "must be an object", [&](ConfigFields& layer) {
      read_algorithm(layer);
      layer.harmless({"group_size", "kv_cache_quant_algo"});
    });
  } else {
    read_algorithm(fields);
  }
  fields.harmless({"kv_cache_quant_algo", "kv_cache_scheme", "config_groups", "group_size"});  // the cache's type is the job's choice
  tell_of_inputs(fields, is_static);
}

/// The weights of one of compressed-tensors' groups; none where it is of inputs alone.
std::optional<QuantizationScheme> read_compressed_group(ConfigFields& group, const std::string& format_of_all) {
  const std::string format = group.text_or("format", format_of_all);
  group.harmless({"targets"});
  for (const char* name : {"input_activations", "output_activations"})
    if (const Json* inputs = group.find(name)) tell_of_inputs(group, inputs->is_object() && inputs->contains("dynamic") && (*inputs)["dynamic"] == false);
  const Json* given = group.find("weights");
  if (!given) return std::nullopt;
  if (!given->is_object()) group.refuse("weights", "must be an object");
  constexpr const char* kFormats[]{"pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized"};
  if (std::find(std::begin(kFormats), std::end(kFormats), format) == std::end(kFormats))
    group.refuse("format", fmt::format("is '{}'; of compressed-tensors' flexgen reads {}", printable(format), fmt::join(kFormats, ", ")));

  ConfigFields weights = group.inner(*given, "weights");
  QuantizationScheme scheme;
  scheme.bits = static_cast<int>(weights.integer_or("num_bits", 8, 1, 16));
  const std::string type = weights.text_or("type", "int");
  if (type != "int" && type != "float") weights.refuse("type", fmt::format("is '{}'; int and float are known", printable(type)));
  scheme.is_float = type == "float";
  if (scheme.bits != 4 && scheme.bits != 8) weights.refuse("num_bits", fmt::format("is {}; flexgen reads codes of 4 and 8 bits", scheme.bits));
  scheme.has_zeros = !weights.flag_or("symmetric", true);
  if (scheme.has_zeros && format != "pack-quantized")
    weights.refuse("symmetric", fmt::format("is false; flexgen reads zero points of pack-quantized weights alone, and these are {}", printable(format)));
  weights.only("dynamic", false);
  const int64_t group_size = read_group_size(weights, -1);
  const std::string strategy = weights.text_or("strategy", group_size > 0                                                 ? "group"
                                                           : weights.contains("group_size") && weights.find("group_size") ? "channel"
                                                                                                                          : "tensor");
  if (strategy == "tensor") {
    scheme.scale_rows = 0;
  } else if (strategy == "group" || strategy == "tensor_group") {
    if (group_size == 0) weights.refuse("group_size", "is missing; fetch the file again");
    scheme.scale_columns = group_size;
  } else if (strategy == "block") {
    std::tie(scheme.scale_rows, scheme.scale_columns) = read_block(weights, "block_structure");
  } else if (strategy != "channel") {
    weights.refuse("strategy", fmt::format("is '{}'; flexgen reads tensor, channel, group, tensor_group and block", printable(strategy)));
  }
  weights.harmless({"observer", "observer_kwargs", "actorder", "scale_dtype", "zp_dtype", "block_structure"});  // an order of columns is a tensor
  weights.finish();
  return scheme;
}

/// What is done to weights or inputs beside the groups.
void refuse_other_transforms(ConfigFields& fields) {
  if (const Json* sparsity = fields.find("sparsity_config");
      sparsity && !sparsity->empty() && !(sparsity->is_object() && sparsity->value("format", Json()) == "dense"))
    fields.refuse("sparsity_config", "is of a format other than dense, which flexgen does not read");
  if (const Json* transform = fields.find("transform_config"); transform && !transform->empty())
    fields.refuse("transform_config", "is there: inputs of matrices are transformed, which flexgen does not do");
  if (const Json* sparsity = fields.find("moe_sparsity_config"); sparsity && !sparsity->empty())
    fields.refuse("moe_sparsity_config", "is there, which flexgen does not read");
}

void read_compressed_tensors(ConfigFields& fields, Quantization& quantization) {
  const std::string format = fields.text_or("format", "");
  const Json* groups = fields.find("config_groups");
  if (const Json* cache = fields.find("kv_cache_scheme"); cache && groups && groups->is_object() && groups->empty()) {
    spdlog::info("{}: says of the KV cache alone that it is quantized; weights are plain, and the type of the cache is --kv-cache-dtype", fields.source());
    quantization.method = Method::kNone;
    return refuse_other_transforms(fields);
  }
  for_each_object(fields, "config_groups", "is the name of a preset; flexgen reads groups that are written out", [&](ConfigFields& group) {
    if (const auto scheme = read_compressed_group(group, format)) add_scheme(quantization, *scheme);
  });
  if (quantization.schemes.empty()) fields.refuse("config_groups", "say nothing of weights");
  fields.harmless({"kv_cache_scheme"});  // the cache's type is the job's choice
  refuse_other_transforms(fields);
}

/// gpt-oss's (OCP Microscaling Formats 2023); of which matrices is the family's to say.
void read_mxfp4(ConfigFields& fields, Quantization& quantization) {
  fields.harmless({"dequantize"});
  quantization.schemes.push_back({.bits = 4, .is_float = true, .scale_columns = 32});
}

/// Fields of AutoRound's, which it also writes where it packs and names its files as GPTQ or AutoAWQ do.
void read_auto_round_fields(ConfigFields& fields) {
  fields.only("data_type", "int");
  if (const int64_t inputs = fields.integer_or("act_bits", 16, 1, 32); inputs < 16) tell_of_inputs(fields, false);
  name_auto_round_fields(fields);
}

/// What GPTQ, AWQ and AutoRound have in common.
QuantizationScheme read_bits_and_groups(ConfigFields& fields) {
  QuantizationScheme scheme{.has_zeros = true};
  // The second names are those of AutoAWQ's own file.
  scheme.bits = static_cast<int>(fields.integer_or(fields.find("w_bit") && !fields.find("bits") ? "w_bit" : "bits", 4, 1, 16));
  scheme.scale_columns = read_group_size(fields, 128, fields.find("q_group_size") && !fields.find("group_size") ? "q_group_size" : "group_size");
  fields.harmless({"sym", "zero_point", "desc_act"});  // zero points and an order of columns are tensors, whatever they are
  fields.only("pack_dtype", "int32");
  fields.only("is_marlin_format", false);
  fields.only("rotation", nullptr);
  fields.only("method", fields.text_or("quant_method", ""));  // GPTQModel says it twice
  read_auto_round_fields(fields);
  return scheme;
}

/// How a layer's codes were found, or made of its inputs: of no account for what the files hold, as zero points and an order of columns are tensors.
bool is_of_maker(const std::string& setting) {
  constexpr const char* kKnown[]{
      "sym",           "desc_act",         "act_group_aware", "static_groups", "true_sequential",     "mse",         "damp_percent", "act_bits", "act_sym",
      "act_data_type", "act_dynamic",      "act_group_size",  "gptaq",         "damp_auto_increment", "gptaq_alpha", "fallback",     "failsafe", "hessian",
      "super_bits",    "super_group_size", "scale_dtype",     "fixed_by_user", "in_blocks",           "zero_point"};
  return std::find(std::begin(kKnown), std::end(kKnown), setting) != std::end(kKnown);
}

/// GPTQModel's `dynamic` and AutoRound's `extra_config`: settings of some layers, by names or regular expressions, where they are not those of all. Which layer
/// has which is not looked up: the shapes of its tensors tell (code_tensors.cc). Rules of layers that stay as they are say nothing of codes.
void read_rules(ConfigFields& fields, const char* field, const QuantizationScheme& usual, Quantization& quantization) {
  const Json* rules = fields.find(field);
  if (!rules) return;
  if (!rules->is_object()) fields.refuse(field, "must be an object");
  bool rounds_inputs = false;
  for (const auto& [name, rule] : rules->items()) {
    if (name.starts_with("-:")) continue;
    const std::string of = printable(name);
    if (!rule.is_object()) fields.refuse(field, fmt::format("has '{}', which must be an object", of));
    const auto number = [&](const char* setting, int64_t fallback, int64_t low) {
      const Json value = rule.value(setting, Json());
      if (value.is_null()) return fallback;
      const bool is_huge = value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(kMostColumns);
      if (!value.is_number_integer() || is_huge || value < low || value == 0)
        fields.refuse(field, fmt::format("gives '{}' '{}': {}, which flexgen does not read", of, setting, printable(value.dump())));
      return value.get<int64_t>();
    };
    QuantizationScheme scheme = usual;
    const int64_t bits = number("bits", usual.bits, 1);
    if (bits >= 16) continue;  // plain
    scheme.bits = static_cast<int>(bits);
    scheme.scale_columns = std::max<int64_t>(number("group_size", usual.scale_columns == 0 ? -1 : usual.scale_columns, -1), 0);
    for (const auto& [setting, value] : rule.items()) {
      const bool is_usual = setting == "data_type" && value == "int";
      if (setting == "bits" || setting == "group_size" || value.is_null() || is_usual || is_of_maker(setting)) continue;
      fields.refuse(field, fmt::format("gives '{}' '{}': {}, which flexgen does not read", of, printable(setting), printable(value.dump())));
    }
    const Json inputs = rule.value("act_bits", Json());
    rounds_inputs |= inputs.is_number() && inputs < 16;
    add_scheme(quantization, scheme);
  }
  if (rounds_inputs) tell_of_inputs(fields, false);
}

void read_gptq(ConfigFields& fields, Quantization& quantization) {
  const QuantizationScheme scheme = read_bits_and_groups(fields);
  if (scheme.bits != 4 && scheme.bits != 8) fields.refuse("bits", fmt::format("is {}; of GPTQ's flexgen reads 4 and 8", scheme.bits));
  const char* field = fields.find("checkpoint_format") ? "checkpoint_format" : "format";
  fields.find("format");
  const std::string format = lower(fields.text_or(field, "gptq"));
  if (format != "gptq" && format != "gptq_v2") fields.refuse(field, fmt::format("is '{}'; of GPTQ's flexgen reads gptq and gptq_v2", printable(format)));
  quantization.zeros_less_one = format == "gptq";
  quantization.schemes.push_back(scheme);
  read_rules(fields, "dynamic", scheme, quantization);
}

void read_awq(ConfigFields& fields, Quantization& quantization) {
  const QuantizationScheme scheme = read_bits_and_groups(fields);
  if (scheme.bits != 4) fields.refuse("bits", fmt::format("is {}; of AWQ's flexgen reads 4", scheme.bits));
  for (const char* field : {"version", "format", "checkpoint_format"})
    if (const std::string version = lower(fields.text_or(field, "gemm")); version != "gemm")
      fields.refuse(field, fmt::format("is '{}'; of AWQ's flexgen reads gemm", printable(version)));
  quantization.schemes.push_back(scheme);
  read_rules(fields, "dynamic", scheme, quantization);
}

/// Until 0.4 AutoRound called itself intel/auto-round, and said how it packs in the name of the kernels that it meant.
std::string packing_of_kernels(ConfigFields& fields) {
  const std::string kernels = lower(fields.text_or("backend", ""));
  const auto names = [&](const char* part) { return kernels.find(part) != std::string::npos; };
  if (names("gptq") && !names("marlin")) return "auto_round:auto_gptq";
  if (names("awq")) return "auto_round:auto_awq";
  if (kernels.starts_with("auto_round:") && (names("exllamav2") || names("triton"))) return "auto_round";
  fields.refuse("backend", fmt::format("is '{}', by which flexgen does not know how weights are packed; {}", printable(kernels), kTakeAnother));
}

/// AutoRound packs as one of the others does.
void read_auto_round(ConfigFields& fields, Quantization& quantization) {
  const bool is_old = quantization.name == "intel/auto-round" && !fields.find("packing_format");
  const std::string packing = is_old ? packing_of_kernels(fields) : lower(fields.text_or("packing_format", "auto_round:auto_gptq"));
  const QuantizationScheme scheme = read_bits_and_groups(fields);
  fields.only("rotation_configs", nullptr);
  const bool is_awq = packing == "auto_round:auto_awq" || packing == "auto_round:awq";
  const bool is_first = packing == "auto_round:auto_gptq" || packing == "auto_round:gptq",
             is_second = packing == "auto_round" || packing == "auto_round:gptqmodel";
  if (!is_awq && !is_first && !is_second)
    fields.refuse("packing_format",
                  fmt::format("is '{}'; of AutoRound's flexgen reads auto_round:auto_gptq, auto_round:gptqmodel and auto_round:auto_awq", printable(packing)));
  if (scheme.bits != 4 && (is_awq || scheme.bits != 8))
    fields.refuse("bits", fmt::format("is {}; of AutoRound's flexgen reads 4, and packed as GPTQ's 8", scheme.bits));
  quantization.method = is_awq ? Method::kAwq : Method::kGptq;
  quantization.zeros_less_one = is_first;
  quantization.schemes.push_back(scheme);
  read_rules(fields, "extra_config", scheme, quantization);
}

/// The fields of compressed-tensors, which older files have in an object of its own within the field, with the sparsity's beside it.
Json unwrapped(ConfigFields& fields, const char* field, const Json& given) {
  const auto inner = given.find("quantization_config");
  if (given.contains("config_groups") || inner == given.end() || !inner->is_object()) return given;
  if (given.value("quant_method", Json("compressed-tensors")) != "compressed-tensors") return given;
  Json whole = *inner;
  for (const auto& [name, value] : given.items()) {
    if (name == "quantization_config" || value.is_null()) continue;
    if (whole.contains(name) && !whole[name].is_null() && whole[name] != value)
      fields.refuse(field, fmt::format("has an object quantization_config within it, whose '{}' contradicts its own; remove one of them", printable(name)));
    whole[name] = value;
  }
  return whole;
}

struct KnownMethod {
  const char* name;
  Method method;
  void (*read)(ConfigFields&, Quantization&);
};
constexpr KnownMethod kMethods[]{{"fp8", Method::kFp8, read_fp8},
                                 {"fbgemm_fp8", Method::kFp8, read_fbgemm_fp8},
                                 {"modelopt", Method::kModelOpt, read_model_optimizer},
                                 {"compressed-tensors", Method::kCompressedTensors, read_compressed_tensors},
                                 {"gptq", Method::kGptq, read_gptq},
                                 {"awq", Method::kAwq, read_awq},
                                 {"auto-round", Method::kGptq, read_auto_round},
                                 {"intel/auto-round", Method::kGptq, read_auto_round},
                                 {"mxfp4", Method::kMxfp4, read_mxfp4}};

}  // namespace

Quantization read_quantization(ConfigFields& fields) {
  Quantization quantization;
  if (fields.find("quantization")) fields.refuse("quantization", fmt::format("is there, as MLX writes it: codes that flexgen does not read; {}", kTakeAnother));
  const bool is_new = fields.find("quantization_config") != nullptr;
  const char* const field = is_new ? "quantization_config" : "compression_config";
  const Json* given = fields.find(field);
  if (!given) return quantization;
  if (is_new && fields.find("compression_config"))
    fields.refuse("compression_config", "is there beside quantization_config; keep the one that the files are made by");
  if (!given->is_object()) fields.refuse(field, "must be an object");
  const Json whole = unwrapped(fields, field, *given);
  ConfigFields inner = fields.inner(whole, field);
  // Files from before bitsandbytes was one of several methods do not name it.
  const bool is_bitsandbytes = whole.value("load_in_4bit", Json()) == true || whole.value("load_in_8bit", Json()) == true;
  const std::string method = lower(inner.text_or("quant_method", is_bitsandbytes ? "bitsandbytes" : is_new ? "" : "compressed-tensors"));
  const auto* known = std::find_if(std::begin(kMethods), std::end(kMethods), [&](const KnownMethod& one) { return one.name == method; });
  if (known == std::end(kMethods)) {
    std::vector<const char*> names;
    for (const KnownMethod& one : kMethods) names.push_back(one.name);
    fields.refuse(field, fmt::format("is of the quant_method '{}', which flexgen does not read; it reads {}: {}", printable(method), fmt::join(names, ", "),
                                     kTakeAnother));
  }
  if (known->method == Method::kMxfp4 && fields.text_or("model_type", "") != "gpt_oss")
    fields.refuse(field, "is of the quant_method 'mxfp4', which flexgen reads of gpt_oss alone");
  quantization.method = known->method;
  quantization.name = method;
  known->read(inner, quantization);
  name_layer_lists(inner);
  name_makers_fields(inner);
  inner.finish();
  return quantization;
}

}  // namespace flexgen
