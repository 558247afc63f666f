#include "text/unigram.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "io/checked_json.h"
#include "text/unicode.h"

namespace flexgen {
namespace {

/// What a character that no piece covers scores less than the worst piece (SentencePiece's unigram model).
constexpr double kUnknownPenalty = 10;

}  // namespace

Unigram::Unigram(std::vector<std::pair<std::string, double>> pieces, std::optional<int32_t> unknown, bool byte_fallback, std::string source)
    : pieces_(std::move(pieces)), unknown_(unknown), source_(std::move(source)) {
  if (unknown_ && (*unknown_ < 0 || *unknown_ >= size())) fail_user("{}: the unk_id is {}, and the vocabulary has {} pieces", source_, *unknown_, size());
  double least = std::numeric_limits<double>::infinity();
  ids_.reserve(pieces_.size());
  for (size_t id = 0; id < pieces_.size(); ++id) {
    ids_[pieces_[id].first] = static_cast<int32_t>(id);
    least = std::min(least, pieces_[id].second);
  }
  unknown_score_ = least - kUnknownPenalty;
  for (const auto& [text, id] : ids_)
    if (!text.empty()) sorted_.push_back(id);
  auto text_of = [&](int32_t id) -> const std::string& { return pieces_[static_cast<size_t>(id)].first; };
  std::sort(sorted_.begin(), sorted_.end(), [&](int32_t a, int32_t b) { return text_of(a) < text_of(b); });
  for (int byte = 0; byte <= 256; ++byte)
    begin_of_byte_.push_back(static_cast<int32_t>(
        std::partition_point(sorted_.begin(), sorted_.end(), [&](int32_t id) { return static_cast<unsigned char>(text_of(id)[0]) < byte; }) - sorted_.begin()));
  if (byte_fallback)
    for (int byte = 0; byte < 256; ++byte) byte_pieces_.push_back(find(fmt::format("<0x{:02X}>", byte)).value_or(-1));
}

std::optional<int32_t> Unigram::find(const std::string& token) const {
  auto found = ids_.find(token);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

void Unigram::for_each(const std::function<void(const std::string&, int32_t)>& take) const {
  for (size_t id = 0; id < pieces_.size(); ++id) take(pieces_[id].first, static_cast<int32_t>(id));
}

void Unigram::fail_unknown(std::string_view text) const {
  fail_user("{}: no piece covers '{}' of the text, and the model has no unk_id to stand for that", source_, printable(std::string(text)));
}

void Unigram::append_piece(const std::string& text, std::vector<int32_t>& out) const {
  if (auto id = find(text)) return out.push_back(*id);
  const bool bytes = !byte_pieces_.empty() && std::all_of(text.begin(), text.end(), [&](char c) { return byte_pieces_[static_cast<unsigned char>(c)] >= 0; });
  if (bytes) {
    for (char c : text) out.push_back(byte_pieces_[static_cast<unsigned char>(c)]);
  } else {
    if (!unknown_) fail_unknown(text);
    out.push_back(*unknown_);
  }
}

void Unigram::encode(std::string_view word, std::vector<int32_t>& out) const {
  struct Node {  // the best way to a place
    double score = 0;
    size_t start = std::string_view::npos;  ///< where its last piece begins
    int32_t id = 0;
  };
  std::vector<Node> best(word.size() + 1);
  auto offer = [&](size_t start, size_t end, double score, int32_t id) {
    Node& node = best[end];
    const double sum = score + best[start].score;
    if (node.start == std::string_view::npos || sum > node.score) node = {sum, start, id};
  };
  uint64_t steps_left = kBaseSteps + kStepsPerByte * word.size();
  for (size_t start = 0; start < word.size();) {
    const size_t character = std::max<size_t>(1, utf8_length(word, start));
    bool is_covered = false;
    // The pieces [low, high) begin with word[start, start + length); one that is no longer comes first.
    const auto first = static_cast<unsigned char>(word[start]);
    auto low = static_cast<size_t>(begin_of_byte_[first]), high = static_cast<size_t>(begin_of_byte_[first + 1u]);
    auto text_of = [&](size_t place) -> const std::string& { return pieces_[static_cast<size_t>(sorted_[place])].first; };
    for (size_t length = 1; low < high; ++length) {
      if (steps_left-- == 0)
        fail_user(
            "{}: finding the pieces of a text of {} bytes takes too many steps, as very long pieces begin alike; shorten the text, or fetch the file again",
            source_, word.size());
      if (text_of(low).size() == length) {
        const int32_t id = sorted_[low++];
        offer(start, start + length, pieces_[static_cast<size_t>(id)].second, id);
        is_covered = is_covered || length == character;
      }
      if (start + length == word.size() || low == high) break;
      const auto next = static_cast<unsigned char>(word[start + length]);
      auto byte_of = [&](int32_t id) { return static_cast<unsigned char>(pieces_[static_cast<size_t>(id)].first[length]); };
      if (byte_of(sorted_[low]) == next && byte_of(sorted_[high - 1]) == next) continue;
      const auto begin = sorted_.begin();
      const auto range_end = begin + static_cast<std::ptrdiff_t>(high);
      const auto from = std::partition_point(begin + static_cast<std::ptrdiff_t>(low), range_end, [&](int32_t id) { return byte_of(id) < next; });
      const auto to = std::partition_point(from, range_end, [&](int32_t id) { return byte_of(id) == next; });
      low = static_cast<size_t>(from - begin);
      high = static_cast<size_t>(to - begin);
    }
    if (!is_covered) {
      const Node& node = best[start + character];
      const bool wins = node.start == std::string_view::npos || unknown_score_ + best[start].score > node.score;
      if (wins && !unknown_) fail_unknown(word.substr(start, character));
      if (wins) offer(start, start + character, unknown_score_, *unknown_);
    }
    start += character;
  }
  // From the end to the start; stretches of the unknown piece are one.
  std::vector<std::pair<size_t, size_t>> ways;
  bool last_unknown = false;
  for (size_t end = word.size(); end > 0; end = best[end].start) {
    const bool unknown = unknown_ && best[end].id == *unknown_;
    if (unknown && last_unknown) ways.back().first = best[end].start;
    else ways.emplace_back(best[end].start, end);
    last_unknown = unknown;
  }
  for (size_t i = ways.size(); i-- > 0;) append_piece(std::string(word.substr(ways[i].first, ways[i].second - ways[i].first)), out);
}

}  // namespace flexgen
