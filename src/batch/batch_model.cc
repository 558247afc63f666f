#include "batch/batch_model.h"

#include <algorithm>
#include <filesystem>

#include <fmt/ranges.h>

#include "base/sha256.h"
#include "batch/chat_source.h"
#include "batch/job.h"
#include "engine/end_tokens.h"
#include "io/whole_file.h"
#include "setup/model_folder.h"

namespace flexgen {

ModelLimits limits_of(const std::string& folder, const std::string& chat_template, const ModelConfig& config, const Tokenizer* tokenizer) {
  ModelLimits limits{config.vocab_size, config.max_positions, tokenizer};
  limits.ends_answers = !config.eos.empty() || end_of_tokenizer(folder, config, tokenizer);
  add_chat_template(folder, chat_template, &limits);
  return limits;
}

BatchModel batch_model_of(const RunBatchOptions& options, const EngineOptions& chosen, const Engine& engine) {
  const Model& model = engine.model();
  BatchModel described;
  described.limits = limits_of(options.model, options.chat_template, model.config(), engine.tokenizer());
  described.page_tokens = CacheLayout::page_tokens(model, engine.kv_dtype());
  described.name = options.served_model_name.empty() ? model_name_of(options.model) : options.served_model_name;
  described.folder = std::filesystem::absolute(options.model).lexically_normal().string();
  described.fingerprint = model_fingerprint(options.model, model.fingerprint(), engine.checkpoint_files());
  for (size_t i = 0; i < engine.checkpoint_files().size(); ++i) {
    const FileStamp& stamp = model.stamps()[i];
    described.files[std::filesystem::path(engine.checkpoint_files()[i]).filename().string()] = {
        static_cast<int64_t>(stamp.device), static_cast<int64_t>(stamp.inode), stamp.size, stamp.written_ns};
  }
  described.options = {{"backend", options.engine.backend},
                       {"compute dtype", std::string(dtype_name(engine.compute_dtype()))},
                       {"weight dtype", chosen.weight_dtype},
                       {"KV cache dtype", std::string(dtype_name(engine.kv_dtype()))}};
  if (!engine.tokenizer()) described.options["tokenizer"] = "none";
  if (!options.chat_template.empty()) described.options["chat template"] = Sha256::hex(Sha256::of(read_whole_file(options.chat_template)));
  if (engine.device()) described.options[kAttentionOn] = !engine.attention_tier() ? kLeftToThePlan : *engine.attention_tier() == Tier::kCpu ? "cpu" : "gpu";
  if (engine.weight_range() == GroupRange::kMse) described.options["weight quantization"] = "mse";
  if (options.engine.matmul_dtype != "auto") described.options["matmul dtype"] = options.engine.matmul_dtype;
  if (options.engine.kv_cache_rotation != "none") described.options["KV cache rotation"] = options.engine.kv_cache_rotation;
  if (std::vector<std::string> ignored = options.engine.model.ignored_config_fields; !ignored.empty()) {
    std::sort(ignored.begin(), ignored.end());
    ignored.erase(std::unique(ignored.begin(), ignored.end()), ignored.end());
    described.options["list of ignored config fields"] = fmt::format("{}", fmt::join(ignored, ", "));
  }
  described.arithmetic = engine.arithmetic();
  if (options.engine.attention_sparsity < 1) described.options["attention sparsity"] = fmt::format("{}", options.engine.attention_sparsity);
  return described;
}

}  // namespace flexgen
