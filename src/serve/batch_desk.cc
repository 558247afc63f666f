#include "serve/batch_desk.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <filesystem>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include "batch/answer_json.h"
#include "batch/output_scan.h"
#include "io/checked_json.h"
#include "io/file.h"
#include "io/new_file.h"
#include "io/whole_file.h"
#include "serve/api_error.h"
#include "serve/list_page.h"
#include "serve/new_id.h"

namespace flexgen {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFile = "batch.json";  // in a batch's folder
const std::set<std::string> kEnds{"completed", "failed", "cancelled"};
constexpr std::array kCounts{"total", "completed", "failed"};
constexpr size_t kMaxMetadata = 16, kMaxMetadataBytes = 512;

bool is_over(const nlohmann::ordered_json& batch) { return kEnds.contains(batch["status"].get<std::string>()); }

std::string text_field(const nlohmann::json& body, const char* name) {
  const auto found = body.find(name);
  if (found == body.end() || !found->is_string()) throw ApiError{400, fmt::format("{} is missing, or not a text", name), "invalid_value", name};
  return found->get<std::string>();
}

nlohmann::ordered_json counts_of(const BatchOutcome& outcome) {
  return {{"total", outcome.lines}, {"completed", outcome.kept_answers + outcome.answered}, {"failed", outcome.failed + outcome.without_answer}};
}

bool has_counts(const nlohmann::ordered_json& batch) {
  const auto counts = batch.find("request_counts");
  return counts != batch.end() && counts->is_object() &&
         std::all_of(kCounts.begin(), kCounts.end(), [&](const char* name) { return counts->contains(name) && (*counts)[name].is_number_integer(); });
}

void check_metadata(const nlohmann::json& metadata) {
  const auto refuse = [] {
    throw ApiError{400, fmt::format("metadata must be an object of at most {} texts, each of at most {} bytes", kMaxMetadata, kMaxMetadataBytes),
                   "invalid_value", "metadata"};
  };
  if (!metadata.is_object() || metadata.size() > kMaxMetadata) refuse();
  for (const auto& [name, value] : metadata.items())
    if (!value.is_string() || name.size() > kMaxMetadataBytes || value.get_ref<const std::string&>().size() > kMaxMetadataBytes) refuse();
}

}  // namespace

BatchDesk::BatchDesk(std::string directory, FileStore& files, Answer answer, std::string model)
    : directory_(std::move(directory)), files_(files), answer_(std::move(answer)), model_(std::move(model)) {
  make_state_folder(directory_);
  std::vector<std::pair<int64_t, std::string>> unfinished;
  for (const std::string& id : names_in(directory_)) {
    try {
      auto json = json_or_none<Json>(read_file_if_there(folder(id) + "/" + kFile));
      if (!has_texts(json, {"id", "status", "endpoint", "input_file_id"}) || !has_time(json) || json["id"] != id) fail_io("no batch that is whole");
      if (!has_counts(json)) json["request_counts"] = counts_of_outputs(id, {{"total", 0}, {"completed", 0}, {"failed", 0}});
      if (!is_over(json)) unfinished.emplace_back(json["created_at"].get<int64_t>(), id);
      batches_[id] = std::move(json);
    } catch (const std::exception& error) {
      spdlog::warn("{}: {}; it is left out", folder(id), error.what());
    }
  }
  std::sort(unfinished.begin(), unfinished.end());
  for (const auto& [created, id] : unfinished) queue_.push_back(id);
  if (!queue_.empty()) spdlog::info("{} batches are not done; going on with them", queue_.size());
  thread_ = start_thread("the batches of /v1/batches", [this] { work(); });
}

BatchDesk::~BatchDesk() {
  stop();
  thread_.join();
}

void BatchDesk::stop() {
  std::lock_guard guard(mutex_);
  stopping_ = true;
  stop_running_ = true;
  changed_.notify_all();
}

const nlohmann::ordered_json& BatchDesk::batch_of(const std::string& id) const {
  const auto found = batches_.find(id);
  if (found == batches_.end()) throw ApiError{404, fmt::format("there is no batch '{}'", id.substr(0, 100)), "not_found", "batch_id"};
  return found->second;
}

template <typename Change, typename Then>
void BatchDesk::change(const std::string& id, Change change, Then then) {
  std::lock_guard guard(mutex_);
  Json next = batches_.at(id);
  change(next);
  replace_whole_file(folder(id) + "/" + kFile, json_text(next), true);
  batches_[id] = std::move(next);
  then();
}

template <typename Change>
void BatchDesk::change(const std::string& id, Change change) {
  this->change(id, std::move(change), [] {});
}

std::string BatchDesk::create(const nlohmann::json& body) {
  for (const auto& [name, value] : body.items())
    if (name != "input_file_id" && name != "endpoint" && name != "completion_window" && name != "metadata" && !value.is_null())
      throw ApiError{400, fmt::format("the body has the field '{}', which is not supported; leave it out", name.substr(0, 80)), "unsupported_parameter",
                     name.substr(0, 80)};
  const std::string input = text_field(body, "input_file_id"), endpoint = text_field(body, "endpoint");
  if (endpoint != "/v1/completions" && endpoint != "/v1/chat/completions")
    throw ApiError{400, fmt::format("endpoint is '{}'; /v1/completions and /v1/chat/completions are supported", endpoint.substr(0, 100)), "invalid_value",
                   "endpoint"};
  if (const std::string window = text_field(body, "completion_window"); window != "24h")
    throw ApiError{400, "completion_window must be \"24h\"; a batch ends when all of it is answered, and never expires", "invalid_value", "completion_window"};
  const std::optional<StoredFile> file = files_.find(input);
  if (!file) throw ApiError{404, fmt::format("there is no file '{}'", input.substr(0, 100)), "not_found", "input_file_id"};
  if (file->purpose != "batch")
    throw ApiError{400, fmt::format("the file '{}' was uploaded for '{}', not for \"batch\"", input, file->purpose), "invalid_value", "input_file_id"};
  Json metadata = nullptr;
  if (body.contains("metadata") && !body["metadata"].is_null()) {
    check_metadata(body["metadata"]);
    metadata = body["metadata"];
  }
  const std::string id = new_id("batch_");
  Json batch{{"id", id},
             {"object", "batch"},
             {"endpoint", endpoint},
             {"model", model_},
             {"errors", nullptr},
             {"input_file_id", input},
             {"completion_window", "24h"},
             {"status", "validating"},
             {"output_file_id", nullptr},
             {"error_file_id", nullptr},
             {"created_at", std::time(nullptr)}};
  for (const char* time : {"in_progress_at", "expires_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at"})
    batch[time] = nullptr;
  batch["request_counts"] = {{"total", 0}, {"completed", 0}, {"failed", 0}};
  batch["metadata"] = std::move(metadata);
  const std::string text = json_text(batch);
  std::lock_guard guard(mutex_);
  fs::create_directory(folder(id));
  replace_whole_file(folder(id) + "/" + kFile, text, true);
  batches_[id] = std::move(batch);
  queue_.push_back(id);
  changed_.notify_all();
  return text;
}

std::string BatchDesk::find(const std::string& id) const {
  std::lock_guard guard(mutex_);
  return json_text(batch_of(id));
}

std::string BatchDesk::cancel(const std::string& id) {
  Json known;
  bool runs = false;
  {
    std::lock_guard guard(mutex_);
    const Json& batch = batch_of(id);
    if (is_over(batch)) throw ApiError{409, fmt::format("the batch is {} already", batch["status"].get<std::string>()), "batch_is_over"};
    known = batch["request_counts"];
    runs = running_ == id;
  }
  const Json counts = runs ? known : counts_of_outputs(id, known);  // which may take long, so not while others wait
  change(
      id,
      [&](Json& batch) {
        if (is_over(batch)) return;
        batch["status"] = "cancelling";
        batch["cancelling_at"] = std::time(nullptr);
        if (running_ == id) return;
        batch["status"] = "cancelled";  // it has not begun, or waits to go on
        if (!runs) batch["request_counts"] = counts;
        batch["cancelled_at"] = std::time(nullptr);
        attach_outputs(id, batch);
      },
      // A batch whose cancelling could not be written down goes on.
      [&] {
        if (running_ == id) stop_running_ = true;
        std::erase(queue_, id);
      });
  return find(id);
}

std::string BatchDesk::list(const std::string& after, size_t limit) const {
  std::lock_guard guard(mutex_);
  std::vector<const Json*> all;
  for (const auto& [id, batch] : batches_) all.push_back(&batch);
  std::stable_sort(all.begin(), all.end(), [](const Json* a, const Json* b) { return (*a)["created_at"].get<int64_t>() > (*b)["created_at"].get<int64_t>(); });
  auto from = all.begin();
  if (!after.empty()) {
    batch_of(after);
    from = std::find_if(all.begin(), all.end(), [&](const Json* batch) { return (*batch)["id"] == after; }) + 1;
  }
  Json data = Json::array();
  for (; from != all.end() && data.size() < limit; ++from) data.push_back(**from);
  return list_page(std::move(data), from != all.end());
}

bool BatchDesk::needs(const std::string& file_id) const {
  std::lock_guard guard(mutex_);
  return std::any_of(batches_.begin(), batches_.end(), [&](const auto& entry) { return entry.second["input_file_id"] == file_id && !is_over(entry.second); });
}

int64_t BatchDesk::num_unfinished() const {
  std::lock_guard guard(mutex_);
  return std::count_if(batches_.begin(), batches_.end(), [](const auto& entry) { return !is_over(entry.second); });
}

void BatchDesk::work() {
  for (;;) {
    std::string id;
    {
      std::unique_lock lock(mutex_);
      running_.clear();
      changed_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
      if (stopping_) return;
      id = running_ = queue_.front();
      queue_.pop_front();
      stop_running_ = batches_.at(id)["status"] == "cancelling";
    }
    try {
      run(id);
    } catch (const std::exception& error) {
      const auto* known = dynamic_cast<const Error*>(&error);
      if (known && known->kind() == ErrorKind::kIo) {  // a full disk, say, which is no fault of the batch
        spdlog::error("batch {}: {}; it stays as it is, and the next start of the server goes on with it", id, error.what());
        continue;
      }
      spdlog::error("batch {}: {}", id, error.what());
      try {
        fail(id, "failed", without_paths(id, error.what()));
      } catch (const std::exception& again) {  // it stays as it was, and is tried at the next start
        spdlog::error("batch {}: {}", id, again.what());
      }
    }
  }
}

std::string BatchDesk::without_paths(const std::string& id, std::string message) const {
  std::string input;
  {
    std::lock_guard guard(mutex_);
    input = batches_.at(id)["input_file_id"];
  }
  for (const auto& [path, shown] : {std::pair{files_.path(input), input}, {folder(id) + "/", std::string()}})
    for (size_t at = 0; (at = message.find(path, at)) != std::string::npos; at += shown.size()) message.replace(at, path.size(), shown);
  return message;
}

void BatchDesk::run(const std::string& id) {
  std::string input, endpoint, model;
  {
    std::lock_guard guard(mutex_);
    const Json& batch = batches_.at(id);
    input = batch["input_file_id"];
    endpoint = batch["endpoint"];
    if (const auto named = batch.find("model"); named != batch.end() && named->is_string()) model = *named;  // batches of before 2026-11-30 have none
  }
  if (!files_.find(input)) return fail(id, "no_input", fmt::format("the file {} is gone", input));
  Work work{files_.path(input), folder(id) + "/output.jsonl", folder(id) + "/errors.jsonl", endpoint, model, {}, {}};
  work.begun = [&] {
    change(id, [](Json& batch) {
      if (batch["status"] != "validating") return;
      batch["status"] = "in_progress";
      batch["in_progress_at"] = std::time(nullptr);
    });
  };
  bool counted = false;
  work.progress = [&](const BatchOutcome& outcome) {  // but for the first in memory alone: after a start it is counted anew
    if (!std::exchange(counted, true)) return change(id, [&](Json& batch) { batch["request_counts"] = counts_of(outcome); });
    std::lock_guard guard(mutex_);
    batches_.at(id)["request_counts"] = counts_of(outcome);
  };
  const BatchOutcome outcome = answer_(work, stop_running_);
  finish(id, outcome);
}

void BatchDesk::finish(const std::string& id, const BatchOutcome& outcome) {
  bool cancelled = false;
  Json known;
  {
    std::lock_guard guard(mutex_);
    cancelled = batches_.at(id)["status"] == "cancelling";
    known = batches_.at(id)["request_counts"];
    if (outcome.stopped && !cancelled) return;  // the next start goes on
  }
  if (!outcome.stopped && outcome.failed == outcome.lines) {
    const std::string message =
        outcome.lines == 0 ? "the file has no lines" : fmt::format("none of its {} lines can be answered; the error file says why", outcome.lines);
    change(id, [&](Json& batch) { batch["request_counts"] = counts_of(outcome); });
    return fail(id, outcome.lines == 0 ? "empty_file" : "no_good_line", message);
  }
  change(id, [&](Json& batch) {
    if (cancelled && outcome.stopped) return;
    batch["status"] = "finalizing";
    batch["finalizing_at"] = std::time(nullptr);
  });
  // One that was stopped early may not have counted what was done before.
  const Json counts = outcome.stopped ? counts_of_outputs(id, known) : counts_of(outcome);
  change(id, [&](Json& batch) {
    batch["request_counts"] = counts;
    attach_outputs(id, batch);
    const char* end = cancelled && outcome.stopped ? "cancelled" : "completed";
    batch["status"] = end;
    batch[std::string(end) + "_at"] = std::time(nullptr);
  });
}

void BatchDesk::fail(const std::string& id, const std::string& code, const std::string& message) {
  change(id, [&](Json& batch) {
    attach_outputs(id, batch);
    batch["status"] = "failed";
    batch["failed_at"] = std::time(nullptr);
    batch["errors"] = {{"object", "list"}, {"data", Json::array({Json{{"code", code}, {"message", message}, {"param", nullptr}, {"line", nullptr}}})}};
  });
}

nlohmann::ordered_json BatchDesk::counts_of_outputs(const std::string& id, const Json& known) const try {
  int64_t completed = 0, failed = 0;
  std::set<RecordId> apart;  // errors that a kill left in both
  for (const char* name : {"errors.jsonl", "output.jsonl"}) {
    const std::string path = folder(id) + "/" + name;
    if (!file_is_there(path)) continue;
    const std::shared_ptr<File> file = File::open(path, FileMode::kRead);
    scan_output(file->descriptor(), path, false, [&](const KeptRecord& record, const RecordPlace&) {
      if (record.answer_tokens >= 0) ++completed;
      else failed += apart.insert(record.id).second;
    });
  }
  return {{"total", std::max(known.value("total", int64_t{0}), completed + failed)}, {"completed", completed}, {"failed", failed}};
} catch (const Error& error) {
  spdlog::warn("batch {}: what it has answered cannot be counted: {}", id, error.what());
  return known;
}

void BatchDesk::attach_outputs(const std::string& id, Json& batch) {
  const std::string digits = id.substr(id.find('_') + 1);
  for (const auto& [field, name, prefix] : {std::tuple{"output_file_id", "output.jsonl", "file-output-"}, {"error_file_id", "errors.jsonl", "file-errors-"}}) {
    const std::string path = folder(id) + "/" + name;
    std::error_code error;
    if (const auto bytes = fs::file_size(path, error); error || bytes == 0) continue;
    batch[field] = files_.adopt(prefix + digits, path, fmt::format("{}_{}", id, name), "batch_output").id;
  }
}

}  // namespace flexgen
