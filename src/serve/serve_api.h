#pragma once
// ServeApi: which call is which: paths, keys, errors. Any thread.

#include <string>
#include <vector>

#include "serve/file_calls.h"
#include "serve/serve_context.h"

namespace flexgen {

class ServeApi {
 public:
  /// `keys`: one of them must come with a call, unless there are none. `connections`: how many are open. `files`: null where no files are kept.
  ServeApi(ServeContext& context, std::vector<std::string> keys, std::function<int64_t()> connections, const FileCalls* files)
      : context_(context), keys_(std::move(keys)), connections_(std::move(connections)), files_(files) {}

  /// Answers, whatever comes of it: an error is an answer too.
  void handle(HttpCall& call);
  /// What is said of a call that is refused before it is one.
  static std::string refusal(int status);

 private:
  void dispatch(HttpCall& call);
  void check_key(const HttpCall& call) const;

  ServeContext& context_;
  std::vector<std::string> keys_;
  std::function<int64_t()> connections_;
  const FileCalls* files_;
};

}  // namespace flexgen
