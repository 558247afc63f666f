#pragma once
// What the values of functions' parameters may be, as schemas say it: what calls in XML are read by (text/xml_calls.h). Pure functions; any thread.

#include <nlohmann/json.hpp>
#include <string>

#include "text/xml_calls.h"

namespace flexgen {

/// As the schemas of `tools` (a request's) say it: by `type`, `enum` and `const`, and those of `anyOf`, `oneOf`, `allOf` and references; parameters stand in `properties`, those of `allOf` and
/// behind references too. Where tools refer to others too often for the bound on the work, parameters may be any.
ParameterTypes parameter_types(const jinja::Value& tools);

/// Those of one function, by the schema of its arguments, in the place of what is known of it. False: it refers to others too often.
bool set_parameter_types(const std::string& function, const nlohmann::ordered_json& schema, ParameterTypes* types);

}  // namespace flexgen
