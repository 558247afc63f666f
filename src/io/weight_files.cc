#include "io/weight_files.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "base/error.h"
#include "io/checked_json.h"
#include "io/file.h"
#include "io/python_json.h"
#include "io/whole_file.h"

namespace flexgen {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxIndexBytes = 100'000'000;

/// A shard lies in the folder of its index or below, and nowhere else.
bool stays_inside(const std::string& name) {
  if (name.empty() || name.find('\0') != std::string::npos) return false;
  const fs::path path(name);
  if (path.is_absolute() || !path.has_filename()) return false;
  return std::none_of(path.begin(), path.end(), [](const fs::path& part) { return part == ".."; });
}

WeightFiles read_index(File& file) {
  const int64_t size = file.size();
  if (size > kMaxIndexBytes) fail_user("{}: {} bytes are too many for an index of shards", file.path(), size);
  std::string text(static_cast<size_t>(size), '\0');
  file.read(0, std::as_writable_bytes(std::span(text)));
  const nlohmann::json json = parse_checked_json(with_python_numbers_quoted(text), 8, file.path(), "the index");
  auto weight_map = json.is_object() ? json.find("weight_map") : json.end();
  if (weight_map == json.end() || !weight_map->is_object()) fail_user("{}: the index has no weight_map; the file is broken, fetch it again", file.path());
  WeightFiles index;
  for (const auto& [name, shard] : weight_map->items()) {
    const std::string shard_name = shard.is_string() ? shard.get<std::string>() : "";
    if (!stays_inside(shard_name)) fail_user("{}: the shard of tensor '{}' is no file name; the file is broken, fetch it again", file.path(), printable(name));
    index[fs::path(shard_name).lexically_normal().string()].push_back(name);  // "./a" is "a"
  }
  if (index.empty()) fail_user("{}: the weight_map is empty; the file is broken, fetch it again", file.path());
  return index;
}

/// "model-00002-of-00005.safetensors" as its number and count.
std::optional<std::pair<int, int>> shard_number(std::string_view name) {
  constexpr std::string_view kStart = "model-", kBetween = "-of-", kEnd = ".safetensors";
  if (!name.starts_with(kStart) || !name.ends_with(kEnd) || name.size() < kStart.size() + kEnd.size()) return std::nullopt;
  name = name.substr(kStart.size(), name.size() - kStart.size() - kEnd.size());
  const size_t between = name.find(kBetween);
  if (between == std::string_view::npos) return std::nullopt;
  int number = 0, count = 0;
  auto read = [](std::string_view digits, int& value) {
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return error == std::errc() && end == digits.data() + digits.size();
  };
  if (!read(name.substr(0, between), number) || !read(name.substr(between + kBetween.size()), count)) return std::nullopt;
  return std::pair(number, count);
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code failed;
  for (fs::directory_iterator it(folder, failed), end; !failed && it != end; it.increment(failed)) names.push_back(it->path().filename().string());
  if (failed) fail_io("cannot list {}: {}", folder.string(), failed.message());
  std::sort(names.begin(), names.end());
  return names;
}

/// Shards whose index was not fetched: their own headers say all that it would, if the set is whole.
WeightFiles shards_without_index(const fs::path& folder, const std::vector<std::string>& names) {
  WeightFiles shards;
  int count = 0;
  for (const std::string& name : names)
    if (const auto number = shard_number(name)) {
      if (count != 0 && number->second != count)
        fail_user("{} holds shards of two sets ({} and {}) and no model.safetensors.index.json that says which; fetch that file", folder.string(),
                  shards.begin()->first, name);
      count = number->second;
      shards[name];
    }
  if (shards.empty()) return shards;
  if (static_cast<int>(shards.size()) != count || shard_number(shards.begin()->first)->first != 1 || shard_number(shards.rbegin()->first)->first != count)
    fail_user("{} holds {} of {} shards ({}, ...) and no model.safetensors.index.json; the checkpoint was not fetched whole: fetch it again", folder.string(),
              shards.size(), count, shards.begin()->first);
  return shards;
}

[[noreturn]] void refuse_other_weights(const fs::path& folder, const std::vector<std::string>& names) {
  auto first = [&](auto test) {
    auto found = std::find_if(names.begin(), names.end(), test);
    return found == names.end() ? std::string() : *found;
  };
  const std::string where = folder.string();
  const std::string variant = first([](const std::string& name) { return name.starts_with("model.") && name.ends_with(".safetensors"); });
  if (!variant.empty()) fail_user("{} holds {}, a variant of the weights, and no model.safetensors: rename it to model.safetensors to use it", where, variant);
  const std::string variant_index = first([](const std::string& name) { return name.starts_with("model.safetensors.index.") && name.ends_with(".json"); });
  if (!variant_index.empty())
    fail_user("{} holds {}, the index of a variant of the weights: rename it to model.safetensors.index.json to use it", where, variant_index);
  if (const std::string name = first([](const std::string& name) { return name.starts_with("consolidated") && name.ends_with(".safetensors"); }); !name.empty())
    fail_user(
        "{} holds its weights as {}, in Mistral's own layout with other tensor names: fetch model-*.safetensors of the same model, which Hugging Face's "
        "layout has",
        where, name);
  if (const std::string name = first([](const std::string& name) { return name == "adapter_model.safetensors" || name == "adapter_config.json"; });
      !name.empty())
    fail_user("{} holds {}, an adapter (LoRA), and no weights of its own: merge it into its base model first (peft: merge_and_unload())", where, name);
  for (const char* end : {".bin", ".bin.index.json", ".pt", ".pth", ".ckpt"})
    if (const std::string name = first([&](const std::string& name) { return name.ends_with(end) && name != "training_args.bin"; }); !name.empty())
      fail_user(
          "{} holds its weights as PyTorch pickles them ({}) and not as safetensors; convert them once with transformers: "
          "AutoModelForCausalLM.from_pretrained('{}').save_pretrained('{}')",
          where, name, where, where);
  if (const std::string name = first([](const std::string& name) { return name.ends_with(".gguf"); }); !name.empty())
    fail_user("{} holds its weights as a GGUF ({}): give the file itself, --model '{}'", where, name, (folder / name).string());
  for (const auto& [end, program] : std::initializer_list<std::pair<const char*, const char*>>{
           {".h5", "TensorFlow"}, {".msgpack", "Flax"}, {".onnx", "ONNX"}, {".ot", "rust-bert"}, {".npz", "MLX"}})
    if (const std::string name = first([&, end = end](const std::string& name) { return name.ends_with(end); }); !name.empty())
      fail_user("{} holds weights for {} ({}) and none as safetensors; fetch the safetensors of the same model", where, program, name);
  if (const std::string name = first([](const std::string& name) { return name.ends_with(".safetensors"); }); !name.empty())
    fail_user(
        "{} holds {}, but neither model.safetensors nor model.safetensors.index.json, by which Hugging Face's checkpoints are known; if it holds the "
        "whole model, rename it to model.safetensors",
        where, name);
  for (const char* end : {".incomplete", ".part", ".partial", ".aria2", ".tmp"})
    if (const std::string name = first([&, end = end](const std::string& name) { return name.ends_with(end); }); !name.empty())
      fail_user("{} holds {}: a download that was not finished; fetch the checkpoint again", where, name);
  fail_user("{} holds neither model.safetensors nor model.safetensors.index.json: the weights were not fetched; fetch the checkpoint again", where);
}

}  // namespace

WeightFiles find_weight_files(const fs::path& folder, FileSystem& file_system) {
  if (file_is_there((folder / "model.safetensors").string())) return {{"model.safetensors", {}}};
  if (const std::string index = (folder / "model.safetensors.index.json").string(); file_is_there(index))
    return read_index(*file_system.open(index, FileMode::kRead));
  const std::vector<std::string> names = names_in(folder);
  if (WeightFiles shards = shards_without_index(folder, names); !shards.empty()) return shards;
  refuse_other_weights(folder, names);
}

}  // namespace flexgen
