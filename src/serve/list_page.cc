#include "serve/list_page.h"

#include <utility>

#include "batch/answer_json.h"

namespace flexgen {

std::string list_page(nlohmann::ordered_json data, bool has_more) {
  nlohmann::ordered_json page{{"object", "list"}, {"data", nullptr}, {"first_id", nullptr}, {"last_id", nullptr}, {"has_more", has_more}};
  if (!data.empty()) {
    page["first_id"] = data.front()["id"];
    page["last_id"] = data.back()["id"];
  }
  page["data"] = std::move(data);
  return json_text(page);
}

}  // namespace flexgen
