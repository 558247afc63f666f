#pragma once
// UnpackedFile: the text of a file, whether it is compressed (gzip, zstd), in UTF-16, or neither; as a stream in bounded memory. One thread.

#include <memory>
#include <string>
#include <vector>

#include "io/byte_source.h"

namespace flexgen {

class UnpackedFile {
 public:
  /// So many first bytes can be looked at.
  static constexpr size_t kFrontBytes = 1 << 20;

  /// Throws Error{io}. Reading throws Error{user} for what is cut off or damaged.
  explicit UnpackedFile(const std::shared_ptr<File>& file);
  FrontBytes& text() { return *front_; }
  /// What was taken off: "compressed with gzip", "in UTF-16".
  const std::vector<std::string>& told() const { return told_; }

 private:
  void look();

  std::vector<std::unique_ptr<ByteSource>> sources_;  ///< each reads from the one before
  FrontBytes* front_ = nullptr;                       ///< the last of them
  std::vector<std::string> told_;
};

}  // namespace flexgen
