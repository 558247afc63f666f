#pragma once
// Which files are a model's own, so that nothing is written over them. Looks at names and links alone. Any thread.

#include <string>

namespace flexgen {

/// Whether `path` is a file of `model`, or would be once it is made. `model`: a folder as find_model_folder() gives it, whose own are all weights, JSON files, tokenizers and chat templates in it, by their names;
/// a GGUF with its parts; or a config.json. Also by links and hard links. And whether it is one of another model, which a command need not name (empty: it names none): weights that are there, or by its name in a folder
/// with config.json and weights.
bool is_model_file(const std::string& model, const std::string& path);

}  // namespace flexgen
