#pragma once
// HeldLane: a lane whose work a test ends, or never ends. One thread.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/lane.h"

namespace flexgen {

/// Keeps what it is given until the test ends it.
class HeldLane : public Lane {
 public:
  explicit HeldLane(std::string name) : Lane(std::move(name), nullptr) {}
  /// Puts a new one at `lane`.
  static HeldLane& at(std::unique_ptr<Lane>& lane, const char* name) {
    auto made = std::make_unique<HeldLane>(name);
    HeldLane& held = *made;
    lane = std::move(made);
    return held;
  }
  Event submit(Work work) override {
    works.push_back(std::move(work));
    return events.emplace_back(Event::pending());
  }
  bool waits(size_t work) const {
    for (const Event& event : works[work].after)
      if (!event.done()) return true;
    return false;
  }
  std::vector<Work> works;
  std::vector<Event> events;
};

}  // namespace flexgen
