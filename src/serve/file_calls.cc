#include "serve/file_calls.h"

#include <charconv>

#include "base/error.h"
#include "base/units.h"
#include "batch/answer_json.h"
#include "io/checked_json.h"
#include "serve/api_error.h"
#include "serve/list_page.h"

namespace flexgen {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr const char* kJsonType = "application/json";
constexpr std::string_view kFiles = "/v1/files", kBatches = "/v1/batches";
constexpr int64_t kMaxPage = 10'000, kMaxBatchPage = 100, kUsualBatchPage = 20;
constexpr int64_t kMaxCreateBytes = 64 << 10, kMaxFieldBytes = 1024;
constexpr size_t kPieceBytes = 64 << 10;

ApiError no_file(const std::string& id) { return {404, fmt::format("there is no file '{}'", id.substr(0, 100)), "not_found", "file_id"}; }

int64_t page_of(const HttpCall& call, int64_t usual, int64_t most) {
  const std::string text = call.query("limit");
  if (text.empty()) return usual;
  int64_t limit = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), limit);
  if (error != std::errc() || end != text.data() + text.size() || limit < 1 || limit > most)
    throw ApiError{400, fmt::format("limit must be an integer from 1 to {}", most), "invalid_value", "limit"};
  return limit;
}

void upload(HttpCall& call, const FileCalls& calls) {
  std::string purpose, file_name, part_name;
  std::optional<FileStore::Upload> file;
  const auto part = [&](const HttpPart& begins) {
    part_name = begins.name;
    if (part_name != "file") return;
    if (file) throw ApiError{400, "the form has two files", "invalid_value", "file"};
    file.emplace(calls.files);
    file_name = begins.file_name;
  };
  const auto piece = [&](std::string_view text) {
    if (part_name == "file") return file->write(text);
    if (part_name != "purpose")
      throw ApiError{400, fmt::format("the form has the field '{}', which is not supported; leave it out", part_name.substr(0, 80)), "unsupported_parameter",
                     part_name.substr(0, 80)};
    purpose += text;
    if (std::ssize(purpose) > kMaxFieldBytes) throw ApiError{400, "purpose must be \"batch\"", "invalid_value", "purpose"};
  };
  if (!call.form(calls.most_file_bytes, part, piece))
    throw ApiError{400, "the body must be a form (multipart/form-data) with the fields file and purpose", "invalid_value"};
  if (!file) throw ApiError{400, "file is missing", "invalid_value", "file"};
  if (purpose != "batch") throw ApiError{400, fmt::format("purpose is '{}'; \"batch\" is supported", purpose.substr(0, 80)), "invalid_value", "purpose"};
  call.answer(200, kJsonType, file->finish(file_name, purpose).json());
}

void list_files(HttpCall& call, const FileStore& files) {
  std::vector<StoredFile> all = files.all();
  if (const std::string order = call.query("order"); order == "desc" || order.empty()) std::reverse(all.begin(), all.end());
  else if (order != "asc") throw ApiError{400, "order must be asc or desc", "invalid_value", "order"};
  if (const std::string purpose = call.query("purpose"); !purpose.empty()) std::erase_if(all, [&](const StoredFile& file) { return file.purpose != purpose; });
  if (const std::string after = call.query("after"); !after.empty()) {
    const auto found = std::find_if(all.begin(), all.end(), [&](const StoredFile& file) { return file.id == after; });
    if (found == all.end()) throw no_file(after);
    all.erase(all.begin(), found + 1);
  }
  const auto limit = static_cast<size_t>(page_of(call, kMaxPage, kMaxPage));
  OrderedJson data = OrderedJson::array();
  for (size_t i = 0; i < std::min(limit, all.size()); ++i) data.push_back(parse_json<OrderedJson>(all[i].json(), "a file"));
  call.answer(200, kJsonType, list_page(std::move(data), all.size() > limit));
}

void send_content(HttpCall& call, const FileStore& files, const std::string& id) {
  if (!files.find(id)) throw no_file(id);
  std::shared_ptr<std::FILE> file(std::fopen(files.path(id).c_str(), "rbe"), [](std::FILE* open) {
    if (open) std::fclose(open);
  });
  if (!file) fail_io("{}: cannot be read", files.path(id));
  call.stream("application/octet-stream", [file](const HttpWrite& write, const HttpGone&) {
    std::string piece(kPieceBytes, '\0');
    for (size_t count; (count = std::fread(piece.data(), 1, piece.size(), file.get())) > 0;)
      if (!write({piece.data(), count})) return;
    if (std::ferror(file.get())) fail_io("a file cannot be read to its end");
  });
}

/// "/v1/files/ID/content" behind `base`: the id, and what follows it.
std::pair<std::string, std::string> parts_of(const std::string& path, std::string_view base) {
  const std::string rest = path.substr(base.size() + 1);
  const size_t slash = rest.find('/');
  return {rest.substr(0, slash), slash == std::string::npos ? "" : rest.substr(slash + 1)};
}

void handle_file(HttpCall& call, const FileCalls& calls) {
  const auto [id, rest] = parts_of(call.path(), kFiles);
  const std::optional<StoredFile> file = calls.files.find(id);
  if (!file) throw no_file(id);
  if (rest == "content" && call.method() == "GET") return send_content(call, calls.files, id);
  if (!rest.empty())
    throw rest == "content" ? wrong_method(call.path(), call.method(), "GET") : ApiError{404, fmt::format("there is no {}", call.path()), "not_found"};
  if (call.method() == "GET") return call.answer(200, kJsonType, file->json());
  if (call.method() != "DELETE") throw wrong_method(call.path(), call.method(), "GET, DELETE");
  if (calls.batches.needs(id)) throw ApiError{409, "a batch that is not done needs the file; cancel it first", "file_in_use", "file_id"};
  calls.files.remove(id);
  call.answer(200, kJsonType, json_text({{"id", id}, {"object", "file"}, {"deleted", true}}));
}

void create_batch(HttpCall& call, BatchDesk& batches) { call.answer(200, kJsonType, batches.create(object_body(call.body(kMaxCreateBytes).text))); }

void handle_batch(HttpCall& call, BatchDesk& batches) {
  const auto [id, rest] = parts_of(call.path(), kBatches);
  if (rest.empty() && call.method() == "GET") return call.answer(200, kJsonType, batches.find(id));
  if (rest == "cancel" && call.method() == "POST") return call.answer(200, kJsonType, batches.cancel(id));
  if (rest.empty() || rest == "cancel") throw wrong_method(call.path(), call.method(), rest.empty() ? "GET" : "POST");
  throw ApiError{404, fmt::format("there is no {}", call.path()), "not_found"};
}

}  // namespace

bool FileCalls::handle(HttpCall& call) const {
  const std::string& path = call.path();
  if (path == kFiles) {
    if (call.method() == "POST") upload(call, *this);
    else if (call.method() == "GET") list_files(call, files);
    else throw wrong_method(call.path(), call.method(), "GET, POST");
  } else if (path == kBatches) {
    if (call.method() == "POST") create_batch(call, batches);
    else if (call.method() == "GET")
      call.answer(200, kJsonType, batches.list(call.query("after"), static_cast<size_t>(page_of(call, kUsualBatchPage, kMaxBatchPage))));
    else throw wrong_method(call.path(), call.method(), "GET, POST");
  } else if (path.starts_with(std::string(kFiles) + "/")) {
    handle_file(call, *this);
  } else if (path.starts_with(std::string(kBatches) + "/")) {
    handle_batch(call, batches);
  } else {
    return false;
  }
  return true;
}

}  // namespace flexgen
