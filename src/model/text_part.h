#pragma once
// Models of text and images or sounds, whose text part is a language model that flexgen runs alone. Pure functions.

#include <nlohmann/json.hpp>
#include <string>

namespace flexgen {

/// Whether config.json is of such a model: all that is the text model's is in an object of its own.
bool holds_text_model(const nlohmann::json& config);

/// The text model's config.json: its object, with what stands beside it for both, and with the sizes that transformers' class of it has where it says none. The rest
/// is of images and sounds, which are not read; a line in the log says so. Throws Error{user} naming `source` where there is no such object.
nlohmann::json text_part(const nlohmann::json& config, const std::string& source);

}  // namespace flexgen
