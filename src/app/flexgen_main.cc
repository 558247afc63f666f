// The program: reads the command line, runs the command, and turns what is thrown into a message and an exit code.

#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <type_traits>
#include <vector>

#include "app/commands.h"
#include "base/error.h"
#include "base/log.h"

namespace flexgen {
namespace {

int run(const Command& command) {
  return std::visit(
      [](const auto& options) {
        using Options = std::decay_t<decltype(options)>;
        if constexpr (std::is_same_v<Options, RunBatchOptions>) return run_batch_command(options);
        else if constexpr (std::is_same_v<Options, GenerateOptions>) return generate_command(options);
        else if constexpr (std::is_same_v<Options, InspectOptions>) return inspect_command(options);
        else if constexpr (std::is_same_v<Options, BenchOptions>) return bench_command(options);
        else return doctor_command(options);
      },
      command);
}

}  // namespace
}  // namespace flexgen

int main(int argc, char** argv) {
  using namespace flexgen;
  setup_logging(false);
  auto parsed = parse_command_line(std::vector<std::string>(argv + 1, argv + argc));
  if (const auto* text = std::get_if<CommandText>(&parsed)) {
    std::fputs(text->text.c_str(), text->exit_code == kExitDone ? stdout : stderr);
    return text->exit_code;
  }
  try {
    return run(std::get<Command>(parsed));
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "error: the machine has no more memory; give a smaller --cpu-memory\n");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s (not foreseen; please report it)\n", error.what());
  }
  return kExitFailed;
}
