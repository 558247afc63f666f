#include "batch/input_text.h"

#include <sys/stat.h>

#include <algorithm>
#include <vector>

#include "base/byte_order_mark.h"
#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "batch/input_form.h"
#include "batch/unpacked_file.h"
#include "io/transfer.h"

namespace flexgen {
namespace {

const char* name_of(TextForm form) {
  switch (form) {
    case TextForm::kCarriageReturns: return "lines that end with CR";
    case TextForm::kArray: return "a JSON array, each item of which is a request";
    case TextForm::kValues: return "requests over several lines each";
    case TextForm::kLines: break;
  }
  return "";
}

}  // namespace

InputText InputText::open(const std::string& path, const std::string& directory, const std::atomic<bool>& stop) {
  InputText input;
  input.file_ = File::open(path, FileMode::kRead);
  UnpackedFile unpacked(input.file_);
  FrontBytes& front = unpacked.text();
  const std::string other = other_form(front.front(), path);
  if (!other.empty()) fail_user("the input {} is no file of requests: {}", shown_name(path), other);
  const TextForm form = text_form(front, static_cast<size_t>(kMaxLineBytes));
  std::vector<std::string> told = unpacked.told();
  if (told.empty() && form == TextForm::kLines) {
    input.size_ = input.file_->size();
    return input;
  }
  std::unique_ptr<ByteSource> laid_out;
  if (form == TextForm::kCarriageReturns) laid_out = returns_as_line_ends(front);
  else if (form != TextForm::kLines) laid_out = values_as_lines(front, form, shown_name(path));
  if (laid_out) told.emplace_back(name_of(form));
  ByteSource& lines = laid_out ? *laid_out : front;
  std::string all;
  for (const std::string& what : told) all += (all.empty() ? "" : ": ") + what;
  spdlog::info("{} is {}", shown_name(path), all);

  input.lines_ = std::make_shared<TemporaryFile>(directory, "the input's lines");
  std::string piece(UnpackedFile::kFrontBytes, '\0');
  while (!stop) {
    const size_t count = lines.read(piece.data(), piece.size());
    if (count == 0) break;
    input.lines_->write(input.size_, std::as_bytes(std::span(piece.data(), count)));
    input.size_ += static_cast<int64_t>(count);
  }
  return input;
}

size_t InputTextBytes::read(char* data, size_t room) {
  const auto count = static_cast<size_t>(std::min(static_cast<int64_t>(room), text_.size() - at_));
  if (count > 0) text_.read(at_, std::as_writable_bytes(std::span(data, count)));
  at_ += static_cast<int64_t>(count);
  return count;
}

std::string read_unpacked_text(const std::string& path, int64_t most_bytes, bool* whole) {
  UnpackedFile unpacked(File::open(path, FileMode::kRead));
  std::string text, piece(UnpackedFile::kFrontBytes, '\0');
  while (const size_t count = unpacked.text().read(piece.data(), piece.size())) {
    text.append(piece, 0, count);
    if (std::ssize(text) > most_bytes) break;
  }
  *whole = std::ssize(text) <= most_bytes;
  if (!*whole) text.resize(static_cast<size_t>(most_bytes));
  drop_byte_order_mark(&text);
  return text;
}

void InputText::read(int64_t offset, std::span<std::byte> data) const {
  if (lines_) lines_->read(offset, data);
  else file_->read(offset, data);
}

}  // namespace flexgen
