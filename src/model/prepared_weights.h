#pragma once
// Prepared weights: a checkpoint's matrices in another type, or turned where it holds them transposed, made once and streamed from then on
// (docs/file_formats.md). A folder for each checkpoint, type and way to choose a group's range, known by the checkpoint's fingerprint. One process of a machine
// writes it at a time; those of several machines that share the folder may make the same file, and take the one that is finished first. A killed one is continued by the next.

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "backend/kernels.h"
#include "io/file_system.h"
#include "model/model.h"

namespace flexgen {

/// What is made of a checkpoint's matrices, and where it is kept.
struct PrepareOptions {
  std::optional<DType> dtype;              ///< of all matrices; none: each stays what it is, and only those that are stored transposed are made
  GroupRange range = GroupRange::kMinMax;  ///< of quantized types
  std::string directory;                   ///< where the file is, or is put
  int64_t memory_bytes = 64 << 20;         ///< for buffers, at most; 512 KiB at least are used
  /// (bytes of the checkpoint done, in all); called now and then, from the caller's thread.
  std::function<void(int64_t, int64_t)> progress;
};

/// Makes `model` read its matrices from a prepared file, which is made first if it is not there. Norms, biases and position tables stay as
/// they are. Throws Error{user} naming the tensor for weights that are infinite or NaN, Error{io} for a disk that is full or fails: what is
/// done is kept.
void use_prepared_weights(Model& model, Kernels& kernels, FileSystem& files, const PrepareOptions& options);

/// For planning: the model as use_prepared_weights() would leave it, with no file made.
void imagine_prepared_weights(Model& model, std::optional<DType> dtype);

/// Whether the checkpoint holds matrices transposed, so that nothing reads them before they are prepared.
bool has_turned_weights(const Model& model);

}  // namespace flexgen
