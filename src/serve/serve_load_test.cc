#include "serve/serve_load.h"

#include <gtest/gtest.h>

#include "model/model.h"
#include "plan/policy_sizes.h"
#include "schedule/cache_store.h"
#include "schedule/slot_rules.h"

namespace flexgen::serve_load_test {
namespace {

/// The last token of a prompt is always computed: of one of whole pages the last page is never taken from others.
TEST(ServeLoad, HasPagesForAsManySequencesAsAreAskedFor) {
  const auto model = Model::of_shape(parse_config(*shape_config_json("smollm2-135m"), "", "smollm2-135m"), DType::kBF16);
  const int64_t page_tokens = CacheLayout::page_tokens(*model, DType::kBF16);
  for (const char* sharing : {"auto", "off"})
    for (int64_t prompt : {page_tokens - 1, page_tokens, page_tokens + 1, 8 * page_tokens}) {
      ServeOptions options;
      options.max_num_seqs = 64;
      options.max_model_len = 16 * page_tokens;
      options.prompt_len = prompt;
      options.gen_len = page_tokens;
      options.engine.prefix_sharing = sharing;
      const Workload load = load_to_plan_for(options, model->config(), page_tokens);
      const int64_t own = pages_of_sequence(prompt, page_tokens, page_tokens) - (options.engine.shares_prefixes() ? (prompt - 1) / page_tokens : 0);
      EXPECT_GE(policy_of_sizes(*model, load, DType::kBF16, 64, 1, 2, 64).pages_per_micro_batch, 64 * own) << sharing << " " << prompt;
    }
}

}  // namespace
}  // namespace flexgen::serve_load_test
