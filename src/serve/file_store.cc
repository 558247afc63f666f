#include "serve/file_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "batch/answer_json.h"
#include "batch/rewritten_file.h"
#include "io/checked_json.h"
#include "io/new_file.h"
#include "io/whole_file.h"
#include "io/write_all.h"
#include "serve/new_id.h"

namespace flexgen {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFilePrefix = "file-", kDataEnd = ".data";

/// "file-<24 hex digits>.data", as an upload is called.
bool is_own_name(std::string_view name) {
  constexpr size_t kIdDigits = 24;
  return name.size() == kFilePrefix.size() + kIdDigits + kDataEnd.size() && name.starts_with(kFilePrefix) && name.ends_with(kDataEnd) &&
         name.substr(kFilePrefix.size(), kIdDigits).find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

[[noreturn]] void fail_file(const std::string& path, const char* what) {
  fail_io("{}: cannot {}: {}; free some space, or look after the disk", path, what, std::strerror(errno));
}

}  // namespace

void make_state_folder(const std::string& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) fail_user("--state: {} cannot be made: {}; give another folder", directory, error.message());
}

std::vector<std::string> names_in(const std::string& directory) {
  std::error_code error;
  std::vector<std::string> names;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) names.push_back(entry->path().filename().string());
  if (error) fail_io("--state: {} cannot be listed: {}; check its permissions, or give another folder", directory, error.message());
  return names;
}

bool has_texts(const nlohmann::json& record, std::initializer_list<const char*> names) {
  return record.is_object() && std::all_of(names.begin(), names.end(), [&](const char* name) { return record.contains(name) && record[name].is_string(); });
}

bool has_time(const nlohmann::json& record) { return record.contains("created_at") && record["created_at"].is_number_integer(); }

std::string StoredFile::json() const {
  return json_text({{"id", id},
                    {"object", "file"},
                    {"bytes", bytes},
                    {"created_at", created_s},
                    {"filename", name},
                    {"purpose", purpose},
                    {"status", "processed"},
                    {"expires_at", nullptr}});
}

FileStore::FileStore(std::string directory) : directory_(std::move(directory)) {
  make_state_folder(directory_);
  const std::vector<std::string> names = names_in(directory_);
  for (const std::string& name : names) {
    if (!name.ends_with(".json")) continue;
    const std::string id = name.substr(0, name.size() - 5);
    try {
      const auto json = json_or_none(read_whole_file(about(id)));
      std::error_code none;
      if (!has_texts(json, {"filename", "purpose"}) || !has_time(json) || !fs::is_regular_file(path(id), none)) fail_io("no file that is whole");
      files_[id] = {id, json["filename"], json["purpose"], static_cast<int64_t>(fs::file_size(path(id))), json["created_at"]};
    } catch (const std::exception& error) {
      spdlog::warn("{}/{}: {}; it is left out", directory_, name, error.what());
    }
  }
  // An upload that was not finished goes; the content of a record that cannot be read stays, and so does what is not ours.
  for (const std::string& name : names) {
    std::error_code unknown;
    if (is_own_name(name) && fs::symlink_status(about(name.substr(0, name.size() - kDataEnd.size())), unknown).type() == fs::file_type::not_found)
      fs::remove(fs::path(directory_) / name, unknown);
  }
}

StoredFile FileStore::keep(StoredFile file) {
  replace_whole_file(about(file.id), file.json(), true);
  std::lock_guard guard(mutex_);
  return files_[file.id] = std::move(file);
}

FileStore::Upload::Upload(FileStore& store) : store_(store), id_(new_id(std::string(kFilePrefix))) {
  descriptor_ = ::open(store_.path(id_).c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (descriptor_ < 0) fail_file(store_.path(id_), "be made");
}

FileStore::Upload::~Upload() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!finished_) ::unlink(store_.path(id_).c_str());
}

void FileStore::Upload::write(std::string_view piece) {
  errno = write_all(descriptor_, piece);
  if (errno != 0) fail_file(store_.path(id_), "be written");
  bytes_ += std::ssize(piece);
}

StoredFile FileStore::Upload::finish(const std::string& name, const std::string& purpose) {
  if (::fsync(descriptor_) != 0) fail_file(store_.path(id_), "be written");
  StoredFile kept = store_.keep({id_, name, purpose, bytes_, std::time(nullptr)});
  finished_ = true;
  return kept;
}

StoredFile FileStore::adopt(const std::string& id, const std::string& from, const std::string& name, const std::string& purpose) {
  if (const std::optional<StoredFile> there = find(id)) {
    std::error_code error;
    const uintmax_t bytes = fs::file_size(from, error);
    if (error || (bytes == static_cast<uintmax_t>(there->bytes) && fs::equivalent(path(id), from, error)) || error) return *there;
  }
  ::unlink(path(id).c_str());
  if (::link(from.c_str(), path(id).c_str()) != 0) fail_file(path(id), "be made");
  sync_directory_of(path(id));
  return keep({id, name, purpose, static_cast<int64_t>(fs::file_size(from)), std::time(nullptr)});
}

std::optional<StoredFile> FileStore::find(const std::string& id) const {
  std::lock_guard guard(mutex_);
  const auto found = files_.find(id);
  return found == files_.end() ? std::nullopt : std::optional(found->second);
}

std::vector<StoredFile> FileStore::all() const {
  std::vector<StoredFile> files;
  {
    std::lock_guard guard(mutex_);
    for (const auto& [id, file] : files_) files.push_back(file);
  }
  std::stable_sort(files.begin(), files.end(), [](const StoredFile& a, const StoredFile& b) { return a.created_s < b.created_s; });
  return files;
}

bool FileStore::remove(const std::string& id) {
  std::lock_guard guard(mutex_);
  if (files_.erase(id) == 0) return false;
  ::unlink(about(id).c_str());
  ::unlink(path(id).c_str());
  return true;
}

}  // namespace flexgen
