#pragma once
// Bpe: byte pair encoding (Sennrich et al. 2016) of one word, merges by rank with a heap. Immutable after setup; any thread.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/token_model.h"

namespace flexgen {

/// The fields of a tokenizer.json's BPE model besides vocabulary and merges.
struct BpeOptions {
  bool byte_fallback = false, ignore_merges = false, fuse_unknown = false;
  std::optional<std::string> unknown_token;  ///< need not be in the vocabulary, as long as no text needs it
};

class Bpe : public TokenModel {
 public:
  /// Throws Error{user} naming `source` for merges of tokens that the vocabulary lacks.
  Bpe(std::unordered_map<std::string, int32_t> vocab, const std::vector<std::pair<std::string, std::string>>& merges, const BpeOptions& options,
      const std::string& source);

  /// Appends the tokens of `word` (valid UTF-8) to `out`. Throws Error{user} for a character that only an unknown_token can stand for which the vocabulary lacks.
  void encode(std::string_view word, std::vector<int32_t>& out) const override;
  std::optional<int32_t> find(const std::string& token) const override;
  int64_t size() const override { return static_cast<int64_t>(vocab_.size()); }
  void for_each(const std::function<void(const std::string&, int32_t)>& take) const override;

 private:
  struct Merge {
    int32_t rank, result;
  };
  static uint64_t key(int32_t left, int32_t right) { return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right); }

  std::unordered_map<std::string, int32_t> vocab_;
  std::unordered_map<uint64_t, Merge> merges_;
  BpeOptions options_;
  std::string source_;
  std::optional<int32_t> unknown_;
  std::vector<int32_t> byte_tokens_;  ///< of "<0x00>" ... "<0xFF>", or empty
};

}  // namespace flexgen
