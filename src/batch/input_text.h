#pragma once
// InputText: a batch file as lines of JSON in UTF-8, whatever form it is in: JSONL is read where it lies; what is compressed or laid out otherwise is written as lines to a
// file without a name, once. One thread.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "io/byte_source.h"
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

/// All of it from its start. `text` must live as long.
class InputTextBytes : public ByteSource {
 public:
  explicit InputTextBytes(const InputText& text) : text_(text) {}
  size_t read(char* data, size_t room) override;

 private:
  const InputText& text_;
  int64_t at_ = 0;
};

/// A text that is no requests, as UTF-8 without a byte order mark, whether it is compressed (gzip, zstd), in UTF-16, or neither; its first `most_bytes` if it has more, and *whole says which. Throws Error{user}
/// for one that is broken, Error{io}.
std::string read_unpacked_text(const std::string& path, int64_t most_bytes, bool* whole);

}  // namespace flexgen
