#pragma once
// A GGUF as a model: its metadata as the config.json that the family reads, so that one code judges both, and its tensors under the family's names. Pure functions of the files.

#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "model/config.h"

namespace flexgen {

/// What a GGUF holds, as if it were a folder of Hugging Face's.
struct GgufModel {
  ModelConfig config;
  Checkpoint checkpoint;
};

/// `path`: the file, or the first of its parts. `ignored_fields`: of the architecture's own fields ("llama.NAME") those that the user takes for harmless.
/// Throws Error{user} naming the file, and the field or the tensor, for what is broken, and for architectures, fields and types that flexgen does not know.
GgufModel load_gguf_model(const std::string& path, const std::vector<std::string>& ignored_fields = {});

}  // namespace flexgen
