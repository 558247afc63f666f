#pragma once
// Classes of characters as PyPI tokenizers has them, which is Rust's Unicode, as patterns for Regex. They were found by asking it for every character.

namespace flexgen {

/// Unicode's White_Space.
#define FLEXGEN_SPACES R"(\x09-\x0d \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})"
/// What \w is; with what Unicode 15 and 16 add, which PCRE2 may not know yet.
#define FLEXGEN_NEWER_WORD                                                                                                                                    \
  R"(\x{897}\x{cf3}\x{ece}\x{1c89}-\x{1c8a}\x{a7cb}-\x{a7cd}\x{a7da}-\x{a7dc}\x{105c0}-\x{105f3}\x{10d40}-\x{10d65}\x{10d69}-\x{10d6d}\x{10d6f}-\x{10d85})"   \
  R"(\x{10ec2}-\x{10ec4}\x{10efc}-\x{10eff}\x{1123f}-\x{11241}\x{11380}-\x{11389}\x{1138b}\x{1138e}\x{11390}-\x{113b5}\x{113b7}-\x{113c0}\x{113c2}\x{113c5})" \
  R"(\x{113c7}-\x{113ca}\x{113cc}-\x{113d3}\x{113e1}-\x{113e2}\x{116d0}-\x{116e3}\x{11bc0}-\x{11be0}\x{11bf0}-\x{11bf9}\x{11f00}-\x{11f10})"                  \
  R"(\x{11f12}-\x{11f3a}\x{11f3e}-\x{11f42}\x{11f50}-\x{11f5a}\x{1342f}\x{13440}-\x{13455}\x{13460}-\x{143fa}\x{16100}-\x{16139}\x{16d40}-\x{16d6c})"         \
  R"(\x{16d70}-\x{16d79}\x{18cff}\x{1b132}\x{1b155}\x{1ccf0}-\x{1ccf9}\x{1df25}-\x{1df2a}\x{1e030}-\x{1e06d}\x{1e08f}\x{1e4d0}-\x{1e4f9}\x{1e5d0}-\x{1e5fa})" \
  R"(\x{2b739}\x{2ebf0}-\x{2ee5d}\x{31350}-\x{323af})"
#define FLEXGEN_WORD R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200c}\x{200d})" FLEXGEN_NEWER_WORD
inline constexpr const char* kSpacePattern = "[" FLEXGEN_SPACES "]";
/// A word, or other characters than white space in a row.
inline constexpr const char* kWordPattern = "[" FLEXGEN_WORD "]+|[^" FLEXGEN_WORD FLEXGEN_SPACES "]+";
#undef FLEXGEN_SPACES
#undef FLEXGEN_WORD
#undef FLEXGEN_NEWER_WORD

/// Punctuation as PyPI tokenizers has it: ASCII's symbols, and Unicode's class P of version 8, with what became punctuation since then left out.
inline constexpr const char* kPunctuationPattern =
    R"((?![\x{61d}\x{9fd}\x{a76}\x{c77}\x{c84}\x{1b7d}\x{1b7e}\x{2e43}-\x{2e4f}\x{2e52}-\x{2e5d}\x{10ead}\x{10f55}-\x{10f59}\x{10f86}-\x{10f89}\x{1144b}-\x{1144f})"
    R"(\x{1145a}\x{1145b}\x{1145d}\x{11660}-\x{1166c}\x{116b9}\x{1183b}\x{11944}-\x{11946}\x{119e2}\x{11a3f}-\x{11a46}\x{11a9a}-\x{11a9c}\x{11a9e}-\x{11aa2})"
    R"(\x{11c41}-\x{11c45}\x{11c70}\x{11c71}\x{11ef7}\x{11ef8}\x{11fff}\x{12ff1}\x{12ff2}\x{16e97}-\x{16e9a}\x{16fe2}\x{1e95e}\x{1e95f}]))"
    R"([\p{P}\x{166d}\x{111c9}!-/:-@\[-`{-~])";

}  // namespace flexgen
