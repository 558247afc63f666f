#pragma once
// SentencePieceModel: a tokenizer.model as SentencePiece writes it (a ModelProto of sentencepiece_model.proto), as far as transformers 5 looks at it. That reads
// the pieces and makes a BPE of them, or a Unigram where no class asks for a BPE, whose ids are those that count here; SentencePiece's library runs another encoder and does not give out what
// the rest of the file says. Pure functions.

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace flexgen {

struct SentencePieceModel {
  enum class Kind { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };
  struct Piece {
    std::string text;
    float score = 0;  ///< of two merges the one whose result has the higher score comes first
    Kind kind = Kind::kNormal;
  };
  enum class Type { kUnigram = 1, kBpe = 2, kWord = 3, kChar = 4 };

  std::vector<Piece> pieces;  ///< in the order of their ids
  Type type = Type::kUnigram;
  bool byte_fallback = false;
  int64_t unknown_id = 0, begin_id = 1, end_id = 2;  ///< -1: there is none
  std::string unknown = "<unk>", begin = "<s>", end = "</s>";
  std::string charsmap;  ///< the table that a text's characters are replaced by (nmt_nfkc and the like), as Charsmap takes it; empty: none
  bool begins_with_blank = true, drops_extra_blanks = true, marks_blanks = true;  ///< add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces
};

/// Throws Error{user} that names `source` for what is no such file, is broken, or has pieces twice.
SentencePieceModel read_sentencepiece_model(std::string_view bytes, const std::string& source);

using Merges = std::vector<std::pair<std::string, std::string>>;
/// Each way to make a token of two others, in two orders: by the ids of what is made, or normal pieces alone by their scores.
Merges merges_by_id(const SentencePieceModel& model);
Merges merges_by_score(const SentencePieceModel& model);

}  // namespace flexgen
