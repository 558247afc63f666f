// flexgen: the command line. The only place where errors end.

#include <unistd.h>

#include <functional>
#include <string>
#include <vector>

#include "base/last_words.h"
#include "base/log.h"
#include "base/open_files.h"
#include "base/report.h"
#include "base/thread.h"
#include "cli/commands.h"

namespace {

int dispatch(const flexgen::Command& command) {
  using namespace flexgen;
  struct {
    int operator()(const RunBatchOptions& options) const { return run_batch_command(options); }
    int operator()(const MapOptions& options) const { return map_command(options); }
    int operator()(const GenerateOptions& options) const { return generate_command(options); }
    int operator()(const ChatOptions& options) const { return chat_command(options); }
    int operator()(const ServeOptions& options) const { return serve_command(options); }
    int operator()(const InspectOptions& options) const { return inspect_command(options); }
    int operator()(const BenchOptions& options) const { return bench_command(options); }
    int operator()(const EvalOptions& options) const { return eval_command(options); }
    int operator()(const PlanOptions& options) const { return plan_command(options); }
    int operator()(const MergeOptions& options) const { return merge_command(options); }
    int operator()(const DoctorOptions& options) const { return doctor_command(options); }
  } run;
  return std::visit(run, command);
}

int run(const std::vector<std::string>& words) {
  std::vector<std::string> environment;
  for (char** entry = environ; *entry; ++entry) environment.emplace_back(*entry);
  flexgen::GeneralFlags general;
  auto parsed = flexgen::parse_command_line(words, environment, &general);
  if (const auto* text = std::get_if<flexgen::CommandText>(&parsed)) {
    if (text->exit_code == 0) flexgen::write_result(text->text);
    else flexgen::write_note(text->text);
    return text->exit_code;
  }
  flexgen::setup_logging(general.quiet ? "warning" : general.verbose ? "debug" : general.log_level);
  for (const std::string& warning : general.warnings) spdlog::warn("{}", warning);
  for (const std::string& note : general.notes) spdlog::debug("{}", note);
  return dispatch(std::get<flexgen::Command>(parsed));
}

/// Its exit code; says what went wrong.
int guarded(const std::function<int()>& work) {
  try {
    return work();
  } catch (const std::exception& error) {
    flexgen::write_sentence_of(error);
    return flexgen::kExitFailed;
  }
}

}  // namespace

int main(int argc, char** argv) {
  flexgen::prepare_standard_streams();
  flexgen::end_with_a_sentence();
  flexgen::save_address_space();
  flexgen::raise_open_files();
  return guarded([&] {
    return flexgen::with_enough_stack([&] {
      flexgen::setup_logging();
      return guarded([&] { return run({argv + 1, argv + argc}); });
    });
  });
}
