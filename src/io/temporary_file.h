#pragma once
// TemporaryFile: a file without a name, gone when it is closed or the process ends in any way. What would grow without bound in memory goes there. One thread.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace flexgen {

/// Where temporary files of a job go: beside its output, as the job needs room there anyway and may write there, while the system's directory for them is often memory.
/// Empty if nothing may be written there.
std::string spill_directory(const std::string& output);

/// The system's for temporary files, TMPDIR for one; the working directory where that cannot be used.
std::string temporary_directory();

class TemporaryFile {
 public:
  /// In `directory`; empty: temporary_directory(). `purpose` names it in errors: "the index of the input's lines". Throws Error{io}.
  TemporaryFile(std::string directory, std::string purpose);
  ~TemporaryFile();
  TemporaryFile(TemporaryFile&& other) noexcept;
  TemporaryFile& operator=(TemporaryFile&& other) noexcept;

  /// Throws Error{io} that says what to do: a disk that is full, for one.
  void write(int64_t offset, std::span<const std::byte> bytes);
  /// By which it can be opened as long as this is there.
  std::string opened_by() const;
  /// Bytes that were written.
  void read(int64_t offset, std::span<std::byte> bytes) const;

 private:
  [[noreturn]] void fail(const char* what, int error) const;

  std::string directory_, purpose_;
  int descriptor_ = -1;
};

}  // namespace flexgen
