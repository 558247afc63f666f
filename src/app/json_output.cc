#include "app/json_output.h"

#include "base/report.h"
#include "io/whole_file.h"

namespace flexgen {

void put_json(const std::string& text, const std::string& file) {
  if (file.empty()) write_result(text + "\n");
  else write_whole_file(file, text + "\n");
}

}  // namespace flexgen
