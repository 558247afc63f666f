#include "dist/message.h"

#include "base/error.h"

namespace flexgen {

void MessageReader::too_short() {
  throw Error(ErrorKind::kPeer, "a message of another rank is shorter than it says; all ranks must run the same flexgen on machines of one kind");
}

}  // namespace flexgen
