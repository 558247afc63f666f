#pragma once
// RewrittenFile: a new text for an output (NewFile), which is locked and written in pieces, and takes its place at once: a crash leaves the old one or the new one whole. One thread.

#include <cstdint>
#include <string>
#include <string_view>

#include "batch/record_text.h"
#include "io/new_file.h"
#include "io/write_all.h"

namespace flexgen {

class RewrittenFile {
 public:
  /// A link's target is rewritten, not the link. `write`: as write_all() takes it. Throws Error{io}.
  RewrittenFile(const std::string& path, WriteCall write);
  void add(std::string_view text);
  /// A record, to its line end.
  void add(RecordText& record);
  /// `bytes` bytes of another file, and a line feed.
  void add_line(int from, int64_t offset, int64_t bytes, const std::string& from_path);
  /// Brings it to the disk. Nothing may be added after.
  void finish();
  /// Takes the place of the old file. After finish().
  void replace();

  /// By which it can be read until then.
  std::string opened_by() const { return file_.opened_by(); }
  int64_t size() const { return size_; }
  /// Of the new file, for reading and appending; the caller's from now on.
  int release();

 private:
  void flush();
  [[noreturn]] void fail(int error) const;

  NewFile file_;
  WriteCall write_;
  std::string buffer_, piece_;
  int64_t size_ = 0;
};

/// Bytes of a file as a record's text.
class FilePart : public RecordText {
 public:
  FilePart(int descriptor, std::string path, int64_t offset, int64_t bytes) : descriptor_(descriptor), path_(std::move(path)), offset_(offset), bytes_(bytes) {}
  size_t read(char* data, size_t room) override;
  void rewind() override { at_ = 0; }

 private:
  int descriptor_;
  std::string path_;
  int64_t offset_, bytes_, at_ = 0;
};

}  // namespace flexgen
