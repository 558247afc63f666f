#pragma once
// Unpacking: the text behind compressed or UTF-16 bytes, as a stream in bounded memory. One thread.

#include <memory>
#include <string>

#include "io/byte_source.h"

namespace flexgen {

/// What the bytes of a file are once they are unpacked. `packed` must live as long; `path` names the file in errors. Reading throws Error{user} for data that is cut off
/// or damaged: nothing after the damage is given, nor taken for the end.

/// All members of a gzip file (zlib).
std::unique_ptr<ByteSource> gunzip(ByteSource& packed, const std::string& path);
/// All frames of a zstd file, up to windows of 128 MiB.
std::unique_ptr<ByteSource> unzstd(ByteSource& packed, const std::string& path);
/// UTF-8 of UTF-16; a byte order mark at the start is left out.
std::unique_ptr<ByteSource> utf8_of_utf16(ByteSource& wide, bool big_endian, const std::string& path);

}  // namespace flexgen
