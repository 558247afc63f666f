#include "app/input_text.h"

#include <sys/stat.h>

#include <vector>

#include "app/input_form.h"
#include "base/error.h"
#include "base/log.h"
#include "io/unpack.h"

namespace flexgen {
namespace {

constexpr size_t kFrontBytes = 1 << 20;

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

const char* name_of(TextForm form) {
  switch (form) {
    case TextForm::kCarriageReturns: return "lines that end with CR";
    case TextForm::kArray: return "a JSON array, each item of which is a request";
    case TextForm::kValues: return "requests over several lines each";
    case TextForm::kLines: break;
  }
  return "";
}

/// The stages between a file and its lines; each reads from the one before.
struct Stages {
  std::vector<std::unique_ptr<ByteSource>> sources;
  std::vector<std::string> told;  ///< what the file is
  ByteSource& last() { return *sources.back(); }
  FrontBytes& look() {
    sources.push_back(std::make_unique<FrontBytes>(last(), kFrontBytes));
    return static_cast<FrontBytes&>(last());
  }
};

/// Takes compression off, then UTF-16.
FrontBytes* unpack(Stages& stages, const std::string& path) {
  FrontBytes* front = &stages.look();
  for (int round = 0; round < 2; ++round) {
    const PackedForm form = packed_form(front->front());
    const bool compressed = form == PackedForm::kGzip || form == PackedForm::kZstd;
    if (form == PackedForm::kPlain || (round > 0 && compressed)) break;
    if (compressed) stages.sources.push_back(form == PackedForm::kGzip ? gunzip(*front, path) : unzstd(*front, path));
    else stages.sources.push_back(utf8_of_utf16(*front, form == PackedForm::kUtf16Big, path));
    stages.told.emplace_back(name_of(form));
    front = &stages.look();
    if (!compressed) break;
  }
  return front;
}

}  // namespace

InputText InputText::open(const std::string& path, const std::string& directory, const std::atomic<bool>& stop) {
  InputText input;
  input.file_ = File::open(path, FileMode::kRead);
  Stages stages;
  stages.sources.push_back(std::make_unique<FileBytes>(input.file_));
  FrontBytes& front = *unpack(stages, path);
  const std::string other = other_form(front.front(), path);
  if (!other.empty()) fail_user("the input {} is no file of requests: {}", path, other);
  const TextForm form = text_form(front.front(), front.front().size() < kFrontBytes);
  if (stages.told.empty() && form == TextForm::kLines) {
    input.size_ = input.file_->size();
    return input;
  }
  if (form == TextForm::kCarriageReturns) stages.sources.push_back(returns_as_line_ends(front));
  else if (form != TextForm::kLines) stages.sources.push_back(values_as_lines(front, form, path));
  if (form != TextForm::kLines) stages.told.emplace_back(name_of(form));
  std::string all;
  for (const std::string& what : stages.told) all += (all.empty() ? "" : ": ") + what;
  spdlog::info("{} is {}", path, all);

  input.lines_ = std::make_shared<TemporaryFile>(directory, "the input's lines");
  std::string piece(kFrontBytes, '\0');
  while (!stop) {
    const size_t count = stages.last().read(piece.data(), piece.size());
    if (count == 0) break;
    input.lines_->write(input.size_, std::as_bytes(std::span(piece.data(), count)));
    input.size_ += static_cast<int64_t>(count);
  }
  return input;
}

void InputText::read(int64_t offset, std::span<std::byte> data) const {
  if (lines_) lines_->read(offset, data);
  else file_->read(offset, data);
}

}  // namespace flexgen
