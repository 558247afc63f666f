#pragma once
// BodyRoom: how many bytes of bodies there may be at a time. Who wants more than there is room for waits its turn; the first to come is the first to get it, so that small bodies do not
// keep a long one out for ever. Thread-safe.

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <mutex>
#include <optional>
#include <utility>

namespace flexgen {

class BodyRoom {
 public:
  /// A part of the room, given back with it.
  class Lease {
   public:
    Lease() = default;
    Lease(BodyRoom& room, int64_t bytes) : room_(&room), bytes_(bytes) {}
    Lease(Lease&& other) noexcept : room_(std::exchange(other.room_, nullptr)), bytes_(other.bytes_) {}
    Lease& operator=(Lease&& other) noexcept {
      std::swap(room_, other.room_);
      std::swap(bytes_, other.bytes_);
      return *this;
    }
    ~Lease() {
      if (room_) room_->give_back(bytes_);
    }
    /// What turned out not to be needed.
    void shrink(int64_t bytes) {
      if (room_ && bytes < bytes_) room_->give_back(std::exchange(bytes_, bytes) - bytes);
    }

   private:
    BodyRoom* room_ = nullptr;
    int64_t bytes_ = 0;
  };

  explicit BodyRoom(int64_t bytes) : bytes_(bytes) {}
  /// Waits until there is room for all of `bytes`; who wants more than the whole room gets that. Nothing: `gives_up`, asked now and then, has said so.
  std::optional<Lease> take(int64_t bytes, const std::function<bool()>& gives_up);
  /// Whether somebody waits.
  bool awaited() const;

 private:
  void give_back(int64_t bytes);

  const int64_t bytes_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int64_t used_ = 0;
  std::list<int64_t> waiting_;  ///< their bytes, in the order of their coming
};

}  // namespace flexgen
