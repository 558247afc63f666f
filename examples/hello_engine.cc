// flexgen as a library: opens a checkpoint, plans for a budget of RAM, answers prompts as they end. Built as CMakeLists.txt beside it says.
// Usage: hello_engine MODEL PROMPT...
#include <atomic>
#include <cstdio>
#include <exception>
#include <vector>

#include "engine/engine.h"
#include "generation/list_source.h"

struct Printer : flexgen::CompletionSink {
  void accept(flexgen::Completion completion) override { std::printf("%d:%s\n", static_cast<int>(completion.key), completion.text.c_str()); }
};

int main(int argc, char** argv) try {
  if (argc < 3) return std::fputs("Usage: hello_engine MODEL PROMPT...\n", stderr), 2;
  flexgen::EngineOptions options;
  options.model_directory = argv[1];
  options.budgets.cpu_bytes = int64_t{64} << 20;
  flexgen::Engine engine(options);

  std::vector<flexgen::Request> requests;
  flexgen::Workload workload;  // what the plan is made for
  for (int i = 2; i < argc; ++i) {
    flexgen::Request& request = requests.emplace_back();
    request.key = i - 1;
    request.prompt = engine.tokenizer()->encode(argv[i], true);
    request.params.temperature = 0;
    request.params.max_tokens = 96;
    workload.add(std::ssize(request.prompt), request.params.max_tokens, request.params.keeps_logits(), false);
  }
  engine.prepare(workload);  // takes all memory of the run
  flexgen::ListSource source(std::move(requests));
  Printer printer;
  engine.run(source, printer, std::atomic<bool>{false});
} catch (const std::exception& error) {  // flexgen::Error says what is wrong, where, and what to do
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
