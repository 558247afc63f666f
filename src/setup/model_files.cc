#include "setup/model_files.h"

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "io/gguf.h"
#include "io/same_file.h"

namespace flexgen {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTemplateFolder = "additional_chat_templates";
constexpr std::string_view kWeights = ".safetensors";

/// Names of Hugging Face's files, read by this program or by others.
bool is_model_name(const std::string& name) {
  constexpr std::string_view kEnds[] = {kWeights, ".json", ".jinja", ".model", ".tiktoken", ".gguf", ".bin", ".pt", ".pth"};
  constexpr std::string_view kNames[] = {"merges.txt", "vocab.txt", "dummy_recipe.txt"};
  return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames) ||
         std::any_of(std::begin(kEnds), std::end(kEnds), [&](std::string_view end) { return name.ends_with(end); });
}

/// `root`: the model's folder, without links. Shards may lie in folders below.
bool is_place_in(const fs::path& root, const fs::path& place) {
  const fs::path name = place.lexically_relative(root);
  if (name.empty() || *name.begin() == "..") return false;
  const auto depth = std::distance(name.begin(), name.end());
  return name.extension() == kWeights || (is_model_name(name.filename().string()) && (depth == 1 || (depth == 2 && *name.begin() == kTemplateFolder)));
}

bool is_linked_to(const fs::path& root, const std::string& path) {
  std::error_code failed;
  for (fs::recursive_directory_iterator it(root, failed), end; !failed && it != end; it.increment(failed)) {
    if (it.depth() > 0) it.disable_recursion_pending();
    if (is_place_in(root, it->path()) && is_same_file(it->path().string(), path)) return true;
  }
  return false;
}

/// Whether it holds a checkpoint.
bool is_model_folder(const fs::path& folder) {
  std::error_code failed;
  if (!fs::is_regular_file(folder / "config.json", failed)) return false;
  for (fs::directory_iterator it(folder, failed), end; !failed && it != end; it.increment(failed))
    if (const std::string name = it->path().filename().string(); name.ends_with(kWeights) || name.ends_with(".safetensors.index.json")) return true;
  return false;
}

/// Of any model.
bool is_known_file(const fs::path& place) {
  std::error_code failed;
  if ((place.extension() == kWeights || place.extension() == ".gguf") && fs::is_regular_file(place, failed)) return true;
  const fs::path folder = place.parent_path();
  return is_model_name(place.filename().string()) &&
         (is_model_folder(folder) || (folder.filename() == kTemplateFolder && is_model_folder(folder.parent_path())));
}

std::vector<std::string> parts_of(const std::string& file) {
  try {
    return gguf_parts(file);
  } catch (const Error&) {
    return {file};
  }
}

}  // namespace

bool is_model_file(const std::string& model, const std::string& path) {
  std::error_code failed;
  // The name may be that of a link, such as those of the Hub's cache to its blobs.
  const fs::path named = fs::absolute(path, failed);
  const fs::path place = place_of(path), link = fs::weakly_canonical(named.parent_path(), failed) / named.filename();
  if (is_known_file(place) || is_known_file(link)) return true;
  if (model.empty()) return false;
  if (!fs::is_directory(model, failed)) {
    const std::vector<std::string> parts = parts_of(model);
    return std::any_of(parts.begin(), parts.end(), [&](const std::string& part) { return is_same_file(part, path); });
  }
  const fs::path root = fs::canonical(model, failed);
  if (failed) return false;
  return is_place_in(root, link) || is_place_in(root, place) || (fs::exists(path, failed) && is_linked_to(root, path));
}

}  // namespace flexgen
