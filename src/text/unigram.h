#pragma once
// Unigram: the way through a word whose pieces have the largest sum of scores (Kudo 2018), as PyPI tokenizers finds it. Immutable; any thread.

#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "text/token_model.h"

namespace flexgen {

class Unigram : public TokenModel {
 public:
  /// Pieces and their scores (finite), by id; `unknown`: the id of the piece that stands for characters that none covers. `source` is for messages.
  /// Throws Error{user} for an unknown id that is none.
  Unigram(std::vector<std::pair<std::string, double>> pieces, std::optional<int32_t> unknown, bool byte_fallback, std::string source);
  Unigram(const Unigram&) = delete;
  Unigram& operator=(const Unigram&) = delete;

  /// A step is a search among the pieces for one more byte. Throws Error{user} too for a text that takes more than kStepsPerByte a byte and kBaseSteps of them, as only very long
  /// pieces make it: so the time is linear in the word.
  void encode(std::string_view word, std::vector<int32_t>& out) const override;
  std::optional<int32_t> find(const std::string& token) const override;
  int64_t size() const override { return static_cast<int64_t>(pieces_.size()); }
  void for_each(const std::function<void(const std::string&, int32_t)>& take) const override;

  static constexpr uint64_t kStepsPerByte = 256, kBaseSteps = 1 << 20;

 private:
  void append_piece(const std::string& text, std::vector<int32_t>& out) const;
  [[noreturn]] void fail_unknown(std::string_view text) const;

  std::vector<std::pair<std::string, double>> pieces_;
  std::unordered_map<std::string_view, int32_t> ids_;  ///< of two equal pieces the last, as in PyPI tokenizers
  std::vector<int32_t> sorted_;                        ///< ids of the pieces by their bytes, each text once, none empty
  std::vector<int32_t> begin_of_byte_;                 ///< [257] where in sorted_ the pieces that start with a byte begin
  std::vector<int32_t> byte_pieces_;                   ///< of "<0x00>" ... "<0xFF>", -1 where there is none; empty without byte fallback
  std::optional<int32_t> unknown_;
  double unknown_score_ = 0;
  std::string source_;
};

}  // namespace flexgen
