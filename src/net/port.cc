#include "net/port.h"

#include "base/error.h"
#include "net/message.h"

namespace flexgen {

std::vector<std::string> all_gather(Port& port, const std::string& mine) {
  std::vector<std::string> all(static_cast<size_t>(port.size()));
  all[static_cast<size_t>(port.rank())] = mine;
  std::vector<std::byte> bytes;
  if (port.rank() == 0) {
    for (int rank = 1; rank < port.size(); ++rank) {
      port.receive(rank, Channel::kControl, &bytes).wait();
      all[static_cast<size_t>(rank)] = MessageReader(bytes).text();
    }
    MessageWriter message;
    for (const std::string& text : all) message.add(text);
    for (int rank = 1; rank < port.size(); ++rank) port.send(rank, Channel::kControl, message.bytes()).wait();
  } else {
    MessageWriter message;
    message.add(mine);
    port.send(0, Channel::kControl, message.bytes()).wait();
    port.receive(0, Channel::kControl, &bytes).wait();
    MessageReader reader(bytes);
    for (std::string& text : all) text = reader.text();
  }
  return all;
}

SubPort::SubPort(Port& port, int first, int count) : port_(port), first_(first), count_(count) {
  FLEXGEN_CHECK(first >= 0 && first + count <= port.size() && first <= port.rank() && port.rank() < first + count);
}

}  // namespace flexgen
