#pragma once
// ModelFolder: what a user writes after --model, as the folder that holds the checkpoint, or the GGUF that is one: the folder or file itself, the root of a Hub cache entry, or the
// id (or address) of a model that lies in the local Hub cache (huggingface_hub's layout: models--ORG--NAME/refs, snapshots). Never downloads. Any thread.

#include <string>
#include <vector>

namespace flexgen {

/// Where the Hub's files lie on this machine, the first that the environment names: HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub,
/// XDG_CACHE_HOME/huggingface/hub, HOME/.cache/huggingface/hub. Empty if it names none.
std::string hub_cache_from_environment();

/// The folder with config.json, or the GGUF, that `model` means. `revision`: a branch, a tag or a commit of a Hub cache entry; empty: main.
/// Throws Error{user} with a sentence of its own for each well-known other thing (an adapter, a file, another framework's weights ...), and for a
/// `revision` of a plain folder, which cannot be honoured; Error{io} for what cannot be looked at (a link to nothing, a folder without permission).
std::string find_model_folder(const std::string& model, const std::string& revision, const std::string& hub_cache);

/// The same for a command, with the Hub cache of the environment; the log tells which folder that is where it is not what was written.
std::string find_model(const std::string& model, const std::string& revision);
/// For commands that need no weights: the name of a shape, or a config.json, is left as it is.
std::string find_model_or_shape(const std::string& model, const std::string& revision);

/// Whether `model`, as find_model_or_shape() gives it, holds weights: a folder or a GGUF, and neither a shape nor a config.json.
bool is_checkpoint(const std::string& model);

/// The name that answers give a model: ORG/NAME if `folder` lies in a Hub cache, else the last part of the path.
std::string model_name_of(const std::string& folder);

}  // namespace flexgen
