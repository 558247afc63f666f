#pragma once
// Dummy checkpoints: random weights of sane scale for any shape, really written to disk (a sparse file would measure
// nothing) and kept for the next run. One thread; of several processes that want the same one, the
// first on a machine writes it.

#include <functional>
#include <string>
#include <vector>

#include "tensor/dtype.h"

namespace flexgen {

/// Makes sure that `directory` holds a checkpoint of `config_json` in `dtype`: config.json and model.safetensors, weights
/// drawn from `seed`. Does nothing if it is there already. `progress(done, total)` in bytes. Throws
/// Error{user} for a config that is not understood, Error{io} for a full disk.
void ensure_dummy_checkpoint(const std::string& directory, const std::string& config_json, DType dtype, uint64_t seed,
                             const std::function<void(int64_t, int64_t)>& progress, const std::vector<std::string>& ignored_config_fields = {});

}  // namespace flexgen
