#include "batch/unpacked_file.h"

#include "batch/input_form.h"
#include "io/transfer.h"
#include "io/unpack.h"

namespace flexgen {
namespace {

const char* name_of(PackedForm form) {
  switch (form) {
    case PackedForm::kGzip: return "compressed with gzip";
    case PackedForm::kZstd: return "compressed with zstd";
    case PackedForm::kUtf16Little:
    case PackedForm::kUtf16Big: return "in UTF-16";
    case PackedForm::kPlain: break;
  }
  return "";
}

}  // namespace

UnpackedFile::UnpackedFile(const std::shared_ptr<File>& file) {
  sources_.push_back(std::make_unique<FileBytes>(file));
  look();
  const std::string name = shown_name(file->path());
  // Compression is taken off first, then UTF-16.
  for (int round = 0; round < 2; ++round) {
    const PackedForm form = packed_form(front_->front());
    const bool compressed = form == PackedForm::kGzip || form == PackedForm::kZstd;
    if (form == PackedForm::kPlain || (round > 0 && compressed)) break;
    if (compressed) sources_.push_back(form == PackedForm::kGzip ? gunzip(*front_, name) : unzstd(*front_, name));
    else sources_.push_back(utf8_of_utf16(*front_, form == PackedForm::kUtf16Big, name));
    told_.emplace_back(name_of(form));
    look();
    if (!compressed) break;
  }
}

void UnpackedFile::look() {
  auto front = std::make_unique<FrontBytes>(*sources_.back(), kFrontBytes);
  front_ = front.get();
  sources_.push_back(std::move(front));
}

}  // namespace flexgen
