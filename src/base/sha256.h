#pragma once
// Sha256: content hashes for fingerprints (FIPS 180-4), so that a user can check them with sha256sum. One thread.

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace flexgen {

class Sha256 {
 public:
  using Digest = std::array<uint8_t, 32>;

  void add(std::string_view bytes);
  /// The hash of everything added. Once; the object is used up.
  Digest digest();

  static Digest of(std::string_view bytes);
  /// Lower-case hex of the first `bytes` bytes.
  static std::string hex(const Digest& digest, int bytes = 32);

 private:
  void block(const uint8_t* data);

  std::array<uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> buffer_{};
  uint64_t size_ = 0;
};

}  // namespace flexgen
