#include "text/sentencepiece_model.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstring>
#include <tuple>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"
#include "io/checked_json.h"
#include "io/lfs_pointer.h"
#include "text/merge_bounds.h"
#include "text/unicode.h"

namespace flexgen {
namespace {

/// A message in protobuf's wire format: fields one by one, unknown ones passed over.
class WireMessage {
 public:
  explicit WireMessage(std::string_view bytes) : bytes_(bytes) {}

  /// The next field; false at the end. Of number and bytes() the one that fits its type is set.
  bool next() {
    if (broken_ || bytes_.empty()) return false;
    const uint64_t tag = varint();
    field_ = tag >> 3;
    number_ = 0;
    text_ = {};
    switch (tag & 7) {
      case 0: number_ = varint(); break;
      case 1: text_ = take(8); break;
      case 2: text_ = take(varint()); break;
      case 5: text_ = take(4); break;
      default: broken_ = true;  // groups are of the past
    }
    if (field_ == 0) broken_ = true;
    return !broken_;
  }
  bool broken() const { return broken_; }
  uint64_t field() const { return field_; }
  /// An int32 or int64; negative ones come as large ones.
  int64_t number() const { return static_cast<int64_t>(number_); }
  std::string_view bytes() const { return text_; }

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (bytes_.empty()) break;
      const auto byte = static_cast<unsigned char>(bytes_.front());
      bytes_.remove_prefix(1);
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    broken_ = true;
    return 0;
  }
  std::string_view take(uint64_t size) {
    if (size > bytes_.size()) {
      broken_ = true;
      return {};
    }
    const std::string_view taken = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return taken;
  }

  std::string_view bytes_, text_;
  uint64_t field_ = 0, number_ = 0;
  bool broken_ = false;
};

[[noreturn]] void fail_broken(const std::string& source) { fail_user("{}: this is no model of SentencePiece, or it is broken; fetch the file again", source); }

SentencePieceModel::Piece read_piece(std::string_view bytes, const std::string& source) {
  SentencePieceModel::Piece piece;
  WireMessage message(bytes);
  while (message.next()) {
    if (message.field() == 1) piece.text = std::string(message.bytes());
    if (message.field() == 2 && message.bytes().size() == sizeof(float)) std::memcpy(&piece.score, message.bytes().data(), sizeof(float));
    if (message.field() == 3) {
      if (message.number() < 1 || message.number() > 6) fail_broken(source);
      piece.kind = static_cast<SentencePieceModel::Kind>(message.number());
    }
  }
  if (piece.text.size() > kMaxMergedBytes) fail_user("{}: a piece of {} bytes; flexgen takes up to {}", source, piece.text.size(), kMaxMergedBytes);
  if (message.broken() || piece.text.empty() || sanitize_utf8(piece.text) != piece.text || !std::isfinite(piece.score)) fail_broken(source);
  return piece;
}

void read_trainer(std::string_view bytes, SentencePieceModel& model, const std::string& source) {
  WireMessage message(bytes);
  while (message.next()) {
    switch (message.field()) {
      case 3:
        if (message.number() < 1 || message.number() > 4) fail_broken(source);
        model.type = static_cast<SentencePieceModel::Type>(message.number());
        break;
      case 35: model.byte_fallback = message.number() != 0; break;
      case 40: model.unknown_id = message.number(); break;
      case 41: model.begin_id = message.number(); break;
      case 42: model.end_id = message.number(); break;
      case 45: model.unknown = std::string(message.bytes()); break;
      case 46: model.begin = std::string(message.bytes()); break;
      case 47: model.end = std::string(message.bytes()); break;
      default: break;
    }
  }
  if (message.broken()) fail_broken(source);
}

void read_normalizer(std::string_view bytes, SentencePieceModel& model, const std::string& source) {
  WireMessage message(bytes);
  while (message.next()) {
    if (message.field() == 2) model.charsmap = std::string(message.bytes());
    if (message.field() == 3) model.begins_with_blank = message.number() != 0;
    if (message.field() == 4) model.drops_extra_blanks = message.number() != 0;
    if (message.field() == 5) model.marks_blanks = message.number() != 0;
  }
  if (message.broken()) fail_broken(source);
}

/// "IQ== 0": a token in Base64 and its rank.
bool is_tiktoken_file(std::string_view bytes) {
  const std::string_view line = bytes.substr(0, std::min(bytes.find('\n'), size_t{256}));
  const size_t space = line.find(' ');
  if (space == std::string_view::npos || space == 0 || space + 1 == line.size()) return false;
  const auto all = [](std::string_view text, auto test) { return std::all_of(text.begin(), text.end(), test); };
  return all(line.substr(0, space), [](unsigned char c) { return std::isalnum(c) || c == '+' || c == '/' || c == '='; }) &&
         all(line.substr(space + 1), [](unsigned char c) { return std::isdigit(c) || c == '\r'; });
}

}  // namespace

SentencePieceModel read_sentencepiece_model(std::string_view bytes, const std::string& source) {
  if (is_lfs_pointer(bytes)) refuse_lfs_pointer(source);
  if (is_tiktoken_file(bytes))
    fail_user("{}: a vocabulary of tiktoken (as Meta ships Llama 3), not of SentencePiece; fetch tokenizer.json of the same model", source);
  SentencePieceModel model;
  WireMessage message(bytes);
  while (message.next()) {
    if (message.field() == 1) model.pieces.push_back(read_piece(message.bytes(), source));
    if (message.field() == 2) read_trainer(message.bytes(), model, source);
    if (message.field() == 3) read_normalizer(message.bytes(), model, source);
  }
  if (message.broken() || model.pieces.empty()) fail_broken(source);
  std::unordered_set<std::string_view> seen;
  uint64_t work = 0;
  for (const SentencePieceModel::Piece& piece : model.pieces) {
    work += piece.text.size() * piece.text.size();
    if (!seen.insert(piece.text).second) fail_user("{}: the piece '{}' is there twice; the file is broken, fetch it again", source, printable(piece.text));
  }
  if (work > kMaxMergeWork) fail_user("{}: its pieces are too many and too long for a tokenizer; check the file", source);
  return model;
}

namespace {

/// A piece that is made of two others; lengths in characters.
struct Merge {
  size_t made, left, right, left_length, right_length;
};

/// Of the pieces that `takes_part` says.
template <typename TakesPart>
std::vector<Merge> all_merges(const SentencePieceModel& model, TakesPart takes_part) {
  std::unordered_map<std::string_view, size_t> ids;
  for (size_t i = 0; i < model.pieces.size(); ++i)
    if (takes_part(model.pieces[i])) ids[model.pieces[i].text] = i;
  std::vector<Merge> merges;
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const std::string_view text = model.pieces[i].text;
    if (!takes_part(model.pieces[i])) continue;
    size_t length = 0, left_length = 0;
    for (size_t at = 0; at < text.size(); at += utf8_length(text, at)) ++length;
    for (size_t at = utf8_length(text, 0); at < text.size(); at += utf8_length(text, at)) {
      ++left_length;
      const auto left = ids.find(text.substr(0, at)), right = ids.find(text.substr(at));
      if (left != ids.end() && right != ids.end()) merges.push_back({i, left->second, right->second, left_length, length - left_length});
    }
  }
  return merges;
}

Merges texts_of(const SentencePieceModel& model, const std::vector<Merge>& merges) {
  Merges texts;
  texts.reserve(merges.size());
  for (const Merge& merge : merges) texts.emplace_back(model.pieces[merge.left].text, model.pieces[merge.right].text);
  return texts;
}

}  // namespace

Merges merges_by_id(const SentencePieceModel& model) {
  std::vector<Merge> merges = all_merges(model, [](const auto&) { return true; });
  const auto key = [](const Merge& merge) { return std::tie(merge.made, merge.left_length, merge.right_length, merge.left, merge.right); };
  std::sort(merges.begin(), merges.end(), [&](const Merge& a, const Merge& b) { return key(a) < key(b); });
  return texts_of(model, merges);
}

Merges merges_by_score(const SentencePieceModel& model) {
  std::vector<Merge> merges = all_merges(model, [](const auto& piece) { return piece.kind == SentencePieceModel::Kind::kNormal; });
  const auto& pieces = model.pieces;
  std::sort(merges.begin(), merges.end(), [&](const Merge& a, const Merge& b) {
    if (pieces[a.made].score != pieces[b.made].score) return pieces[a.made].score > pieces[b.made].score;
    return std::tie(a.made, pieces[a.left].text, pieces[a.right].text) < std::tie(b.made, pieces[b.left].text, pieces[b.right].text);
  });
  return texts_of(model, merges);
}

}  // namespace flexgen
