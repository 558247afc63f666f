#include "serve/new_id.h"

#include <random>

namespace flexgen {

RecordId new_record_id() {
  thread_local std::random_device device;
  RecordId id;
  for (size_t i = 0; i < id.size(); i += 4) {
    const uint32_t bits = device();
    for (size_t j = 0; j < 4; ++j) id[i + j] = static_cast<uint8_t>(bits >> 8 * j);
  }
  return id;
}

std::string new_id(const std::string& prefix) { return prefix + record_id_text(new_record_id()).substr(kRecordIdPrefix.size()); }

}  // namespace flexgen
