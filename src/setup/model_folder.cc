#include "setup/model_folder.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "base/nearest.h"
#include "io/checked_json.h"
#include "io/gguf.h"
#include "io/lfs_pointer.h"
#include "io/whole_file.h"
#include "model/config.h"

namespace flexgen {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kCachePrefix = "models--";

bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}
bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

/// The first bytes of a file; fewer if it is shorter, cannot be read, or is a pipe, which could keep us waiting.
std::string start_of(const fs::path& path, size_t bytes) {
  std::error_code failed;
  if (!fs::is_regular_file(path, failed)) return "";
  std::ifstream file(path, std::ios::binary);
  std::string text(bytes, '\0');
  file.read(text.data(), static_cast<std::streamsize>(bytes));
  text.resize(static_cast<size_t>(std::max<std::streamsize>(0, file.gcount())));
  return text;
}

std::string trimmed(std::string text) {
  constexpr const char* kSpace = " \t\r\n";
  text.erase(text.find_last_not_of(kSpace) + 1);
  return text.erase(0, std::min(text.find_first_not_of(kSpace), text.size()));
}

/// Names in a folder, sorted; at most some thousands, as a message needs no more.
std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code failed;
  for (fs::directory_iterator it(folder, failed), end; !failed && it != end && names.size() < 4096; it.increment(failed))
    names.push_back(it->path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

/// A branch, tag or commit becomes part of a path: only what git allows there and what stays inside.
bool is_revision(const std::string& text) {
  return !text.empty() && text.front() != '/' && text.find("..") == std::string::npos && text.find('\0') == std::string::npos &&
         text.find('\\') == std::string::npos;
}

/// The snapshot of a cache entry that a revision means.
fs::path snapshot_of(const fs::path& root, const std::string& revision) {
  const std::string wanted = revision.empty() ? "main" : revision;
  if (!is_revision(wanted)) fail_user("--revision {}: not the name of a branch, a tag or a commit", printable(wanted));
  const std::string commit = trimmed(start_of(root / "refs" / wanted, 256));
  for (const std::string& name : {commit, wanted})
    if (is_revision(name) && is_folder(root / "snapshots" / name)) return root / "snapshots" / name;
  std::vector<std::string> snapshots, refs = names_in(root / "refs");
  for (const std::string& name : names_in(root / "snapshots"))
    if (is_folder(root / "snapshots" / name)) snapshots.push_back(name);
  // A commit may be cut short, as git allows; a cache without refs and with one snapshot has no other meaning.
  std::vector<std::string> meant;
  for (const std::string& name : snapshots)
    if (wanted.size() >= 4 && name.starts_with(wanted)) meant.push_back(name);
  if (meant.empty() && revision.empty() && refs.empty()) meant = snapshots;
  if (meant.size() == 1) return root / "snapshots" / meant.front();
  if (snapshots.empty()) fail_user("{} is a Hub cache entry without a snapshot: its download was not finished; fetch the model again", root.string());
  if (is_there(root / "refs" / wanted))
    fail_user("{}: refs/{} says '{}', of which there is no snapshot; there is {}: name that with --revision, or fetch the model again", root.string(),
              printable(wanted), printable(commit), fmt::join(snapshots, ", "));
  fail_user("{} is a Hub cache entry without the revision '{}'; it has {}", root.string(), printable(wanted), fmt::join(refs.empty() ? snapshots : refs, ", "));
}

bool is_cache_entry(const fs::path& folder) {
  return is_folder(folder / "snapshots") ||
         (folder.filename().string().starts_with(kCachePrefix) && (is_folder(folder / "blobs") || is_folder(folder / "refs")));
}

std::string without_end_slashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

/// "~" and "~/x" as a shell would have it: it leaves them alone after an equals sign, and in configuration files nobody expands them.
std::string with_home(const std::string& path) {
  const char* home = std::getenv("HOME");
  if (!home || !*home || path.empty() || path[0] != '~' || (path.size() > 1 && path[1] != '/')) return path;
  return home + path.substr(1);
}

std::string convert_advice(const std::string& what, const std::string& folder) {
  return fmt::format(
      "{}: flexgen reads safetensors as Hugging Face lays them out. Convert once with transformers: "
      "AutoModelForCausalLM.from_pretrained('{}').save_pretrained(NEW_FOLDER), and the tokenizer likewise",
      what, folder);
}

/// A folder without config.json: says what it is instead.
[[noreturn]] void refuse_folder(const fs::path& folder) {
  const std::string where = folder.string();
  const std::vector<std::string> names = names_in(folder);
  auto there = [&](const char* name) { return std::find(names.begin(), names.end(), name) != names.end(); };
  auto first_with = [&](std::string_view end) {
    auto found = std::find_if(names.begin(), names.end(), [&](const std::string& name) { return name.ends_with(end); });
    return found == names.end() ? std::string() : *found;
  };
  if (names.empty()) fail_user("{} is empty; a model is a folder with config.json, safetensors and a tokenizer", where);
  if (there("adapter_config.json")) {
    std::string base = "its base model";
    const auto json = json_or_none(start_of(folder / "adapter_config.json", 1 << 20));
    if (json.is_object() && json.contains("base_model_name_or_path") && json["base_model_name_or_path"].is_string())
      base = printable(json["base_model_name_or_path"].get<std::string>());
    fail_user(
        "{} is an adapter (LoRA), not a whole model: merge it into {} first, with peft: "
        "AutoPeftModelForCausalLM.from_pretrained('{}').merge_and_unload().save_pretrained(NEW_FOLDER)",
        where, base, where);
  }
  if (const std::string gguf = first_with(".gguf"); !gguf.empty())
    fail_user("{} holds a GGUF ({}) and no config.json: give the file itself, --model '{}'", where, gguf, (folder / gguf).string());
  if (there("params.json") || !first_with("consolidated.safetensors").empty() || !first_with(".pth").empty())
    fail_user(
        "{} is a checkpoint in Meta's or Mistral's own layout (params.json, consolidated.*), without config.json: give the same model in Hugging Face's "
        "layout",
        where);
  if (there("model_index.json")) fail_user("{} is a diffusers pipeline, not a language model", where);
  if (const std::string pipeline = first_with(".nemo") + first_with(".onnx") + first_with("openvino_model.xml"); !pipeline.empty())
    fail_user("{} holds {} and no config.json: it is a model of another program; give the checkpoint with safetensors", where, pipeline);
  if (is_folder(folder / "hub"))
    for (const std::string& name : names_in(folder / "hub"))
      if (name.starts_with(kCachePrefix)) refuse_folder(folder / "hub");
  std::vector<std::string> inner, entries;
  for (const std::string& name : names) {
    if (is_there(folder / name / "config.json")) inner.push_back((folder / name).string());
    if (name.starts_with(kCachePrefix)) entries.push_back(name);
  }
  if (!entries.empty())
    fail_user("{} is a whole Hub cache: name one of its models ({} there), by its id or as {}", where, entries.size(), (folder / entries.front()).string());
  if (!inner.empty()) fail_user("{} holds no config.json, but {} does: give that", where, inner.front());
  fail_user("{} holds no config.json; a model is a folder as Hugging Face lays it out, with config.json, safetensors and a tokenizer", where);
}

/// A file instead of a folder.
[[noreturn]] void refuse_file(const fs::path& path) {
  const std::string where = path.string(), start = start_of(path, 512);
  std::error_code failed;
  if (!fs::is_regular_file(path, failed))
    fail_user("{} is neither a folder nor a file (a pipe or a device); a model is a folder as Hugging Face lays it out", where);
  const fs::path parent = path.has_parent_path() ? path.parent_path() : fs::path(".");
  if (is_lfs_pointer(start)) refuse_lfs_pointer(where);
  if (where.ends_with(".gguf")) fail_user("{} is called a GGUF, and does not begin as one; it is broken or was not fetched whole: fetch it again", where);
  if (where.ends_with(".safetensors") || where.ends_with(".json") || where.ends_with(".bin") || where.ends_with(".model"))
    if (is_there(parent / "config.json")) fail_user("{} is a file of a checkpoint: give its folder, --model '{}'", where, parent.string());
  if (where.ends_with(".safetensors")) fail_user("{} is a file of weights alone: a model is a folder that has config.json and a tokenizer too", where);
  for (const char* end : {".bin", ".pt", ".pth", ".ckpt"})
    if (where.ends_with(end)) fail_user("{}", convert_advice(where + " holds weights as PyTorch pickles them", parent.string()));
  for (const char* end : {".zip", ".tar", ".gz", ".tgz", ".zst", ".xz"})
    if (where.ends_with(end)) fail_user("{} is an archive: unpack it, and give the folder that has config.json", where);
  fail_user("{} is a file; a model is a folder as Hugging Face lays it out, with config.json, safetensors and a tokenizer", where);
}

/// The id whose files an entry of the cache has.
std::string id_of_entry(const std::string& entry) {
  std::string id = entry.substr(kCachePrefix.size());
  for (size_t at; (at = id.find("--")) != std::string::npos;) id.replace(at, 2, "/");
  return id;
}

/// ORG/NAME or NAME, and the revision of an address that has one; nothing if `text` cannot be an id of the Hub.
struct HubId {
  std::string id, revision;
};
std::optional<HubId> hub_id_of(std::string text) {
  const bool is_address = text.find("://") != std::string::npos || text.starts_with("huggingface.co/") || text.starts_with("hf.co/");
  for (std::string_view before : {"https://", "http://", "www.", "huggingface.co/", "hf.co/", "hf://"})
    if (is_address && text.starts_with(before)) text.erase(0, before.size());
  if (is_address) text.erase(std::min(text.find_first_of("?#"), text.size()));
  text = without_end_slashes(text);
  std::string revision;
  if (const size_t tree = text.find("/tree/"); tree != std::string::npos) {
    revision = text.substr(tree + std::string_view("/tree/").size());
    text.erase(tree);
  }
  for (std::string_view of_file : {"/blob/", "/resolve/", "/raw/"})  // the address of a file: its model's
    if (const size_t at = text.find(of_file); is_address && at != std::string::npos) {
      revision = text.substr(at + of_file.size());
      revision.erase(std::min(revision.find('/'), revision.size()));
      text.erase(at);
    }
  if (text.starts_with(kCachePrefix) && text.find('/') == std::string::npos) text = id_of_entry(text);  // an entry's name, as ls shows it
  if (const size_t at = text.find('@'); at != std::string::npos) {
    if (revision.empty()) revision = text.substr(at + 1);
    text.erase(at);
  }
  const auto slashes = std::count(text.begin(), text.end(), '/');
  const bool fits = !text.empty() && slashes <= 1 && text.front() != '/' && text.front() != '.' && text.front() != '~' && text.front() != '-' &&
                    std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '_' || c == '.' || c == '/'; });
  return fits ? std::optional(HubId{text, revision}) : std::nullopt;
}

std::string cache_entry_of(const std::string& id) {
  std::string name(kCachePrefix);
  for (char c : id) c == '/' ? name += "--" : name += c;
  return name;
}

/// "; did you mean ...?" of the models that the cache has.
std::string near_id(const std::string& id, const fs::path& hub_cache) {
  std::vector<std::string> ids;
  for (const std::string& name : names_in(hub_cache))
    if (name.starts_with(kCachePrefix)) ids.push_back(id_of_entry(name));
  return did_you_mean(id, ids);
}

}  // namespace

std::string hub_cache_from_environment() {
  auto value = [](const char* name) {
    const char* text = std::getenv(name);
    return with_home(text ? text : "");
  };
  if (std::string cache = value("HF_HUB_CACHE"); !cache.empty()) return cache;
  if (std::string cache = value("HUGGINGFACE_HUB_CACHE"); !cache.empty()) return cache;
  if (std::string home = value("HF_HOME"); !home.empty()) return home + "/hub";
  if (std::string cache = value("XDG_CACHE_HOME"); !cache.empty()) return cache + "/huggingface/hub";
  if (std::string home = value("HOME"); !home.empty()) return home + "/.cache/huggingface/hub";
  return "";
}

std::string find_model_folder(const std::string& model, const std::string& revision, const std::string& hub_cache) {
  if (model.empty()) fail_user("--model is empty; give the folder of a checkpoint");
  const fs::path path(without_end_slashes(model));
  if (is_folder(path)) {
    const bool has_config = file_is_there((path / "config.json").string());
    if (is_cache_entry(path) && !has_config) return find_model_folder(snapshot_of(path, revision).string(), "", hub_cache);
    if (!has_config) refuse_folder(path);
    if (!revision.empty()) fail_user("--revision {}: {} is a plain folder and has no revisions; leave it out", printable(revision), model);
    return model;
  }
  if (is_gguf(path.string())) {
    if (!revision.empty()) fail_user("--revision {}: {} is a file and has no revisions; leave it out", printable(revision), model);
    return path.string();
  }
  if (file_is_there(path.string())) refuse_file(path);
  if (const std::string at_home = with_home(model); at_home != model) return find_model_folder(at_home, revision, hub_cache);

  const std::optional<HubId> hub = hub_id_of(model);
  if (!hub) fail_user("{}: there is no such folder", printable(model));
  const std::string& id = hub->id;
  if (!hub->revision.empty() && !revision.empty() && hub->revision != revision)
    fail_user("--revision {}: {} names another one, {}", printable(revision), printable(model), printable(hub->revision));
  if (hub_cache.empty()) fail_user("{}: there is no such folder, and the environment names no Hub cache (HF_HOME, HOME)", printable(model));
  const fs::path entry = fs::path(hub_cache) / cache_entry_of(id);
  if (!file_is_there(entry.string())) {
    const std::string near = shape_config_json(id) ? " (plan and bench know it as a shape)" : near_id(id, hub_cache);
    fail_user(
        "{}: there is no such folder, and no model of that id in the Hub cache {}{}{} flexgen downloads nothing by itself: fetch it with "
        "`hf download {}`, or give the folder of a checkpoint",
        printable(model), hub_cache, near, near.ends_with('?') ? "" : ".", id);
  }
  return find_model_folder(snapshot_of(entry, revision.empty() ? hub->revision : revision).string(), "", hub_cache);
}

std::string find_model(const std::string& model, const std::string& revision) {
  const std::string folder = find_model_folder(model, revision, hub_cache_from_environment());
  if (folder != model) spdlog::info("{}: the model is read from {}", printable(model), folder);
  return folder;
}

std::string find_model_or_shape(const std::string& model, const std::string& revision) {
  std::error_code failed;
  const bool is_file = model.ends_with(".json") && fs::is_regular_file(model, failed);
  if (!is_folder(model) && (is_file || shape_config_json(model))) {
    if (!revision.empty()) fail_user("--revision {}: {} is {} and has no revisions; leave it out", printable(revision), model, is_file ? "a file" : "a shape");
    return model;
  }
  try {
    return find_model(model, revision);
  } catch (const Error& error) {
    if (model.empty() || is_there(model)) throw;
    throw Error(error.kind(), fmt::format("{}. The name of a shape would do as well: {}{}", error.what(), fmt::join(known_shapes(), ", "),
                                          did_you_mean(model, known_shapes())));
  }
}

bool is_checkpoint(const std::string& model) { return is_folder(model) || is_gguf(model); }

std::string model_name_of(const std::string& folder) {
  std::error_code error;
  fs::path path = fs::canonical(folder, error);
  if (error) path = fs::path(folder).lexically_normal();
  if (path.filename().empty()) path = path.parent_path();
  const fs::path entry = path.parent_path().parent_path();
  if (path.parent_path().filename() == "snapshots" && entry.filename().string().starts_with(kCachePrefix)) return id_of_entry(entry.filename().string());
  return path.filename().empty() ? std::string("model") : path.filename().string();
}

}  // namespace flexgen
