#pragma once
// Checkpoint: where each tensor of a Hugging Face directory lies: model.safetensors, or the shards named by
// model.safetensors.index.json; or of a GGUF. Headers are checked whole before anything is believed. Const after open().

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "io/file_stamp.h"
#include "io/file_system.h"
#include "tensor/dtype.h"

namespace flexgen {

/// Where a tensor's bytes lie, and what they are.
struct TensorLocation {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  int file = 0;        ///< index into Checkpoint::files()
  int64_t offset = 0;  ///< bytes from the start of the file
  int64_t bytes = 0;
  std::string stored_as = {};  ///< of a type that has no DType of its own, what safetensors calls it: "I32", "F8_E4M3"; dtype says nothing then
};

/// A tensor, or a part of one, under a name.
struct NamedTensor {
  std::string name;
  TensorLocation at;
};

/// Of a tensor [n, ...] the n tensors [...] that lie one after the other in it.
std::vector<TensorLocation> slices_of(const TensorLocation& tensor);

/// A tensor of a file that is made, without its bytes.
struct TensorToWrite {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::string stored_as = {};  ///< the format's name of a type of as many bytes, where the header is to name another
};

/// What its data take. A quantized one is rows of bytes, along its last dimension.
int64_t bytes_of(const TensorToWrite& tensor);

class Checkpoint {
 public:
  /// Throws Error{user} that names file and tensor for: no weights there, a missing shard, a header that is truncated,
  /// huge, not JSON or lying (offsets out of bounds, overlapping or with holes, shape that does not match the
  /// bytes, unknown dtype; tensors of integers and of 8 bits are in coded() alone). Throws Error{io} for files that cannot be read.
  static Checkpoint open(const std::string& directory);
  static Checkpoint open(const std::string& directory, FileSystem& file_system);

  /// A GGUF, one file or the first of its parts; names are the file's own. *metadata: what io/gguf.h reads of the first. Throws as open() and gguf.h do.
  static Checkpoint open_gguf(const std::string& path, nlohmann::json* metadata);
  /// Puts others in the place of each tensor: it under another name, its parts, or none. Before anybody has looked at them. Throws Error{user} where two would have one name.
  void replace_each(const std::function<std::vector<NamedTensor>(const std::string& name, const TensorLocation& at)>& others);

  /// A checkpoint that need not exist: these tensors one after the other in one file of that name. For planning and simulations.
  static Checkpoint imagined(const std::vector<TensorToWrite>& tensors, const std::string& file_name);

  const std::vector<std::string>& files() const { return files_; }
  /// Of each file, before anything of it was read; none if it is imagined.
  const std::vector<FileStamp>& stamps() const { return stamps_; }
  const std::map<std::string, TensorLocation>& tensors() const { return tensors_; }
  /// Null if there is none of that name.
  const TensorLocation* find(const std::string& name) const;
  /// Tensors of types that mean something only together with others, such as codes of quantized weights.
  const std::map<std::string, TensorLocation>& coded() const { return coded_; }
  const TensorLocation* find_coded(const std::string& name) const;
  /// Identifies the content: file names, sizes, headers, and samples of the weights' bytes, of each tensor but those of single experts, as two fine-tunes of
  /// one model differ in nothing else, and maybe in few tensors. 32 hex digits.
  const std::string& fingerprint() const { return fingerprint_; }

 private:
  std::vector<std::string> files_;
  std::vector<FileStamp> stamps_;
  std::map<std::string, TensorLocation> tensors_, coded_;
  std::string fingerprint_;
};

/// Parses one safetensors header: `header` is the JSON text, `data_start` = 8 + its length. Exposed for
/// the fuzz target. `file_name` is for messages. Tensors that have no DType go to *coded.
std::map<std::string, TensorLocation> parse_safetensors_header(const std::string& header, int64_t data_start, int64_t file_bytes, const std::string& file_name,
                                                               std::map<std::string, TensorLocation>* coded = nullptr);

/// What such a file starts with, up to its data: the length of the header and the header. Quantized tensors stand in it as rows of
/// bytes (U8). *data_bytes: how many bytes follow. `metadata`: texts for its __metadata__.
std::string safetensors_head(const std::vector<TensorToWrite>& tensors, int64_t* data_bytes, const std::map<std::string, std::string>& metadata = {});

/// Writes a safetensors file piece by piece: header first, then the tensors' bytes in order, without holding
/// more than the caller's piece and 16 MiB in memory, off the page cache. The file is a PartialFile until close(), so that
/// a killed write leaves nothing that looks like a checkpoint. One thread. Throws Error{io}: a full disk before the
/// first byte is written.
class SafetensorsWriter {
 public:
  /// `file_system` null: the real one.
  SafetensorsWriter(const std::string& path, const std::vector<TensorToWrite>& tensors, FileSystem* file_system = nullptr,
                    const std::map<std::string, std::string>& metadata = {});
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;
  void append(const void* data, int64_t bytes);
  /// Checks that all bytes came, syncs, and gives the file its name, whatever has that now.
  void close();
  /// The same unless a file of that name is there: false then, and it may be called again. What it has written goes with the writer.
  bool close_if_new();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// What this process has written so in all: a disk is busy with much of it for long after it has taken it. Any thread.
int64_t checkpoint_bytes_written();

}  // namespace flexgen
