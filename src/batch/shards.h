#pragma once
// Shards: parts of a batch that processes do which know nothing of each other (a Slurm array, a Kubernetes indexed Job), and how their outputs become one.
// Pure functions, but for merge_shards(), which reads and writes files. One thread.

#include <functional>
#include <string>
#include <vector>

#include "batch/run_batch.h"

namespace flexgen {

/// "1/4"; "auto" (a Slurm array's task id and count), "auto/4" (the index from a Slurm array or a Kubernetes indexed Job); empty: all lines.
/// Throws Error{user}.
Shard parse_shard(const std::string& text);
/// The same; `variable(name)` is null for one that is not set.
Shard parse_shard(const std::string& text, const std::function<const char*(const char*)>& variable);

/// "answers.jsonl" -> "answers.1-of-4.jsonl"; `output` itself if there is one shard.
std::string shard_output(const std::string& output, const Shard& shard);

/// The outputs of all shards of `output` that lie beside it; none if their names say different numbers.
std::vector<std::string> shards_beside(const std::string& output);

/// What merging did.
struct MergeOutcome {
  int64_t lines = 0;  ///< records in the merged output
};
/// Joins the outputs of all shards of `input` in `output`, in the order of the input's lines; the output is written whole or not at all. `parts` empty: the
/// files that shard_output() names beside `output`. Error records go to `error_output`, if there is one. Throws Error{user} naming the shard, line or record for shards of different jobs, missing or doubled answers.
MergeOutcome merge_shards(const std::string& input, const std::string& output, std::vector<std::string> parts, const std::string& error_output = "");

}  // namespace flexgen
