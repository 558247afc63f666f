#pragma once
// llama.cpp's architectures as the families that config.json names: a line each in the table of gguf_families.cc. Pure functions.

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "io/checkpoint.h"
#include "model/gguf_fields.h"

namespace flexgen {

/// What differs from one of llama.cpp's architectures to the next.
struct GgufFamily {
  const char *architecture, *model_type;
  /// Rows of a head's q and k have the two of a rotary pair side by side, where Hugging Face has them half a head apart.
  bool pairs_adjoin = false;
  /// Norms' weights are as they are used, where Hugging Face's are less one.
  bool whole_norms = false;
  /// config.json has head_dim, which is not always hidden_size over the heads.
  bool says_head = false;
  bool has_windows = false;
  /// What config.json calls the part of a head that is turned; null: all is.
  const char* partial = nullptr;
  /// LayerNorm, where the others have RMSNorm.
  bool layer_norm = false;
  /// The file says what its norms add to the variance, where Hugging Face's class has a fixed number.
  bool says_epsilon = false;
};

/// The family of a file with this general.architecture and these fields; null: flexgen knows none.
const GgufFamily* find_gguf_family(const std::string& architecture, const nlohmann::json& metadata);
/// "llama, qwen2, ...", for messages.
std::string known_gguf_architectures();

/// Adds to `config`, which has what all families share, the fields that only this one has, or that the file's tensors say. Throws Error{user} naming the field.
void read_own_gguf_fields(GgufFields& fields, std::string_view model_type, const Checkpoint& checkpoint, nlohmann::json& config);

}  // namespace flexgen
