#pragma once
// WatchedSink: answers on their way out, each after a look at the files that weights are read from. The run's thread.

#include <string_view>
#include <utility>

#include "generation/batcher.h"
#include "io/file_stamp.h"

namespace flexgen {

/// Hands on what cannot have seen a byte of a file that was written to meanwhile.
class WatchedSink : public CompletionSink {
 public:
  WatchedSink(CompletionSink& sink, FileWatch& watch) : sink_(sink), watch_(watch) {}
  void accept(Completion completion) override {
    watch_.check_bytes();
    sink_.accept(std::move(completion));
  }
  bool follows_text() const override { return sink_.follows_text(); }
  void follow(const Completion& so_far, std::string_view text) override {
    watch_.check_bytes();
    sink_.follow(so_far, text);
  }

 private:
  CompletionSink& sink_;
  FileWatch& watch_;
};

}  // namespace flexgen
