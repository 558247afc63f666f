#include "model/rope.h"

#include <fmt/format.h>

#include <cmath>
#include <numbers>

namespace flexgen {
namespace {

constexpr double kLargest = 1e12;

/// Llama 3's scaling: wavelengths beyond the old context are stretched, short ones kept, those in between blended.
void scale_as_llama3(ConfigFields& rope, std::vector<double>& frequencies) {
  const double factor = rope.positive("factor", kLargest);
  const double low = rope.positive("low_freq_factor", kLargest);
  const double high = rope.positive("high_freq_factor", kLargest);
  const auto old_context =
      static_cast<double>(rope.integer("original_max_position_embeddings", 1, int64_t{1} << 31));
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

}  // namespace

std::vector<float> read_rope(ConfigFields& fields, int64_t head_size) {
  if (head_size % 2 != 0)
    fields.refuse("head_dim", fmt::format("is {}; RoPE needs an even head size", head_size));
  double theta = fields.positive_or("rope_theta", 10000.0, kLargest);
  fields.only("partial_rotary_factor", 1.0);

  const nlohmann::json* scaling = fields.find("rope_scaling");
  const nlohmann::json* parameters = fields.find("rope_parameters");
  if (scaling && parameters && *scaling != *parameters)
    fields.refuse("rope_scaling", "contradicts 'rope_parameters'; remove one of them");
  const char* name = parameters ? "rope_parameters" : "rope_scaling";
  const nlohmann::json empty = nlohmann::json::object();
  const nlohmann::json& object = parameters ? *parameters : scaling ? *scaling : empty;
  if (!object.is_object()) fields.refuse(name, "must be an object");

  ConfigFields rope = fields.inner(object, name);
  if (rope.find("rope_theta")) {
    const double inner = rope.positive("rope_theta", kLargest);
    if (fields.find("rope_theta") && inner != theta)
      fields.refuse("rope_theta", fmt::format("contradicts the one in '{}'; remove one of them", name));
    theta = inner;
  }
  rope.only("partial_rotary_factor", 1.0);
  const std::string type = rope.text_or("type", "default");
  const std::string kind = rope.text_or("rope_type", type);

  std::vector<double> frequencies(static_cast<size_t>(head_size / 2));
  for (size_t i = 0; i < frequencies.size(); ++i)
    frequencies[i] = std::pow(theta, -static_cast<double>(2 * i) / static_cast<double>(head_size));
  if (kind == "linear") {
    const double factor = rope.positive("factor", kLargest);
    for (double& frequency : frequencies) frequency /= factor;
  } else if (kind == "llama3") {
    scale_as_llama3(rope, frequencies);
  } else if (kind != "default") {
    fields.refuse(name, fmt::format("has the type '{}'; flexgen supports default, linear and llama3", kind));
  }
  rope.finish();
  return {frequencies.begin(), frequencies.end()};
}

}  // namespace flexgen
