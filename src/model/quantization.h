#pragma once
// What config.json says of weights that are quantized (docs/formats.md): how codes and scales may lie. Which matrices are is what the files say. Pure data; any
// thread.

#include <cstdint>
#include <string>
#include <vector>

namespace flexgen {

class ConfigFields;

/// One way in which matrices of a checkpoint are quantized.
struct QuantizationScheme {
  int bits = 0;
  bool is_float = false;      ///< e4m3 of 8 bits, e2m1 of 4; else whole numbers
  bool has_zeros = false;     ///< zero points are stored
  int64_t scale_rows = 1;     ///< rows that have their scales in common; 0: all
  int64_t scale_columns = 0;  ///< columns that have one in common; 0: all
  bool operator==(const QuantizationScheme&) const = default;
};

/// The `quantization_config` of a checkpoint. Pure data.
struct Quantization {
  enum class Method : uint8_t { kNone, kFp8, kModelOpt, kCompressedTensors, kGptq, kAwq, kMxfp4 };
  Method method = Method::kNone;
  std::string name;  ///< the quant_method, for messages
  std::vector<QuantizationScheme> schemes;
  bool zeros_less_one = false;  ///< GPTQ's first form

  bool there() const { return method != Method::kNone; }
};

/// Reads config.json's quantization_config (or compression_config, as it was once called), if it is there. Throws Error{user} naming the field for methods that
/// flexgen does not read, and for what it does not know or cannot honour. Says in a note where inputs of matrices were meant to be rounded too, which flexgen
/// does not do.
Quantization read_quantization(ConfigFields& fields);

}  // namespace flexgen
