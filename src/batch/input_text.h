#pragma once
// InputText: a batch file as lines of JSON in UTF-8, whatever form it is in: JSONL is read where it lies; what is compressed or laid out otherwise is written as lines to a
// file without a name, once. One thread.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "io/file.h"
#include "io/temporary_file.h"

namespace flexgen {

class InputText {
 public:
  /// Throws Error{user} that names the form if it is none that can be read, or says where it is broken; Error{io}. `directory`: for the file without a name, as
  /// TemporaryFile has it. Ends early once `stop` is set, and is of no use then.
  static InputText open(const std::string& path, const std::string& directory, const std::atomic<bool>& stop);

  /// Bytes of all lines.
  int64_t size() const { return size_; }
  void read(int64_t offset, std::span<std::byte> data) const;

 private:
  std::shared_ptr<File> file_;
  std::shared_ptr<TemporaryFile> lines_;  ///< null: the lines are those of the file
  int64_t size_ = 0;
};

}  // namespace flexgen
