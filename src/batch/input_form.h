#pragma once
// The form that a batch file is in, by its first bytes: lines of JSON, JSON that is laid out otherwise, or something else, which is named. And JSON values laid out in any
// way as one line each. Pure functions; the source is for one thread, in bounded memory.

#include <memory>
#include <string>
#include <string_view>

#include "io/byte_source.h"

namespace flexgen {

/// How the bytes of a file are packed, by its first ones; UTF-8 as it is: kPlain.
enum class PackedForm { kPlain, kGzip, kZstd, kUtf16Little, kUtf16Big };
PackedForm packed_form(std::string_view front);

/// How the requests lie in the text.
enum class TextForm {
  kLines,            ///< a request a line, good or bad
  kCarriageReturns,  ///< the same with lines that end with CR alone
  kArray,            ///< one JSON array of requests
  kValues,           ///< requests one after the other, each over several lines
};
/// Of the first bytes of a text.
TextForm text_form(std::string_view front);
/// Of a text. Looks at up to `most_of_line` bytes of it, where its first line or value is longer than what it has looked at before. Before the first read().
TextForm text_form(FrontBytes& text, size_t most_of_line);

/// A sentence on what these bytes are, if they are nothing to be read as a batch file: "it is a zip archive; unpack it (unzip)". Empty if they may be. `path`: its ending is
/// looked at too.
std::string other_form(std::string_view front, const std::string& path);

/// The same of what is no text at all, so that it is no table either.
std::string binary_form(std::string_view front, const std::string& path);

/// Each value of a text of kArray or kValues as a line, without the spaces between its parts. What does not fit that form throws Error{user} with its place.
std::unique_ptr<ByteSource> values_as_lines(ByteSource& text, TextForm form, const std::string& path);
/// CR becomes LF.
std::unique_ptr<ByteSource> returns_as_line_ends(ByteSource& text);

}  // namespace flexgen
