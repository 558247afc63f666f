#pragma once
// TaskThread: one thread that does what it is given, in order. give() from any thread.

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string_view>
#include <thread>

namespace flexgen {

class TaskThread {
 public:
  /// `what`: as start_thread()'s, which it throws like.
  explicit TaskThread(std::string_view what);
  /// Does first all that it was given.
  ~TaskThread();
  TaskThread(const TaskThread&) = delete;
  TaskThread& operator=(const TaskThread&) = delete;

  /// The task throws nothing.
  void give(std::function<void()> task);

 private:
  void loop();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  bool closed_ = false;
  std::thread thread_;
};

}  // namespace flexgen
