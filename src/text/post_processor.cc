#include "text/post_processor.h"

#include "base/error.h"
#include "io/checked_json.h"
#include "text/pipeline.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;

int32_t id_of(const Json& id, const std::string& name, const std::string& source) {
  constexpr int64_t kMaxId = 10'000'000;
  if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<uint64_t>() > kMaxId)
    fail_user("{}: the template's token '{}' has the id {}", source, printable(name), shown(id));
  return id.get<int32_t>();
}

PostProcessor read_template(const Json& json, const std::string& source) {
  PostProcessor result;
  const Json& specials = json_field(json, "special_tokens", source);
  int texts = 0;
  for (const Json& part : json_list(json, "single", source)) {
    if (part.is_object() && part.contains("Sequence")) {
      if (json_text(part["Sequence"], "id", source) != "A") fail_user("{}: the template for one text puts a second text in it", source);
      ++texts;
      continue;
    }
    const std::string name = json_text(json_field(part, "SpecialToken", source), "id", source);
    const Json& ids = json_list(json_field(specials, name.c_str(), source), "ids", source);
    if (result.before.size() + result.behind.size() + ids.size() > kMaxTemplateTokens)
      fail_user("{}: the template puts more than {} tokens around a text; flexgen refuses that", source, kMaxTemplateTokens);
    for (const Json& id : ids) (texts > 0 ? result.behind : result.before).push_back(id_of(id, name, source));
  }
  if (texts != 1) fail_user("{}: the template puts the text in {} times, not once", source, texts);
  return result;
}

/// ["</s>", 2]
int32_t pair_id(const Json& json, const char* field, const std::string& source) {
  const Json& pair = json_list(json, field, source);
  if (pair.size() != 2 || !pair[0].is_string()) fail_user("{}: the field '{}' of the post-processor is no token and id", source, field);
  return id_of(pair[1], pair[0].get<std::string>(), source);
}

bool adds_nothing(const Json& json, const std::string& source) { return json_text(json, "type", source) == "ByteLevel"; }  // offsets only

}  // namespace

PostProcessor read_post_processor(const Json& json, const std::string& source) {
  if (json.is_null()) return {};
  const std::string type = json_text(json, "type", source);
  if (adds_nothing(json, source)) return {};
  if (type == "TemplateProcessing") return read_template(json, source);
  if (type == "RobertaProcessing" || type == "BertProcessing") return {{pair_id(json, "cls", source)}, {pair_id(json, "sep", source)}};
  if (type != "Sequence") fail_user("{}: the post-processor '{}' is not supported", source, printable(type));
  PostProcessor result;
  int adding = 0;
  for (const Json& step : json_list(json, "processors", source)) {
    if (adds_nothing(step, source)) continue;
    if (++adding > 1) fail_user("{}: a sequence of two post-processors that put tokens around a text is not supported", source);
    result = read_post_processor(step, source);
  }
  return result;
}

}  // namespace flexgen
