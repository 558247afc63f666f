#pragma once
// WeightFiles: which files of a folder hold a checkpoint's weights, as Hugging Face names them: model.safetensors, or shards with
// model.safetensors.index.json, or a whole set of shards without an index. Reads names and the index alone. Any thread.

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "io/file_system.h"

namespace flexgen {

/// File, relative to the folder -> names of the tensors that the index says it holds (empty without an index).
using WeightFiles = std::map<std::string, std::vector<std::string>>;

/// Throws Error{user} where there are no such files; says what is there instead (a variant, another layout, another program's weights).
WeightFiles find_weight_files(const std::filesystem::path& folder, FileSystem& file_system);

}  // namespace flexgen
