// The blocking half of File: unaligned ranges of direct files go through aligned supersets.

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/units.h"
#include "io/aligned_buffer.h"
#include "io/file.h"
#include "io/transfer.h"

namespace flexgen {
namespace {

constexpr int64_t kBounceBytes = 4 * kMiB;

bool aligned(int64_t offset, const void* data, size_t bytes) {
  const auto bits = static_cast<uint64_t>(offset) | reinterpret_cast<uintptr_t>(data) | bytes;
  return bits % static_cast<uint64_t>(kDirectAlignment) == 0;
}

}  // namespace

void DescriptorFile::read(int64_t offset, std::span<std::byte> data) {
  FLEXGEN_CHECK(offset >= 0, "offset {}", offset);
  const int64_t end = offset + static_cast<int64_t>(data.size());
  if (data.empty()) return;
  if (!direct() || aligned(offset, data.data(), data.size())) {
    transfer_all({this, false, data.data(), offset, end - offset, end});
    return;
  }
  const int64_t first = round_down(offset, kDirectAlignment);
  AlignedBuffer bounce(std::min(kBounceBytes, round_up(end - first, kDirectAlignment)));
  for (int64_t at = first; at < end; at += bounce.bytes()) {
    const int64_t bytes = std::min(bounce.bytes(), round_up(end - at, kDirectAlignment));
    transfer_all({this, false, bounce.data(), at, bytes, std::min(end, at + bytes)});
    const int64_t from = std::max(at, offset), to = std::min(at + bytes, end);
    std::memcpy(data.data() + (from - offset), bounce.data() + (from - at), static_cast<size_t>(to - from));
  }
}

void DescriptorFile::write(int64_t offset, std::span<const std::byte> data) {
  FLEXGEN_CHECK(offset >= 0, "offset {}", offset);
  const int64_t end = offset + static_cast<int64_t>(data.size());
  if (data.empty()) return;
  if (!direct() || aligned(offset, data.data(), data.size())) {
    // pwrite does not write to its buffer; a Piece serves both directions.
    transfer_all({this, true, const_cast<std::byte*>(data.data()), offset, end - offset, end});
    return;
  }
  std::lock_guard lock(unaligned_write_mutex_);
  const int64_t size_before = size();
  const int64_t first = round_down(offset, kDirectAlignment), last = round_up(end, kDirectAlignment);
  AlignedBuffer bounce(std::min(kBounceBytes, last - first));
  for (int64_t at = first; at < end; at += bounce.bytes()) {
    const int64_t bytes = std::min(bounce.bytes(), last - at);
    const int64_t from = std::max(at, offset), to = std::min(at + bytes, end);
    if (from > at || to < at + bytes) {  // old bytes around ours stay; past the end they are zero
      std::memset(bounce.data(), 0, static_cast<size_t>(bytes));
      const int64_t present = std::min(size_before, at + bytes);
      if (present > at) transfer_all({this, false, bounce.data(), at, bytes, present});
      // What a direct read leaves behind the end of the file is not specified.
      const int64_t kept = std::max<int64_t>(present - at, 0);
      std::memset(bounce.data() + kept, 0, static_cast<size_t>(bytes - kept));
    }
    std::memcpy(bounce.data() + (from - at), data.data() + (from - offset), static_cast<size_t>(to - from));
    transfer_all({this, true, bounce.data(), at, bytes, at + bytes});
  }
  if (last > size_before && end < last && size() == last && ftruncate(descriptor(), std::max(end, size_before)) != 0)
    throw file_error(path(), fmt::format("cut it to {} bytes", std::max(end, size_before)), errno);
}

}  // namespace flexgen
