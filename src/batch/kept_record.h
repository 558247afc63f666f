#pragma once
// What one line of an output says, read from its meaning and not from its bytes: another tool may have saved the file again
// (docs/job_files.md). Pure functions; memory grows with the longest text in a record, not with the record.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "batch/batch_input.h"
#include "batch/record_text.h"

namespace flexgen {

/// A record that can be believed: the fields are those of a record, and its checksum (if it has one) fits.
struct KeptRecord {
  RecordId id{};
  RecordId name{};             ///< hash_of_name() of its custom_id
  int64_t answer_tokens = -1;  ///< of all choices together; -1: an error record
  int64_t error_line = 0;      ///< of an error record: the number of its line, as it says; 0: it does not
  uint64_t content = 0;        ///< two records say the same if this is the same; the checksum is not part of it
  bool has_checksum = false;
  std::optional<int64_t> created;  ///< of an answer
  std::string model;               ///< of an answer
};

/// Why a line is none.
struct NoRecord {
  enum Kind {
    kTorn,     ///< it ends where more must come
    kDamaged,  ///< a record of ours but for its content, which does not fit its checksum
    kForeign,  ///< anything else
  } kind = kForeign;
  std::string reason;  ///< completes "line 3 ..."
};

/// `line`: its bytes without the line end.
std::variant<KeptRecord, NoRecord> read_record(ByteSource& line);
std::variant<KeptRecord, NoRecord> read_record(std::string_view line);

/// What a record ends with in the place of its last brace: ,"checksum":"<16 hex digits>"}
inline constexpr int64_t kSealBytes = 31;
/// Whether the last kSealBytes of a line are such an end, byte for byte as we write it (whatever the digits).
bool is_seal(std::string_view end);

/// Adds its checksum to a record of ours (which ends with "}\n").
std::string with_checksum(std::string record);

/// The same for a record that is read piece by piece, and read once more for it.
class SealedRecord : public RecordText {
 public:
  /// `record` must live as long.
  explicit SealedRecord(RecordText& record);
  size_t read(char* data, size_t room) override;
  void rewind() override;

 private:
  RecordText& record_;
  int64_t bytes_ = 0, at_ = 0;  ///< of the record before its last brace
  std::string end_;
  size_t end_at_ = 0;
};

/// A checksum over what `json` (an object) says but for its member "checksum": 16 hex digits. Throws nlohmann's exception if it is no JSON.
std::string content_checksum(std::string_view json);

}  // namespace flexgen
