#include "cli/json_output.h"

#include <nlohmann/json.hpp>

#include "base/report.h"
#include "engine/engine.h"
#include "io/whole_file.h"

namespace flexgen {

void put_json(const std::string& text, const std::string& file) {
  if (file.empty()) write_result(text + "\n");
  else write_whole_file(file, text + "\n");
}

void add_report(const RunReport& report, nlohmann::ordered_json* json) {
  auto per_s = [&](int64_t tokens) { return report.elapsed_s > 0 ? static_cast<double>(tokens) / report.elapsed_s : 0; };
  (*json)["elapsed_s"] = report.elapsed_s;
  (*json)["sequences"] = report.sequences;
  (*json)["prompt_tokens"] = report.prompt_tokens;
  (*json)["shared_prompt_tokens"] = report.shared_prompt_tokens;
  (*json)["generated_tokens"] = report.generated_tokens;
  (*json)["prompt_tokens_per_s"] = per_s(report.prompt_tokens);
  (*json)["generated_tokens_per_s"] = per_s(report.generated_tokens);
  for (const LaneReport& lane : report.lanes)
    (*json)["lanes"][lane.name()] = {{"busy_s", lane.stats.busy_s}, {"bytes", lane.stats.bytes}, {"operations", lane.stats.operations}};
}

}  // namespace flexgen
