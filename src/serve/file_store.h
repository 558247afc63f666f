#pragma once
// FileStore: the files of /v1/files: uploads, and what batches give. Each is its content and a JSON that says what it is, which is written last: a file is there whole or not at all.
// Thread-safe.

#include <cstdint>
#include <initializer_list>
#include <map>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace flexgen {

/// Of what lies in a folder. Throws Error{io}.
std::vector<std::string> names_in(const std::string& directory);

/// What is known of a file that was uploaded or made, besides its content; times in seconds since 1970.
struct StoredFile {
  std::string id, name, purpose;
  int64_t bytes = 0, created_s = 0;

  /// As /v1/files has it.
  std::string json() const;
};

class FileStore {
 public:
  /// Reads what `directory` holds (it is made if there is none), and clears away what was not finished. Throws Error.
  explicit FileStore(std::string directory);

  /// A file that is being written.
  class Upload {
   public:
    explicit Upload(FileStore& store);
    ~Upload();  ///< if it was not finished, nothing is left of it
    Upload(const Upload&) = delete;
    Upload& operator=(const Upload&) = delete;
    /// Throws Error{io}.
    void write(std::string_view piece);
    StoredFile finish(const std::string& name, const std::string& purpose);

   private:
    FileStore& store_;
    std::string id_;
    int descriptor_ = -1;
    int64_t bytes_ = 0;
    bool finished_ = false;
  };

  /// A file that lies on the same file system gets a name here too. Again with the same id: as it is now, grown or replaced. Throws Error{io}.
  StoredFile adopt(const std::string& id, const std::string& path, const std::string& name, const std::string& purpose);
  std::optional<StoredFile> find(const std::string& id) const;
  /// Oldest first.
  std::vector<StoredFile> all() const;
  /// False: there is none.
  bool remove(const std::string& id);
  /// Of a file that is there.
  std::string path(const std::string& id) const { return directory_ + "/" + id + ".data"; }

 private:
  StoredFile keep(StoredFile file);
  std::string about(const std::string& id) const { return directory_ + "/" + id + ".json"; }

  std::string directory_;
  mutable std::mutex mutex_;
  std::map<std::string, StoredFile> files_;
};

/// Whether a record of the state, which others may have changed, is an object with these members as texts; whether it has the time at which it was created.
bool has_texts(const nlohmann::json& record, std::initializer_list<const char*> names);
bool has_time(const nlohmann::json& record);

/// With the folders above it, where they are not there. Throws Error{user}.
void make_state_folder(const std::string& directory);

}  // namespace flexgen
