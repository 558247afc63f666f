#include "model/rope.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/log.h"
#include "io/checked_json.h"
#include "model/family_fields.h"

namespace flexgen {
namespace {

constexpr double kLargest = 1e12;

/// Llama 3's scaling: wavelengths beyond the old context are stretched, short ones kept, those in between blended.
void scale_as_llama3(ConfigFields& rope, int64_t original, std::vector<double>& frequencies) {
  const double factor = rope.positive("factor", kLargest);
  const double low = rope.positive("low_freq_factor", kLargest);
  const double high = rope.positive("high_freq_factor", kLargest);
  const auto old_context = static_cast<double>(original);
  if (!(high > low)) rope.refuse("high_freq_factor", "must be larger than low_freq_factor");
  for (double& frequency : frequencies) {
    const double wavelength = 2 * std::numbers::pi / frequency;
    if (wavelength > old_context / low) {
      frequency /= factor;
    } else if (wavelength >= old_context / high) {
      const double keep = (old_context / wavelength - low) / (high - low);
      frequency = (1 - keep) * frequency / factor + keep * frequency;
    }
  }
}

/// 0 where the file says nothing, or 0, which says no more in transformers either.
double read_mscale(ConfigFields& rope, const char* name) {
  const nlohmann::json* value = rope.find(name);
  return value == nullptr || *value == 0 ? 0 : rope.positive(name, kLargest);
}

/// YaRN: pairs that turn more than beta_fast times within the old context stay, those that turn less than beta_slow times are slowed down, those in between
/// blended. Returns the scale of cosine and sine.
double scale_as_yarn(ConfigFields& rope, int64_t original, int64_t* max_positions, double theta, std::vector<double>& frequencies) {
  const double factor = rope.positive_or("factor", static_cast<double>(*max_positions) / static_cast<double>(original), kLargest);
  // Some files keep the old context in max_position_embeddings.
  *max_positions = std::max<int64_t>(*max_positions, std::llround(std::min(1e9, factor * static_cast<double>(original))));
  const double fast = rope.positive_or("beta_fast", 32, kLargest), slow = rope.positive_or("beta_slow", 1, kLargest);
  for (const char* name : {"attn_factor", "extrapolation_factor"}) rope.only(name, 1);  // transformers reads neither, others do
  const double all_dim = read_mscale(rope, "mscale_all_dim"), own = read_mscale(rope, "mscale");
  auto mscale = [&](double of) { return factor <= 1 ? 1.0 : 0.1 * of * std::log(factor) + 1.0; };
  const double fallback = own != 0 && all_dim != 0 ? mscale(own) / mscale(all_dim) : mscale(1);
  const auto dim = static_cast<double>(2 * frequencies.size());
  auto pair_that_turns = [&](double times) { return dim * std::log(static_cast<double>(original) / (times * 2 * std::numbers::pi)) / (2 * std::log(theta)); };
  double low = pair_that_turns(fast), high = pair_that_turns(slow);
  if (rope.flag_or("truncate", true)) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0), high = std::min(high, dim - 1);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double slowed = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies[i] = frequencies[i] / factor * slowed + frequencies[i] * (1 - slowed);
  }
  return rope.positive_or("attention_factor", fallback, kLargest);
}

/// LongRoPE's factors for sequences no longer than the old context. Returns the scale of cosine and sine.
double scale_as_longrope(ConfigFields& rope, int64_t original, int64_t max_positions, std::vector<double>& frequencies) {
  for (const char* name : {"short_factor", "long_factor"}) {
    const nlohmann::json* factors = rope.find(name);
    const bool good = factors && factors->is_array() && factors->size() == frequencies.size() &&
                      std::all_of(factors->begin(), factors->end(), [](const auto& factor) { return factor.is_number() && factor.template get<double>() > 0; });
    if (!good) rope.refuse(name, fmt::format("must be a list of {} numbers above 0", frequencies.size()));
  }
  const nlohmann::json& factors = *rope.find("short_factor");
  for (size_t i = 0; i < frequencies.size(); ++i) frequencies[i] /= factors[i].get<double>();
  // The ratio counts, as in transformers' Phi-3, unless a factor is given.
  const double factor = rope.positive_or("factor", static_cast<double>(max_positions) / static_cast<double>(original), kLargest);
  const double fallback = factor <= 1 ? 1 : std::sqrt(1 + std::log(factor) / std::log(static_cast<double>(original)));
  return rope.positive_or("attention_factor", fallback, kLargest);
}

/// The object that holds the parameters, and what it is called.
struct Parameters {
  nlohmann::json object = nlohmann::json::object();
  std::string name = "rope_scaling";
};

Parameters find_parameters(ConfigFields& fields, const RopeFields& names) {
  const nlohmann::json* scaling = fields.find("rope_scaling");
  const nlohmann::json* parameters = fields.find("rope_parameters");
  if (scaling && parameters && *scaling != *parameters) fields.refuse("rope_scaling", "contradicts 'rope_parameters'; remove one of them");
  Parameters found;
  if (parameters) found = {*parameters, "rope_parameters"};
  else if (scaling && (names.layer_type.empty() || names.layer_type == "full_attention")) found = {*scaling, "rope_scaling"};
  else if (names.usual != nullptr) found.object = parse_json(names.usual, found.name);
  if (!found.object.is_object()) fields.refuse(found.name, "must be an object");
  const std::string type(names.layer_type);
  if (parameters && !type.empty()) {
    for (const auto& [key, value] : found.object.items())
      if (key != "full_attention" && key != "sliding_attention")
        fields.refuse(found.name, fmt::format("must have an object for full_attention and one for sliding_attention, and has '{}'", key));
    nlohmann::json inner = found.object.contains(type) ? found.object[type] : nlohmann::json();
    if (inner.is_null()) inner = nlohmann::json::object();
    if (!inner.is_object()) fields.refuse(found.name, "must hold objects");
    found = {inner, found.name + "." + type};
  }
  return found;
}

}  // namespace

Rope read_rope(ConfigFields& fields, ModelConfig& config, const RopeFields& names) {
  if (!names.may_be_partial) fields.only(names.partial_name, 1.0);
  double theta = fields.positive_or(names.theta_name, names.theta, kLargest), partial = fields.positive_or(names.partial_name, names.partial, 1);
  const int64_t of_file = fields.integer_or("original_max_position_embeddings", names.original, 1, int64_t{1} << 31);
  const Parameters parameters = find_parameters(fields, names);
  const std::string& name = parameters.name;
  ConfigFields rope = fields.inner(parameters.object, name);
  if (rope.find("rope_theta")) {
    const double inner = rope.positive("rope_theta", kLargest);
    if (fields.find(names.theta_name) && inner != theta) fields.refuse(names.theta_name, fmt::format("contradicts the one in '{}'; remove one of them", name));
    theta = inner;
  }
  if (!names.may_be_partial) rope.only("partial_rotary_factor", 1.0);
  if (rope.find("partial_rotary_factor")) {
    const double inner = rope.positive("partial_rotary_factor", 1);
    if (fields.find(names.partial_name) && inner != partial)
      fields.refuse(names.partial_name, fmt::format("contradicts the one in '{}'; remove one of them", name));
    partial = inner;
  }
  const auto check_same = [&](const char* too, const char* of, double value) {
    if (too != nullptr && fields.find(too) && fields.positive(too, kLargest) != value)
      fields.refuse(
          too, fmt::format("is not {}, which {} '{}'; remove one of them", value, fields.contains(of) ? "the file says by" : "counts in the absence of", of));
  };
  check_same(names.theta_too, names.theta_name, theta);
  check_same(names.partial_too, names.partial_name, partial);
  const int64_t head_size = names.head_size > 0 ? names.head_size : config.head_size;
  auto turned = static_cast<int64_t>(static_cast<double>(head_size) * partial);
  if (turned % 2 != 0 || turned == 0)
    fields.refuse(partial == 1 ? "head_dim" : names.partial_name, fmt::format("makes {} elements of a head turn; RoPE needs an even number", turned));

  std::string kind = rope.text_or("rope_type", rope.text_or("type", "default"));
  if (names.su_is_longrope && (kind == "su" || kind == "yarn")) kind = "longrope";
  const bool proportional = names.may_be_proportional && kind == "proportional";
  const auto num_turned_pairs = static_cast<size_t>(turned / 2);
  if (proportional && head_size % 2 == 0) turned = head_size;  // all pairs have angles, and most of them stay 0
  else if (names.may_be_proportional && partial != 1)
    fields.refuse(name,
                  fmt::format("turns a part of heads of {} by the type '{}'; flexgen does so by 'proportional' alone, of an even number", head_size, kind));
  // The file's own field counts where both are there, as in transformers' Phi-3.
  const int64_t inner_original = rope.integer_or("original_max_position_embeddings", config.max_positions, 1, int64_t{1} << 31);
  const int64_t original = of_file > 0 ? of_file : inner_original;
  if (kind == "default") rope.only("factor", 1);
  if (names.has_alpha && kind == "dynamic" && rope.find("alpha")) {
    theta *= std::pow(rope.positive("alpha", kLargest), static_cast<double>(turned) / static_cast<double>(turned - 2));
    rope.harmless({"factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"});  // not read by transformers' class either
    kind = "default";
  }
  rope.harmless({"finetuned"});  // whether the model was trained further with the longer context
  std::vector<double> frequencies(static_cast<size_t>(turned / 2));
  for (size_t i = 0; i < num_turned_pairs; ++i) frequencies[i] = std::pow(theta, -static_cast<double>(2 * i) / static_cast<double>(turned));
  Rope result;
  const auto stop_at = [&](int64_t positions) { hold_to_positions(fields, config, fmt::format("'{}' of type {} has other rules", name, kind), positions); };
  if (kind == "linear" || proportional) {
    const double factor = proportional ? rope.positive_or("factor", 1, kLargest) : rope.positive("factor", kLargest);
    for (double& frequency : frequencies) frequency /= factor;
  } else if (kind == "llama3") {
    scale_as_llama3(rope, original, frequencies);
  } else if (kind == "yarn") {
    result.scale = static_cast<float>(scale_as_yarn(rope, original, &config.max_positions, theta, frequencies));
  } else if (kind == "longrope") {
    result.scale = static_cast<float>(scale_as_longrope(rope, original, config.max_positions, frequencies));
    if (names.has_mscales) {
      result.scale = static_cast<float>(rope.positive("short_mscale", kLargest));
      rope.positive("long_mscale", kLargest);  // beyond the old context
    }
    stop_at(original);
  } else if (kind == "dynamic") {
    rope.positive("factor", kLargest);  // counts beyond max_position_embeddings alone
  } else if (kind != "default") {
    fields.refuse(name, fmt::format("has the type '{}'; flexgen supports default, linear, dynamic, yarn, longrope and llama3", kind));
  }
  if (const nlohmann::json* growth = names.grows_queries ? rope.find("llama_4_scaling_beta") : nullptr) {
    rope.find("max_position_embeddings");  // said twice
    if (*growth != 0) {                    // queries grow beyond the old context; by 0 they stay (Devstral 2)
      rope.positive("llama_4_scaling_beta", kLargest);
      stop_at(original);
    }
  }
  rope.finish();
  result.inverse_frequencies.assign(frequencies.begin(), frequencies.end());
  return result;
}

}  // namespace flexgen
