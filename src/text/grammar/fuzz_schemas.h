#pragma once
// For fuzz targets: values and schemas made of bytes.

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>

#include "base/fuzz_choices.h"

namespace flexgen::fuzz {

using Json = nlohmann::json;

inline const char* one_of(FuzzChoices& choose, std::initializer_list<const char*> among) { return among.begin()[choose.below(among.size())]; }

inline Json any_value(FuzzChoices& choose, int depth = 3) {
  switch (choose.below(depth > 0 ? 14 : 7)) {
    case 0: return nullptr;
    case 1: return true;
    case 2: return -1;
    case 3: return 1e300;
    case 4: return uint64_t{1} << 63;
    case 5: return Json::array();
    case 6: return Json::object();
    case 7: return Json::array({any_value(choose, depth - 1), any_value(choose, depth - 1)});
    case 8: return {{one_of(choose, {"a", "type", "name", "function", "json", ""}), any_value(choose, depth - 1)}};
    case 9: return choose.byte();
    default: return one_of(choose, {"", "a", "auto", "required", "function", "text", "json_schema", "é", "{\"a\":1}", "none"});
  }
}

/// Many can be honoured.
inline Json schema_of(FuzzChoices& choose, int depth) {
  if (choose.rarely()) return any_value(choose);
  Json schema = Json::object();
  if (choose.below(8) > 0)
    schema["type"] =
        choose.rarely() ? Json::array({"string", "null"}) : Json(one_of(choose, {"object", "string", "integer", "array", "number", "boolean", "null"}));
  for (size_t i = choose.below(5); i > 0; --i) switch (choose.below(depth > 0 ? 18 : 12)) {
      case 0: schema["minLength"] = choose.byte(); break;
      case 1: schema["maxLength"] = choose.byte(); break;
      case 2: schema["pattern"] = one_of(choose, {"^a+$", "[a-z]{2,3}", "(a|b)*c", "a{,5}", "(?=a)", "\\d+", "[", "a{1000}", "((a+)+)+"}); break;
      case 3: schema["format"] = one_of(choose, {"date", "email", "uuid", "x"}); break;
      case 4: schema["minimum"] = choose.rarely() ? any_value(choose) : Json(choose.byte() - 100); break;
      case 5: schema["maximum"] = choose.rarely() ? any_value(choose) : Json(choose.byte()); break;
      case 6: schema["enum"] = Json::array({any_value(choose), "b"}); break;
      case 7: schema["const"] = any_value(choose); break;
      case 8: schema["required"] = Json::array({one_of(choose, {"a", "b", "c"})}); break;
      case 9: schema["minItems"] = choose.byte(); break;
      case 10: schema["$ref"] = one_of(choose, {"#", "#/properties/a", "#/$defs/x", "http://x"}); break;
      case 11:
        schema[one_of(choose, {"multipleOf", "not", "title", "if", "maxItems", "uniqueItems", "description", "minProperties"})] = any_value(choose);
        break;
      case 12:
      case 13:
      case 14: schema["properties"][one_of(choose, {"a", "b", "a b", ""})] = schema_of(choose, depth - 1); break;
      case 15: schema["items"] = schema_of(choose, depth - 1); break;
      case 16:
        schema[one_of(choose, {"anyOf", "oneOf", "allOf", "prefixItems"})] = Json::array({schema_of(choose, depth - 1), schema_of(choose, depth - 1)});
        break;
      default: schema[one_of(choose, {"additionalProperties", "propertyNames", "$defs"})] = schema_of(choose, depth - 1); break;
    }
  return schema;
}

}  // namespace flexgen::fuzz
