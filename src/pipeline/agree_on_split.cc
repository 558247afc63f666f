#include "pipeline/agree_on_split.h"

#include <algorithm>

#include "base/cores.h"
#include "base/error.h"
#include "net/message.h"

namespace flexgen {
SplitAgreement agree_on_split(Port& port, const Model& model, const SplitInput& input) {
  const std::string id = machine_id();
  MessageWriter own;
  own.add(input.mine.cpu_bytes)
      .add(input.mine.flops_per_s)
      .add(input.mine.disk_bytes_per_s)
      .add(static_cast<uint8_t>(input.compute_dtype))
      .add(id)
      .add(input.planner);
  std::vector<StageResources> ranks;
  std::vector<std::string> ids;
  for (const std::string& text : all_gather(port, own.text())) {
    MessageReader in(text);
    StageResources& rank = ranks.emplace_back();
    rank.cpu_bytes = in.value<int64_t>();
    rank.flops_per_s = in.value<double>();
    rank.disk_bytes_per_s = in.value<double>();
    const auto dtype = static_cast<DType>(in.value<uint8_t>());
    if (dtype != input.compute_dtype)
      fail_user("{} would compute in {}, this process ({}) in {}, as their processors differ; give all --compute-dtype f32",
                port.describe(static_cast<int>(ranks.size()) - 1), dtype_name(dtype), port.describe(port.rank()), dtype_name(input.compute_dtype));
    ids.push_back(in.text());
    if (const std::string planner = in.text(); planner != input.planner)
      fail_user("{} plans by '{}', this process ({}) by '{}'; give all the same --planner", port.describe(static_cast<int>(ranks.size()) - 1), planner,
                port.describe(port.rank()), input.planner);
  }
  auto sharers = [&](const std::string& of) { return of.empty() ? 1.0 : static_cast<double>(std::count(ids.begin(), ids.end(), of)); };
  if (input.planner == "search")
    for (size_t rank = 0; rank < ranks.size(); ++rank) ranks[rank].disk_bytes_per_s /= sharers(ids[rank]);
  return {input.stage_split.empty() ? split_blocks(model, ranks, input.rows) : parse_split(input.stage_split, "--stages", port.size(), model.num_blocks()),
          sharers(id)};
}

}  // namespace flexgen
