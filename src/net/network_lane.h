#pragma once
// NetworkLane: sends or receives of one process as work on a lane of their own: started in order, each once what it waits for is done, many on their way at
// once. A lane of receives does not count the time in which it waits for a peer as busy.

#include "backend/lane.h"

namespace flexgen {

class NetworkLane : public QueueLane {
 public:
  enum class Direction { kSend, kReceive };
  NetworkLane(std::string name, Trace* trace, Direction direction) : QueueLane(std::move(name), trace), direction_(direction) { start(); }
  ~NetworkLane() override { stop(); }

 private:
  void perform(Work work, const Event& event) override;

  Direction direction_;
};

}  // namespace flexgen
