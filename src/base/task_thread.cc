#include "base/task_thread.h"

#include <utility>

#include "base/thread.h"

namespace flexgen {

TaskThread::TaskThread(std::string_view what) : thread_(start_thread(what, [this] { loop(); })) {}

TaskThread::~TaskThread() {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void TaskThread::give(std::function<void()> task) {
  std::lock_guard lock(mutex_);
  tasks_.push_back(std::move(task));
  changed_.notify_one();
}

void TaskThread::loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return closed_ || !tasks_.empty(); });
    if (tasks_.empty()) return;
    // Gone, with what it holds, before the next is waited for.
    {
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
    }
    lock.lock();
  }
}

}  // namespace flexgen
