#pragma once
// HttpPart: what stands at the head of a form's part. Pure data.

#include <string>

namespace flexgen {

struct HttpPart {
  std::string name, file_name;
};

}  // namespace flexgen
