// flexgen as a library: opens a checkpoint, plans for a budget of RAM, answers prompts (hello_engine MODEL PROMPT...). CMakeLists.txt builds it.
#include <atomic>
#include <cstdio>
#include <deque>

#include "engine/engine.h"

struct Prompts : flexgen::RequestSource, flexgen::CompletionSink {
  std::optional<flexgen::Request> next() override {
    if (waiting.empty()) return std::nullopt;
    flexgen::Request request = std::move(waiting.front());
    return waiting.pop_front(), request;
  }
  int64_t remaining() const override { return std::ssize(waiting); }
  void accept(flexgen::Completion done) override { std::printf("%d:%s\n", static_cast<int>(done.key), done.text.c_str()); }  // as answers end
  std::deque<flexgen::Request> waiting;
};

int main(int argc, char** argv) try {
  if (argc < 3) return std::fputs("Usage: hello_engine MODEL PROMPT...\n", stderr), 2;
  flexgen::EngineOptions options;
  options.model_directory = argv[1];
  options.budgets.cpu_bytes = int64_t{64} << 20;
  flexgen::Engine engine(options);

  Prompts prompts;
  flexgen::Workload workload;  // what the plan is made for
  for (int i = 2; i < argc; ++i) {
    flexgen::Request& request = prompts.waiting.emplace_back();
    request.key = i - 1;
    request.prompt = engine.tokenizer()->encode(argv[i], true);
    request.params.temperature = 0;
    request.params.max_tokens = 96;
    workload.add(std::ssize(request.prompt), request.params.max_tokens, request.params.keeps_logits(), false);
  }
  engine.prepare(workload);  // takes all memory of the run
  engine.run(prompts, prompts, std::atomic<bool>{false});
} catch (const std::exception& error) {  // flexgen::Error says what is wrong, where, and what to do
  return std::fprintf(stderr, "%s\n", error.what()), 1;
}
