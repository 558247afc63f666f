#include "net/message.h"

#include "base/error.h"

namespace flexgen {

void MessageWriter::append(const void* data, size_t size) {
  const size_t at = bytes_.size();
  bytes_.resize(at + size);
  if (size > 0) std::memcpy(bytes_.data() + at, data, size);
}

void MessageReader::too_short() {
  throw Error(ErrorKind::kPeer, "a message of another rank is shorter than it says; all ranks must run the same flexgen on machines of one kind");
}

}  // namespace flexgen
