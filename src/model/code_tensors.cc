#include "model/code_tensors.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/units.h"
#include "io/checked_json.h"

namespace flexgen {
namespace {

using Method = Quantization::Method;
using Sizes = std::vector<int64_t>;

/// "NAME" of "NAME.weight"; empty for another.
std::string stem_of(const std::string& name) {
  constexpr std::string_view kEnd = ".weight";
  return name.ends_with(kEnd) ? name.substr(0, name.size() - kEnd.size()) : "";
}

/// Finds the tensors of one matrix and puts them together.
class Finder {
 public:
  Finder(const Checkpoint& checkpoint, const Quantization& quantization, const std::string& name, const WantedWeight& wanted, const std::string& source)
      : checkpoint_(checkpoint), quantization_(quantization), name_(name), stem_(stem_of(name)), wanted_(wanted), source_(source),
        slice_rows_(wanted.part_of > 0 ? wanted.part_of : wanted.rows), rows_(slice_rows_ * std::max<int64_t>(wanted.slices, 1)), cols_(wanted.cols) {}

  std::optional<FoundCodes> find() {
    if (wanted_.mxfp4) return blocks_and_scales();
    if (stem_.empty()) return std::nullopt;
    if (const TensorLocation* plain = checkpoint_.find_coded(name_)) {
      const bool is_fp4 = plain->stored_as == "U8" && quantization_.method == Method::kModelOpt;
      if (plain->stored_as != "F8_E4M3" && plain->stored_as != "I8" && !is_fp4) return std::nullopt;
      check_wanted(*plain, name_);
      if (is_fp4) return by_rows(DType::kFp4, name_, *plain, 4, true);
      const bool is_float = plain->stored_as == "F8_E4M3";
      return by_rows(is_float ? DType::kFp8 : DType::kCodes8, name_, *plain, 8, is_float);
    }
    if (const std::string name = stem_ + ".weight_packed"; const TensorLocation* packed = checkpoint_.find_coded(name)) {
      check_wanted(*packed, name);
      return packed->stored_as == "U8" ? by_rows(DType::kFp4, name, *packed, 4, true) : words_by_rows(name, *packed);
    }
    if (const std::string name = stem_ + ".qweight"; const TensorLocation* words = checkpoint_.find_coded(name)) {
      check_wanted(*words, name);
      return by_columns(name, *words);
    }
    return std::nullopt;
  }

 private:
  [[noreturn]] void refuse(const std::string& tensor, const std::string& why) const { fail_user("{}: the tensor '{}' {}", source_, printable(tensor), why); }
  void check_shape(const std::string& tensor, const TensorLocation& at, const Sizes& shape, const char* what) const {
    if (at.shape != shape)
      refuse(tensor, fmt::format("has the shape [{}], where {} of a matrix [{}, {}] need [{}]; they do not belong together", fmt::join(at.shape, ", "), what,
                                 rows_, cols_, fmt::join(shape, ", ")));
  }
  void check_type(const std::string& tensor, const TensorLocation& at, const char* type) const {
    if (at.stored_as != type)
      refuse(tensor, fmt::format("is {}, where {} is wanted; the file is broken, fetch it again",
                                 at.stored_as.empty() ? std::string(dtype_name(at.dtype)) : at.stored_as, type));
  }

  /// Whether such a weight may be quantized at all.
  void check_wanted(const TensorLocation& codes, const std::string& tensor) const {
    if (!quantization_.there())
      refuse(
          tensor,
          fmt::format(
              "is {}, codes of a quantized matrix, and config.json has no quantization_config that says how they are meant; fetch config.json again (where a file quantize_config.json or quant_config.json says "
              "it: put what that holds into config.json as quantization_config, with \"quant_method\": \"gptq\" or \"awq\")",
              codes.stored_as));
    if (wanted_.kind != WantedWeight::Kind::kMatrix)
      refuse(tensor, "is quantized, where flexgen reads F32, F16 and BF16 (embeddings, norms, biases, small tables)");
    if (wanted_.turned) refuse(tensor, "is quantized and transposed, which flexgen does not read; take the checkpoint that was not quantized");
    if (codes.shape.size() == 3)
      refuse(
          tensor,
          "has 3 dimensions: quantized experts in one stack, which flexgen does not read; take a checkpoint with a tensor for each expert, or the one that was not quantized");
    if (codes.shape.size() != 2) refuse(tensor, fmt::format("has {} dimensions, where codes have two; the file is broken, fetch it again", codes.shape.size()));
  }

  const TensorLocation& needed(const std::string& tensor) const {
    const TensorLocation* at = optional(tensor);
    if (!at) refuse(tensor, "is missing; fetch the checkpoint again");
    return *at;
  }
  const TensorLocation* optional(const std::string& tensor) const {
    const TensorLocation* at = checkpoint_.find(tensor);
    return at ? at : checkpoint_.find_coded(tensor);
  }

  ScaleType scale_type(const std::string& tensor, const TensorLocation& at) const {
    if (at.stored_as.empty()) return at.dtype == DType::kF32 ? ScaleType::kF32 : at.dtype == DType::kF16 ? ScaleType::kF16 : ScaleType::kBF16;
    if (at.stored_as == "F8_E4M3") return ScaleType::kE4M3;
    if (at.stored_as == "F8_E8M0" || at.stored_as == "U8") return ScaleType::kE8M0;
    refuse(tensor, fmt::format("is {}, which are no scales; the file is broken, fetch it again", at.stored_as));
  }

  void put(CodePart part, const std::string& tensor, const TensorLocation& at, int64_t rows, int64_t rows_each) {
    tensors_.beside[part] = {tensor, at.file, at.offset, rows, at.bytes / std::max<int64_t>(rows, 1), rows_each};
    if (rows_each > 0) tensors_.grain_rows = std::lcm(tensors_.grain_rows, rows_each);
    found_.names.push_back(tensor);
  }

  /// Of config.json's schemes the one with which scales of this shape make sense; of several the one that has zero points or not, as the files do.
  QuantizationScheme scheme_of(const std::string& tensor, const TensorLocation& scales, int bits, bool is_float) const {
    const bool has_zeros = optional(stem_ + ".weight_zero_point") != nullptr;
    const QuantizationScheme* fitting = nullptr;
    std::set<std::string> shapes;  // of a small matrix two schemes may ask for the same
    const auto means_the_same = [](int64_t one, int64_t other, int64_t count) { return one == other || count == 1; };
    for (const QuantizationScheme& scheme : quantization_.schemes) {
      if (scheme.bits != bits || scheme.is_float != is_float) continue;
      const int64_t in_rows = scheme.scale_rows == 0 ? 1 : ceil_div(rows_, scheme.scale_rows),
                    in_columns = scheme.scale_columns == 0 ? 1 : ceil_div(cols_, scheme.scale_columns);
      Sizes shape = scales.shape;
      if (in_columns == 1 && shape.size() == 1) shape.push_back(1);
      if (shape.empty()) shape = {1, 1};
      if (shape == Sizes{in_rows, in_columns}) {
        if (fitting &&
            !(means_the_same(fitting->scale_columns, scheme.scale_columns, in_columns) && means_the_same(fitting->scale_rows, scheme.scale_rows, in_rows)))
          refuse(
              tensor,
              fmt::format("fits two settings of config.json's quantization_config, with scales for {} and for {} columns; flexgen cannot tell which is meant",
                          fitting->scale_columns, scheme.scale_columns));
        if (!fitting || (scheme.has_zeros == has_zeros && fitting->has_zeros != has_zeros)) fitting = &scheme;
      }
      shapes.insert(fmt::format("[{}, {}]", in_rows, in_columns));
    }
    if (fitting) return *fitting;
    if (shapes.empty())
      refuse(name_, fmt::format("is quantized to {} of {} bits, of which config.json's quantization_config ({}) says nothing; they do not belong together",
                                is_float ? "floats" : "whole numbers", bits, quantization_.name));
    refuse(tensor, fmt::format("has the shape [{}], where config.json's quantization_config asks for {} with a matrix [{}, {}]; they do not belong together",
                               fmt::join(scales.shape, ", "), fmt::join(shapes, " or "), rows_, cols_));
  }

  std::string scale_name() const {
    const std::string inverse = stem_ + ".weight_scale_inv";  // DeepSeek's; it is multiplied by all the same
    return optional(inverse) ? inverse : stem_ + ".weight_scale";
  }

  /// gpt-oss's MXFP4: in a tensor each for the experts of a block, or for one matrix.
  std::optional<FoundCodes> blocks_and_scales() {
    constexpr int64_t kBlock = 32;
    const std::string tensor = name_ + "_blocks", scales = name_ + "_scales";
    const TensorLocation* codes = checkpoint_.find_coded(tensor);
    if (!codes) return std::nullopt;
    if (cols_ % kBlock != 0) refuse(tensor, fmt::format("has rows of {} codes, no multiple of {}, which flexgen does not read", cols_, kBlock));
    Sizes shape{slice_rows_, cols_ / kBlock};
    if (wanted_.slices > 0) shape.insert(shape.begin(), wanted_.slices);
    const TensorLocation& scales_at = needed(scales);
    check_type(scales, scales_at, "U8");
    check_shape(scales, scales_at, shape, "scales");
    shape.push_back(kBlock / 2);
    check_type(tensor, *codes, "U8");
    check_shape(tensor, *codes, shape, "codes");
    found_.names.push_back(tensor);
    tensors_.format = {.scale_type = ScaleType::kE8M0, .scale_columns = kBlock, .num_groups = cols_ / kBlock};
    put(kScales, scales, scales_at, rows_, 1);
    return finish(DType::kFp4, *codes);
  }

  /// Codes whose rows lie together, with scales [rows / scale_rows, groups].
  FoundCodes by_rows(DType dtype, const std::string& tensor, const TensorLocation& codes, int bits, bool is_float) {
    if (quantization_.method == Method::kGptq || quantization_.method == Method::kAwq)
      refuse(tensor, fmt::format("is {}, which does not belong to the quant_method '{}' of config.json", codes.stored_as, quantization_.name));
    const int64_t per_byte = dtype == DType::kFp4 ? 2 : 1;
    if (cols_ % per_byte != 0) refuse(tensor, fmt::format("has rows of {} codes, an odd number, which flexgen does not read", cols_));
    check_shape(tensor, codes, {rows_, cols_ / per_byte}, "codes");
    found_.names.push_back(tensor);
    add_scales(bits, is_float);
    if (dtype == DType::kFp4 && tensors_.format.scale_type == ScaleType::kE4M3) {
      const bool is_model_optimizer = quantization_.method == Method::kModelOpt;
      const std::string global = stem_ + (is_model_optimizer ? ".weight_scale_2" : ".weight_global_scale");
      const TensorLocation& at = needed(global);
      if (at.bytes != 4 || !at.stored_as.empty()) refuse(global, "is no single number in F32; the file is broken, fetch it again");
      put(kGlobal, global, at, 1, 0);
      tensors_.format.has_global = true;
      tensors_.format.global_multiplies = is_model_optimizer;
    } else if (optional(stem_ + ".weight_global_scale")) {
      refuse(stem_ + ".weight_global_scale", "is there beside scales that need none; the file is broken, fetch it again");
    }
    if (optional(stem_ + ".pre_quant_scale"))
      refuse(stem_ + ".pre_quant_scale", "is there: inputs of the matrix are multiplied before it, which flexgen does not do");
    if (optional(stem_ + ".weight_zero_point") && dtype != DType::kPacked4)
      refuse(stem_ + ".weight_zero_point", "is there; flexgen reads zero points of weights in words (pack-quantized) alone");
    return finish(dtype, codes);
  }

  void add_scales(int bits, bool is_float) {
    const std::string name = scale_name();
    const TensorLocation& at = needed(name);
    scheme_ = scheme_of(name, at, bits, is_float);
    CodeFormat& format = tensors_.format;
    format.scale_type = scale_type(name, at);
    format.scale_rows = scheme_.scale_rows;
    format.scale_columns = scheme_.scale_columns;
    format.num_groups = groups_of(scheme_);
    put(kScales, name, at, scheme_.scale_rows == 0 ? 1 : ceil_div(rows_, scheme_.scale_rows), scheme_.scale_rows);
  }

  /// compressed-tensors' pack-quantized.
  FoundCodes words_by_rows(const std::string& tensor, const TensorLocation& codes) {
    check_type(tensor, codes, "I32");
    if (quantization_.method != Method::kCompressedTensors)
      refuse(tensor, fmt::format("does not belong to the quant_method '{}' of config.json", quantization_.name));
    const DType dtype = codes.shape[1] == ceil_div(cols_, int64_t{4}) ? DType::kPacked8 : DType::kPacked4;
    const int64_t per_word = codes_per_word(dtype);
    check_shape(tensor, codes, {rows_, ceil_div(cols_, per_word)}, "codes");
    found_.names.push_back(tensor);
    add_scales(static_cast<int>(32 / per_word), false);
    CodeFormat& format = tensors_.format;
    if (const std::string zeros = stem_ + ".weight_zero_point"; scheme_.has_zeros || optional(zeros)) {
      const TensorLocation& at = needed(zeros);
      if (!scheme_.has_zeros) refuse(zeros, "is there, and config.json's quantization_config says that weights are symmetric; they do not belong together");
      check_type(zeros, at, "I32");
      check_shape(zeros, at, {ceil_div(rows_, per_word), format.num_groups}, "zero points");
      put(kZeros, zeros, at, at.shape[0], per_word);
      format.has_zeros = true;
    }
    add_order(stem_ + ".weight_g_idx");
    return finish(dtype, codes);
  }

  void add_order(const std::string& order) {
    const TensorLocation* at = optional(order);
    if (!at) return;
    check_type(order, *at, "I32");
    check_shape(order, *at, {cols_}, "the groups of columns");
    put(kOrder, order, *at, 1, 0);
    tensors_.format.has_order = true;
  }

  /// Of config.json's schemes the one that codes and scales of such shapes are of, where layers have bits or groups of their own. Names are not asked: what the
  /// file holds decides.
  QuantizationScheme scheme_of_columns(const std::string& tensor, const TensorLocation& codes) const {
    const bool is_awq = quantization_.method == Method::kAwq;
    const int64_t words = codes.shape[is_awq ? 1 : 0], elements = is_awq ? rows_ : cols_;
    const int64_t bits = 32 * words % elements == 0 ? 32 * words / elements : 0;
    const TensorLocation& scales = needed(stem_ + ".scales");
    const int64_t groups = scales.shape.empty() ? 0 : scales.shape[0];
    std::vector<QuantizationScheme> of_bits, fitting;
    for (const QuantizationScheme& scheme : quantization_.schemes) {
      if (scheme.bits != bits) continue;
      of_bits.push_back(scheme);
      if (groups_of(scheme) == groups) fitting.push_back(scheme);
    }
    if (of_bits.empty()) return quantization_.schemes.front();  // whose shapes are told
    if (bits != 4 && (is_awq || bits != 8))
      refuse(tensor, fmt::format("holds codes of {} bits, as config.json says of this layer; of the quant_method '{}' flexgen reads {}", bits,
                                 quantization_.name, is_awq ? "4" : "4 and 8"));
    if (fitting.empty()) return of_bits.front();
    if (fitting.size() > 1 && groups > 1 && !optional(stem_ + ".g_idx"))
      refuse(tensor, fmt::format("has {} groups, which config.json allows to be of {} or {} columns; flexgen does not read such ones", groups,
                                 fitting[0].scale_columns, fitting[1].scale_columns));
    return fitting.front();
  }
  int64_t groups_of(const QuantizationScheme& scheme) const { return scheme.scale_columns == 0 ? 1 : ceil_div(cols_, scheme.scale_columns); }

  /// GPTQ's and AWQ's, which are [in, out].
  FoundCodes by_columns(const std::string& tensor, const TensorLocation& codes) {
    check_type(tensor, codes, "I32");
    const bool is_awq = quantization_.method == Method::kAwq;
    if (!is_awq && quantization_.method != Method::kGptq)
      refuse(tensor, fmt::format("does not belong to the quant_method '{}' of config.json", quantization_.name));
    scheme_ = scheme_of_columns(tensor, codes);
    const DType dtype = is_awq ? DType::kAwq4 : scheme_.bits == 8 ? DType::kGptq8 : DType::kGptq4;
    const int64_t per_word = codes_per_word(dtype);
    if (rows_ % per_word != 0 || cols_ % per_word != 0)
      refuse(tensor, fmt::format("is of a matrix [{}, {}], whose sizes are no multiples of {}", rows_, cols_, per_word));
    check_shape(tensor, codes, is_awq ? Sizes{cols_, rows_ / per_word} : Sizes{cols_ / per_word, rows_}, "codes");
    found_.names.push_back(tensor);
    CodeFormat& format = tensors_.format;
    format.scale_columns = scheme_.scale_columns;
    format.num_groups = groups_of(scheme_);
    format.stored_rows = rows_;
    format.has_zeros = true;
    format.zeros_less_one = quantization_.zeros_less_one;
    const std::string scales = stem_ + ".scales", zeros = stem_ + ".qzeros";
    const TensorLocation& scales_at = needed(scales);
    check_shape(scales, scales_at, {format.num_groups, rows_}, "scales");
    format.scale_type = scale_type(scales, scales_at);
    put(kScales, scales, scales_at, format.num_groups, 0);
    const TensorLocation& zeros_at = needed(zeros);
    check_type(zeros, zeros_at, "I32");
    check_shape(zeros, zeros_at, {format.num_groups, rows_ / per_word}, "zero points");
    put(kZeros, zeros, zeros_at, format.num_groups, 0);
    if (!is_awq) add_order(stem_ + ".g_idx");
    tensors_.grain_rows = rows_;
    if (wanted_.part_of > 0 && wanted_.slices == 0) {
      if (wanted_.part_first % per_word != 0 || wanted_.rows % per_word != 0)
        refuse(tensor, fmt::format("holds several matrices, of which one begins at row {} and has {}; flexgen reads such that lie at multiples of {}",
                                   wanted_.part_first, wanted_.rows, per_word));
      tensors_.part_first = wanted_.part_first;
      tensors_.part_rows = wanted_.rows;
      tensors_.grain_rows = wanted_.rows;
    }
    return finish(dtype, codes);
  }

  FoundCodes finish(DType dtype, const TensorLocation& codes) {
    found_.dtype = dtype;
    found_.file = codes.file;
    found_.offset = codes.offset;
    if (const int64_t first = wanted_.slice * slice_rows_ + wanted_.part_first; first > 0 && tensors_.part_rows == 0) {
      if (first % tensors_.grain_rows != 0)
        refuse(name_,
               fmt::format("holds several matrices, of which one begins at row {}, within {} rows that are quantized together; flexgen does not read such ones",
                           first, tensors_.grain_rows));
      found_.offset += first * row_bytes(dtype, cols_);
      for (TensorBeside& tensor : tensors_.beside)
        if (tensor.rows_each > 0) tensor.offset += first / tensor.rows_each * tensor.row_bytes;
    }
    if (wanted_.part_of > 0 || wanted_.slices > 0)
      for (TensorBeside& tensor : tensors_.beside)
        if (tensor.rows_each > 0) tensor.rows = ceil_div(wanted_.rows, tensor.rows_each);
    // What is of use to other programs alone, or of the inputs.
    for (const char* other :
         {".input_scale", ".input_global_scale", ".input_zero_point", ".output_scale", ".weight_shape", ".activation_scale", ".input_scale_ub"})
      found_.names.push_back(stem_ + other);
    found_.tensors = std::make_shared<const CodeTensors>(tensors_);
    return found_;
  }

  const Checkpoint& checkpoint_;
  const Quantization& quantization_;
  const std::string& name_;
  const std::string stem_;
  const WantedWeight& wanted_;
  const std::string& source_;
  int64_t slice_rows_, rows_, cols_;  ///< of the whole tensor: of each matrix in it, of all of them, and of a row
  QuantizationScheme scheme_;
  CodeTensors tensors_;
  FoundCodes found_;
};

}  // namespace

std::pair<int64_t, int64_t> TensorBeside::range(int64_t first, int64_t count) const {
  if (count == 0 || rows == 0) return {offset, 0};
  if (rows_each == 0) return {offset, bytes()};
  FLEXGEN_CHECK(first % rows_each == 0, "{}: row {} lies within {} that belong together", name, first, rows_each);
  const int64_t begin = first / rows_each, end = ceil_div(first + count, rows_each);
  return {offset + begin * row_bytes, (end - begin) * row_bytes};
}

int64_t CodeTensors::bytes() const {
  int64_t sum = 0;
  for (size_t part = 0; part < beside.size(); ++part) {
    const int64_t whole = beside[part].bytes();
    sum += part_rows == 0 ? whole : part == kOrder ? (part_first == 0 ? whole : 0) : whole * part_rows / format.stored_rows;
  }
  return sum;
}

WeightPiece CodeTensors::part_of(DType dtype, const WeightPiece& whole) const {
  FLEXGEN_CHECK(part_rows > 0 && part_first % codes_per_word(dtype) == 0, "row {} of {}", part_first, dtype_name(dtype));
  const int64_t words = part_first / codes_per_word(dtype);
  WeightPiece part = whole;
  part.rows = part_rows;
  part.data += 4 * (dtype == DType::kAwq4 ? words : part_first);
  part.beside[kScales] += part_first * scale_bytes(format.scale_type);
  part.beside[kZeros] += 4 * words;
  return part;
}

std::optional<FoundCodes> find_codes(const Checkpoint& checkpoint, const Quantization& quantization, const std::string& name, const WantedWeight& wanted,
                                     const std::string& source) {
  return Finder(checkpoint, quantization, name, wanted, source).find();
}

bool has_weight(const Checkpoint& checkpoint, const std::string& name) {
  if (checkpoint.find(name) || checkpoint.find_coded(name) || checkpoint.find_coded(name + "_blocks")) return true;
  const std::string stem = stem_of(name);
  return !stem.empty() && (checkpoint.find_coded(stem + ".weight_packed") || checkpoint.find_coded(stem + ".qweight"));
}

}  // namespace flexgen
