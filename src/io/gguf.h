#pragma once
// GGUF (github.com/ggml-org/ggml, docs/gguf.md), versions 2 and 3: metadata, then where each tensor lies. Everything in a file is a claim by a stranger until it is checked here.
// Pure functions of the files.

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "io/file_system.h"
#include "tensor/dtype.h"

namespace flexgen {

/// A tensor as the file's list of tensors has it.
struct GgufTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;     ///< outermost first, as safetensors has it; rows hold whole blocks
  int64_t offset = 0, bytes = 0;  ///< from the start of the file; within it, and apart from all others
};

/// What stands before a GGUF's tensors.
struct GgufHead {
  nlohmann::json metadata = nlohmann::json::object();  ///< by name; texts as the file has them, of whatever bytes
  std::vector<GgufTensor> tensors;                     ///< by offset
  int64_t data_start = 0;
};

/// Whether there is a file that begins as a GGUF does.
bool is_gguf(const std::string& path);

/// The files of a model: the one, or all parts where its name ends with -00001-of-0000N.gguf. Throws Error{user} for a later part, and for one that is missing.
std::vector<std::string> gguf_parts(const std::string& path);

/// Reads what stands before the data. `with_lists` false: lists are checked and left out, as a tokenizer's are long. Throws Error{user} that names the file, and the field or
/// the tensor, for what is truncated, lies or is of a type that flexgen does not read.
GgufHead read_gguf_head(File& file, bool with_lists);

/// The metadata of a model, of its first file.
nlohmann::json gguf_metadata(const std::string& path, bool with_lists);

/// What `name` has; null if there is none. Throws Error{user} naming `source` and the field where it is of another kind.
const nlohmann::json* gguf_field(const nlohmann::json& metadata, const std::string& name);
std::string gguf_text(const nlohmann::json& metadata, const std::string& name, const std::string& source);                 ///< must be there
int64_t gguf_id_or(const nlohmann::json& metadata, const std::string& name, int64_t fallback, const std::string& source);  ///< an index into a list
/// The id that "tokenizer.ggml.NAME" gives, of `count` tokens. One that is no token's (4294967295, as converters write it for what a model lacks) is as good as none:
/// -1, but in a vocabulary of SentencePiece's pieces its own <s> and </s>, as in llama.cpp.
int64_t gguf_token_or_none(const nlohmann::json& metadata, const std::string& name, int64_t count, const std::string& source);
bool gguf_flag_or(const nlohmann::json& metadata, const std::string& name, bool fallback, const std::string& source);

}  // namespace flexgen
