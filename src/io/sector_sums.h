#pragma once
// Sector sums: a checksum for each sector of a file's data, made as the file is written and compared when a sector is first read in a run, so that bytes
// that a disk lost, or that another program wrote, are an error and not an answer. Any range that direct I/O reads is whole sectors, so nothing escapes,
// whatever pieces of the file go where.

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "io/file.h"

namespace flexgen {

/// What such a file holds: a head (of whole sectors), the data, and the data's sums as SectorSummer gives them.
struct SummedData {
  int64_t start = 0, bytes = 0;  ///< of the data; their sums follow
  uint64_t seed = 0;             ///< SectorSummer::seed_of(head): other data under this head do not pass
};

/// Takes a file's data in order and gives their sums: XXH3, folded to 32 bits with the seed and the sector's number. One thread.
class SectorSummer {
 public:
  static uint64_t seed_of(std::string_view head);
  /// 4-byte words in the sums of so many bytes.
  static int64_t words(int64_t data_bytes);
  /// RAM that check_sums() takes for so many bytes until all were read: their sums, and a bit a sector.
  static int64_t checking_bytes(int64_t data_bytes);

  explicit SectorSummer(uint64_t seed) : seed_(seed) {}
  void append(const std::byte* data, int64_t bytes);
  /// The sums, and at the end two words that are the sums' own.
  std::vector<uint32_t> finish();

 private:
  uint64_t seed_;
  std::vector<std::byte> rest_;  ///< of a sector that is not full yet
  std::vector<uint32_t> sums_;
};

/// The file, open for reading, with each sector of `data` compared when it is first read. One that differs fails the read with an Error{io}, and the file is
/// removed from its folder, so that it is made anew. Takes SectorSummer::checking_bytes() until all of it was read, then only a bit a sector. Any thread.
std::shared_ptr<File> check_sums(std::shared_ptr<File> file, const SummedData& data);

}  // namespace flexgen
